//go:build linux

package ring

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// withFilter runs f on a thread of its own, on which the kernel answers one
// system call with errno. The thread ends with f: the filter cannot be removed.
// This is how containers refuse io_uring.
func withFilter(t *testing.T, call uintptr, errno syscall.Errno, f func()) {
	t.Helper()
	mem, err := Map(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(mem)
	program := filterProgram(mem, call, errno)
	done := make(chan error)
	go func() {
		// Never unlocked, so that the thread ends. Threads that Go starts
		// meanwhile do not inherit the filter: it clones them from another one.
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, program, 0, 0)
		}
		if err == nil {
			defer close(done)
			f()
			return
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("this kernel has no seccomp filters: %v", err)
	}
}

// filterProgram writes into mem a struct sock_fprog and the classic BPF program
// that it points to: answer call with errno, allow everything else. It returns
// the address of the sock_fprog.
func filterProgram(mem []byte, call uintptr, errno syscall.Errno) uintptr {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(call), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	code := mem[16:16]
	for _, f := range program {
		code = binary.NativeEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.NativeEndian.AppendUint32(code, f.K)
	}
	binary.NativeEndian.PutUint16(mem, uint16(len(program)))
	binary.NativeEndian.PutUint64(mem[8:], sys.Address(code))
	return uintptr(sys.Address(mem))
}
