//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageBytes is the size of a page of memory.
var PageBytes = syscall.Getpagesize()

// Map returns n bytes of zeroed memory outside the Go heap, on a page boundary.
// Neither the garbage collector nor a growing stack ever moves it, so the kernel
// may hold its address for as long as it is mapped. Pages cost nothing until
// they are touched. The caller owns it and gives it back with [Unmap].
// Safe for concurrent use.
func Map(n int) ([]byte, error) {
	if n <= 0 {
		return nil, fmt.Errorf("map %d bytes of memory: the size must be positive", n)
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", n, err)
	}
	// A forked child must not share queues or buffers with us (uring.md,
	// pitfall 21). Best effort: Go itself only ever forks to exec.
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	return mem, nil
}

// Unmap gives memory from [Map] back. The kernel must have no operation on it.
func Unmap(mem []byte) error {
	if mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

// DontNeed tells the kernel that the contents of mem, which came from [Map], are
// no longer wanted: its pages are freed and read as zero when touched again.
func DontNeed(mem []byte) error { return unix.Madvise(mem, unix.MADV_DONTNEED) }

// Address returns where b's bytes are, for an entry that the kernel reads.
//
// b must stay where it is and reachable until the operation's last completion:
// memory from [Map], or heap memory held by a runtime.Pinner. The bytes are made
// to escape, since an array on a goroutine's stack moves when the stack grows.
func Address(b []byte) uint64 { return addressOf(unsafe.Pointer(unsafe.SliceData(b))) }

// addressOf is Address for memory of any type.
func addressOf(p unsafe.Pointer) uint64 {
	if escapes {
		escaped = p
	}
	return uint64(uintptr(p))
}

// escapes is never true, which the compiler cannot know: it makes addressOf's
// argument escape to the heap without a store on the way.
var (
	escaped unsafe.Pointer
	escapes = escaped != nil
)
