//go:build linux

package ring

import (
	"runtime"
	"syscall"
	"testing"

	"example.com/ringnet/internal/forbid"
)

// withFilter runs f on a thread of its own, on which the kernel answers one
// system call with errno. The thread ends with f: the filter cannot be removed.
// This is how containers refuse io_uring.
func withFilter(t *testing.T, call uintptr, errno syscall.Errno, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		// Never unlocked, so that the thread ends. Threads that Go starts
		// meanwhile do not inherit the filter: it clones them from another one.
		runtime.LockOSThread()
		if err := forbid.Calls(errno, call); err != nil {
			done <- err
			return
		}
		defer close(done)
		f()
	}()
	if err := <-done; err != nil {
		t.Skipf("this kernel has no seccomp filters: %v", err)
	}
}
