//go:build linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotSupported matches (errors.Is) every error that says the running kernel
// lacks something.
var ErrNotSupported = errors.New("not supported by this kernel")

// SetupError says why io_uring cannot be had. Its text names the likely cause and
// what would mend it.
type SetupError struct {
	Cause string // what is wrong
	Mend  string // what would mend it
	Err   error  // the kernel's errno
}

// Error implements error.
func (e *SetupError) Error() string {
	return fmt.Sprintf("set up io_uring: %v: %s; %s", e.Err, e.Cause, e.Mend)
}

// Unwrap gives the errno.
func (e *SetupError) Unwrap() error { return e.Err }

// Is makes a refused or missing io_uring match ErrNotSupported; a lack of memory
// or descriptors is not that.
func (e *SetupError) Is(target error) bool {
	if target != ErrNotSupported {
		return false
	}
	return errors.Is(e.Err, unix.EPERM) || errors.Is(e.Err, unix.ENOSYS) || errors.Is(e.Err, unix.EACCES) || errors.Is(e.Err, unix.EINVAL)
}

// sysctlDisabled is where the kernel says who may use io_uring. Since Linux 6.6.
const sysctlDisabled = "/proc/sys/kernel/io_uring_disabled"

// setupError explains an errno of io_uring_setup(2).
func setupError(err error) error {
	e := &SetupError{Err: err}
	disabled := ""
	if b, readErr := os.ReadFile(sysctlDisabled); readErr == nil {
		disabled = strings.TrimSpace(string(b))
	}
	switch {
	case errors.Is(err, unix.EPERM) && disabled == "2":
		e.Cause = "kernel.io_uring_disabled is 2, which forbids io_uring to everybody"
		e.Mend = "allow it with 'sysctl -w kernel.io_uring_disabled=0'"
	case errors.Is(err, unix.EPERM) && disabled == "1" && os.Geteuid() != 0:
		e.Cause = "kernel.io_uring_disabled is 1, which allows io_uring only to CAP_SYS_ADMIN and to members of kernel.io_uring_group"
		e.Mend = "allow it with 'sysctl -w kernel.io_uring_disabled=0', or join the group"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Cause = "a seccomp filter or security module refuses io_uring, as Docker's default profile and Kubernetes' RuntimeDefault do"
		e.Mend = "run the container with a profile that allows io_uring_setup, io_uring_enter and io_uring_register ('--security-opt seccomp=profile.json')"
	case errors.Is(err, unix.ENOSYS):
		e.Cause = "this kernel has no io_uring, or a seccomp filter or sandbox (gVisor) hides it"
		e.Mend = "use Linux " + KernelFloor + " or later with CONFIG_IO_URING, and allow the io_uring system calls"
	case errors.Is(err, unix.EINVAL):
		e.Cause = "this kernel's io_uring knows too little"
		e.Mend = "use Linux " + KernelFloor + " or later"
	case errors.Is(err, unix.ENOMEM):
		e.Cause = "there is no memory for the queues: the memory cgroup is full, or RLIMIT_MEMLOCK is too small"
		e.Mend = "use smaller queues, give the cgroup more memory, or raise 'ulimit -l'"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		e.Cause = "no descriptor is free for the ring"
		e.Mend = "raise the limit of open files ('ulimit -n' or LimitNOFILE=), or close some"
	default:
		e.Cause = "the kernel refused"
		e.Mend = "see io_uring_setup(2) for this errno"
	}
	return e
}
