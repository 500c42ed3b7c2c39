//go:build linux

// Init is the first and only program of the guest that kernels/run boots. It sets
// up what tests expect of a machine, runs every test binary under /tests, writes
// what came of it to the second serial line, and switches off.
//
//	/tests/packages      their folders below /tests, one on each line, in order
//	/tests/flags         one flag for the test binaries on each line
//	/tests/<folder>/test the binary, run where it lies
//
// The kernel hands it what stands on its command line as NAME=value in the
// environment, and it hands that on to the tests.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init switches the machine off when it has run: kernels/run boots it in a guest")
		os.Exit(2)
	}
	err := run()
	if err != nil {
		fmt.Println("init:", err)
	}
	unix.Sync()
	// Leaving would be a panic, which ends the guest as well: it has -no-reboot.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	if err := mount(); err != nil {
		return err
	}
	results, err := serial("/dev/ttyS1")
	if err != nil {
		return err
	}
	if err := errors.Join(loopback(), limits(), sysctls(), names(), devices()); err != nil {
		return err
	}
	kernel, features, err := engine()
	if err != nil {
		fmt.Fprintf(results, "none\t%s\t%v\n", kernel, err)
		return err
	}
	fmt.Fprintf(results, "kernel\t%s\t%s\n", kernel, features)
	clock, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	fmt.Printf("init: %s, clock %s, io_uring with %s\n", kernel, strings.TrimSpace(string(clock)), features)

	flags, err := lines("/tests/flags")
	if err != nil {
		return err
	}
	packages, err := lines("/tests/packages")
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(os.Getenv("RINGNET_INIT_LIMIT") + "s")
	if err != nil {
		return err
	}
	for _, p := range packages {
		fmt.Printf("init: %s\n", p)
		began := time.Now()
		// The binary ends itself, with its stacks, at its own limit.
		o, ended := test(filepath.Join("/tests", p), flags, limit+20*time.Second)
		o.write(results, p, ended, time.Since(began))
	}
	_, err = fmt.Fprintf(results, "end\t%s\n", kernel)
	return err
}

// lines are those of a file that are not empty.
func lines(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' }), nil
}

func mount() error {
	for _, m := range []struct{ kind, where, data string }{
		{kind: "proc", where: "/proc"},
		{kind: "sysfs", where: "/sys"},
		{kind: "devtmpfs", where: "/dev"},
		{kind: "tmpfs", where: "/dev/shm"},
		{kind: "tmpfs", where: "/tmp", data: "mode=1777"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.where, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

// serial opens a serial line that passes lines on as they are.
func serial(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// loopback brings the loopback device up: the kernel gives it 127.0.0.1 and ::1.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return nil
}

func limits() error {
	const files = 20000
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
}

// sysctls lets sockets have the buffers that some tests need.
func sysctls() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/core/rmem_max", []byte("4194304"), 0),
		os.WriteFile("/proc/sys/net/core/wmem_max", []byte("4194304"), 0),
	)
}

// names gives the machine those that Go's resolver and tests look up.
func names() error {
	return errors.Join(
		os.MkdirAll("/etc", 0o755),
		os.MkdirAll("/root", 0o700),
		unix.Sethostname([]byte("guest")),
		os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost guest\n::1 localhost\n"), 0o644),
		os.Setenv("HOME", "/root"),
		os.Setenv("PATH", "/bin"),
		os.Setenv("GOTRACEBACK", "all"),
	)
}

// engine is the kernel's release and which features the library finds in it; an
// error when there is no io_uring.
func engine() (kernel, features string, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?", "", err
	}
	kernel = unix.ByteSliceToString(u.Release[:])
	r, err := ring.New(ring.Config{Engine: ring.Uring})
	if err != nil {
		return kernel, "", err
	}
	return kernel, r.Features().String(), r.Close()
}

// test runs the binary of one package. ended is "ok", or how it did not end well.
func test(folder string, flags []string, limit time.Duration) (o *outcome, ended string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(folder, "test"), append(flags, "-test.v=test2json")...)
	cmd.Dir = folder
	o = newOutcome(os.Stdout)
	cmd.Stdout, cmd.Stderr = o, o
	// SIGQUIT has Go print all stacks. What still runs some time later is killed,
	// and children that keep the output open are not waited for.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGQUIT) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return o, "hung"
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return o, err.Error()
	}
	return o, "ok"
}
