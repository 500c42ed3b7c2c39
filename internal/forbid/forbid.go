//go:build linux

// Package forbid has the kernel refuse system calls to a thread, as containers
// do. Only tests import it.
package forbid

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// Calls makes the kernel answer calls with errno on the calling thread and on
// those that it starts, for good: the goroutine should be locked to its thread and
// never unlocked. An error says that there are no such filters here.
func Calls(errno syscall.Errno, calls ...uintptr) error {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	for _, call := range calls {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(call), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	// struct sock_fprog, and behind it what it points to.
	mem, err := sys.Map(sys.PageBytes)
	if err != nil {
		return err
	}
	defer sys.Unmap(mem)
	code := mem[16:16]
	for _, f := range program {
		code = binary.NativeEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.NativeEndian.AppendUint32(code, f.K)
	}
	binary.NativeEndian.PutUint16(mem, uint16(len(program)))
	binary.NativeEndian.PutUint64(mem[8:], sys.Address(code))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(sys.Address(mem)), 0, 0)
}

// Uring is Calls for io_uring, as Docker's default profile refuses it.
func Uring() error {
	return Calls(unix.EPERM, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER)
}

// Variable in the environment of a test binary whose TestMain calls Again makes
// io_uring forbidden to the whole process.
const Variable = "RINGNET_TEST_FORBID_URING"

// Again runs this program anew without io_uring, if the environment asks for it;
// else it does nothing. It does not return when it fails.
func Again() {
	if os.Getenv(Variable) == "" {
		return
	}
	runtime.LockOSThread()
	_ = os.Unsetenv(Variable)
	self, err := os.Executable()
	if err == nil {
		if err = Uring(); err == nil {
			err = syscall.Exec(self, os.Args, os.Environ()) // all threads are this one's
		}
	}
	fmt.Fprintf(os.Stderr, "forbid io_uring: %v\n", err)
	os.Exit(3)
}
