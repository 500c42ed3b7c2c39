//go:build linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// The errno is the kernel's own answer, which a seccomp filter makes it give.
func TestNewExplainsWhyIoUringCannotBeHad(t *testing.T) {
	tests := []struct {
		errno       syscall.Errno
		unsupported bool
		says        []string
	}{
		{errno: unix.EPERM, unsupported: true, says: []string{"seccomp", "--security-opt"}},
		{errno: unix.EACCES, unsupported: true, says: []string{"seccomp", "security module"}},
		{errno: unix.ENOSYS, unsupported: true, says: []string{"no io_uring", "Linux " + KernelFloor, "CONFIG_IO_URING"}},
		{errno: unix.EINVAL, unsupported: true, says: []string{"knows too little", "Linux " + KernelFloor}},
		{errno: unix.ENOMEM, says: []string{"memory cgroup", "ulimit -l"}},
		{errno: unix.EMFILE, says: []string{"descriptor", "ulimit -n", "LimitNOFILE"}},
		{errno: unix.ENFILE, says: []string{"descriptor"}},
		{errno: unix.EIO, says: []string{"io_uring_setup(2)"}},
	}
	for _, tt := range tests {
		t.Run(unix.ErrnoName(tt.errno), func(t *testing.T) {
			withFilter(t, unix.SYS_IO_URING_SETUP, tt.errno, func() {
				r, err := New(Config{Engine: Uring})
				if err == nil {
					t.Error("a ring was made")
					_ = r.Close()
					return
				}
				setup, ok := errors.AsType[*SetupError](err)
				if !ok || setup.Cause == "" || setup.Mend == "" {
					t.Errorf("%v is no SetupError with a cause and a mend", err)
				}
				if !errors.Is(err, tt.errno) {
					t.Errorf("%v does not match %v", err, tt.errno)
				}
				if errors.Is(err, ErrNotSupported) != tt.unsupported {
					t.Errorf("%v matches ErrNotSupported: %v, want %v", err, !tt.unsupported, tt.unsupported)
				}
				for _, s := range append(tt.says, tt.errno.Error(), "set up io_uring") {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q does not say %q", err, s)
					}
				}
				wantFallback(t, err, tt.unsupported || tt.errno == unix.ENOMEM)
			})
		})
	}
}

// wantFallback checks what Auto does where io_uring fails with reason.
func wantFallback(t *testing.T, reason error, falls bool) {
	t.Helper()
	r, err := New(Config{})
	if err != nil {
		if falls || err.Error() != reason.Error() {
			t.Errorf("Auto: %v, want the error of io_uring or a fallback (%v): %v", err, falls, reason)
		}
		return
	}
	defer r.Close()
	if !falls || r.Engine() != Epoll || r.Reason() == nil || r.Reason().Error() != reason.Error() {
		t.Errorf("Auto took %v because of %v, want a fallback (%v) because of: %v", r.Engine(), r.Reason(), falls, reason)
	}
}

// A mount namespace of its own has another value in the sysctl's file; the rest
// of the machine does not see it.
func TestNewNamesTheSysctlThatRefusesIoUring(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat(sysctlDisabled); err != nil {
		t.Skipf("this kernel has no such sysctl (Linux 6.6): %v", err)
	}
	inChild(t, "sysctl texts", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS})
}

func sysctlTexts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	file, err := os.CreateTemp("", "io_uring_disabled")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if err := unix.Mount(file.Name(), sysctlDisabled, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("put a file over %s: %w", sysctlDisabled, err)
	}
	_ = os.Remove(file.Name()) // as long as we may
	tests := []struct {
		value string
		user  int
		says  string
	}{
		{value: "2", says: "kernel.io_uring_disabled is 2"},
		{value: "1", says: "seccomp"}, // root would be allowed: something else refuses
		{value: "0", says: "seccomp"},
		{value: "0", user: 65534, says: "seccomp"},
		{value: "1", user: 65534, says: "kernel.io_uring_disabled is 1"},
		{value: "2", user: 65534, says: "kernel.io_uring_disabled is 2"},
	}
	for _, tt := range tests {
		if _, err := file.WriteAt([]byte(tt.value+"\n"), 0); err != nil {
			return err
		}
		if os.Getuid() != tt.user {
			if err := syscall.Setuid(tt.user); err != nil {
				return err
			}
		}
		err := setupError(unix.EPERM)
		if !strings.Contains(err.Error(), tt.says) {
			return fmt.Errorf("sysctl %s, user %d: %q does not say %q", tt.value, tt.user, err, tt.says)
		}
		mend := strings.Contains(err.Error(), "sysctl -w kernel.io_uring_disabled=0")
		if mend != strings.Contains(tt.says, "kernel.io_uring_disabled") {
			return fmt.Errorf("sysctl %s, user %d: %q", tt.value, tt.user, err)
		}
		if !errors.Is(err, ErrNotSupported) {
			return fmt.Errorf("sysctl %s, user %d: %q does not match ErrNotSupported", tt.value, tt.user, err)
		}
	}
	return nil
}

func TestWithoutFreeDescriptorsNothingIsTakenForMissingAndNothingLeaks(t *testing.T) {
	inChild(t, "few descriptors", nil)
}

func fewDescriptors() error {
	supported := map[Features]bool{}
	for i := range featureNames {
		f := Features(1 << i)
		supported[f] = Have(f) == nil
	}
	const most = 48
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		return err
	}
	openCount := func() (n int) {
		for fd := range most {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				n++
			}
		}
		return n
	}
	for free := range 6 {
		var taken []int
		for {
			fd, err := sys.NewEventFd()
			if errors.Is(err, unix.EMFILE) {
				break
			}
			if err != nil {
				return err
			}
			taken = append(taken, fd)
		}
		for range free {
			sys.Close(taken[len(taken)-1])
			taken = taken[:len(taken)-1]
		}
		before := openCount()
		r, err := New(Config{})
		switch {
		case free > 0 && err != nil:
			return fmt.Errorf("%d free: %w", free, err)
		case free > 0:
			if err := r.Close(); err != nil {
				return err
			}
		default:
			if setup, ok := errors.AsType[*SetupError](err); !ok || !errors.Is(setup.Err, unix.EMFILE) ||
				!strings.Contains(err.Error(), "ulimit -n") || errors.Is(err, ErrNotSupported) {
				return fmt.Errorf("none free: ring error %v", err)
			}
			w, err := NewWaker(&Ring{cfg: Config{Mask: SyncMessage}}, 1)
			if !errors.Is(err, unix.EMFILE) {
				return fmt.Errorf("none free: waker %v, error %v", w, err)
			}
		}
		for i := range featureNames {
			f := Features(1 << i)
			probes[i].known = false
			err := Have(f)
			if supported[f] && errors.Is(err, ErrNotSupported) {
				return fmt.Errorf("%d free: %v is said to be missing: %w", free, f, err)
			}
			// What is missing the kernel may say before it looks for a descriptor.
			if free == 0 && supported[f] && (err == nil || !strings.Contains(err.Error(), "cannot tell") || probes[i].known) {
				return fmt.Errorf("none free: %v: %v, remembered %v", f, err, probes[i].known)
			}
			if free == 5 && supported[f] != (err == nil) {
				return fmt.Errorf("%d free: %v: %w", free, f, err)
			}
			if after := openCount(); after != before {
				return fmt.Errorf("%d free: probing %v left %d descriptors open (%v)", free, f, after-before, err)
			}
		}
		for _, fd := range taken {
			sys.Close(fd)
		}
	}
	return nil
}

func TestLackOfLockedMemoryIsExplained(t *testing.T) {
	needRoot(t)
	inChild(t, "little memlock", nil)
}

// The limit counts for all processes of a user together, and what a closed ring
// had is given back some time after the close: this user has nothing else.
func littleMemlock() error {
	runtime.LockOSThread()
	const allowed, user = 2 << 20, 65533
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: allowed, Max: allowed}); err != nil {
		return err
	}
	if err := syscall.Setuid(user); err != nil { // CAP_IPC_LOCK goes with the user
		return err
	}
	r, err := New(Config{})
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Enable(); err != nil {
		return err
	}
	mem, err := Map(2 * allowed)
	if err != nil {
		return err
	}
	defer Unmap(mem)
	err = r.RegisterBuffers([][]byte{mem})
	if !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "ulimit -l") || !strings.Contains(err.Error(), fmt.Sprint(allowed)) {
		return fmt.Errorf("register 4 MiB of buffers where 2 MiB may be locked: %v", err)
	}
	if err := r.RegisterBuffers([][]byte{mem[:4096]}); err != nil {
		return fmt.Errorf("register what may be locked: %w", err)
	}

	// The queues of the largest ring are 3 MiB. Linux 6.18 counts them (97 rings
	// of the default size fit into 8 MiB), which Linux 5.12 to 6.1 did not.
	large, err := New(Config{EntryCount: 32768})
	if err == nil {
		return large.Close()
	}
	if !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") || !strings.Contains(err.Error(), "ulimit -l") {
		return fmt.Errorf("a ring of 3 MiB where 2 MiB may be locked: %w", err)
	}
	if strings.Contains(err.Error(), "before 5.12") {
		return fmt.Errorf("this kernel is not before 5.12: %w", err)
	}
	return nil
}

func TestRegisteringTwiceAndTakingBackWhatIsNotThereAreErrors(t *testing.T) {
	r := open(t, Config{})
	br, _ := r.group(1, 2, 16)
	tests := []struct {
		name string
		err  error
		is   error
		says string
	}{
		{"a group twice", r.RegisterBufRing(1, br), unix.EEXIST, "register buffer ring: file exists: already registered"},
		{"a group that is not there", r.UnregisterBufRing(100), unix.ENOENT, "register buffer ring"},
		{"no table", r.UnregisterFiles(), unix.ENXIO, "register direct descriptors"},
		{"a place in no table", r.UpdateFiles(0, []int32{-1}), unix.ENXIO, "register direct descriptors"},
		{"no buffers", r.UnregisterBuffers(), unix.ENXIO, "register buffers"},
		{"memory that is none", r.RegisterBuffers([][]byte{nil}), nil, ""},
		{"more descriptors than a process may have", r.RegisterFiles(1 << 30), unix.EMFILE, "ulimit -n"},
		{"a table", r.RegisterFiles(8), nil, ""},
		{"a table twice", r.RegisterFiles(8), unix.EBUSY, "register direct descriptors"},
		{"beyond the table", r.UpdateFiles(8, []int32{-1}), unix.EINVAL, "register direct descriptors"},
		{"a table", r.UnregisterFiles(), nil, ""},
	}
	for _, tt := range tests {
		if tt.is == nil && tt.err != nil || !errors.Is(tt.err, tt.is) || tt.err != nil && !strings.Contains(tt.err.Error(), tt.says) {
			t.Errorf("%s: %v, want %v: %q", tt.name, tt.err, tt.is, tt.says)
		}
	}
}

func TestSetupErrorUnwrapsToItsErrno(t *testing.T) {
	e := &SetupError{Cause: "the cause", Mend: "the mend", Err: unix.EPERM}
	if got, want := e.Error(), "set up io_uring: operation not permitted: the cause; the mend"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(e, unix.EPERM) || errors.Is(e, unix.ENOSYS) || !errors.Is(e, ErrNotSupported) {
		t.Error("SetupError matches the wrong errors")
	}
}
