//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Uring is an io_uring instance: its descriptor and its mapped queues.
//
// With SINGLE_ISSUER the kernel accepts Enter and Register only from the thread
// that called Enable (or Setup, without R_DISABLED); others get EEXIST.
type Uring struct {
	Queues
	Params Params

	fd         int
	enterFd    uintptr // fd, or its index once registered on this thread
	enterFlags uintptr // IORING_ENTER_REGISTERED_RING, once registered

	// wait is the argument of a wait with a timeout. It lives in mapped memory:
	// the kernel reads it through an address inside a structure, where neither
	// the stack nor the collector can follow it.
	wait    *waitArg
	scratch []byte
}

type waitArg struct {
	arg geteventsArg
	ts  timespec
}

// Setup calls io_uring_setup(2) and maps the queues. The errno is the kernel's:
// EPERM and ENOSYS when io_uring is forbidden, EINVAL for a flag it does not know.
// Since Linux 5.4 (single mapping of both queues).
func Setup(entries uint32, p Params) (*Uring, error) {
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	runtime.KeepAlive(&p)
	if errno != 0 {
		return nil, errno
	}
	u := &Uring{Params: p, fd: int(fd), enterFd: fd}
	if err := u.mapQueues(); err != nil {
		_ = u.Close()
		return nil, err
	}
	return u, nil
}

func (u *Uring) mapQueues() error {
	p := &u.Params
	if p.Features&IORING_FEAT_SINGLE_MMAP == 0 {
		return fmt.Errorf("map queues: this kernel maps them apart (before Linux 5.4): %w", unix.ENOSYS)
	}
	sqBytes := p.sqOff.Array + p.SQEntries*4
	if p.Flags&IORING_SETUP_NO_SQARRAY != 0 {
		// There is no index array then, and sqOff.Array is zero.
		sqBytes = 0
	}
	ringBytes := max(sqBytes, p.cqOff.Cqes+p.CQEntries*16)
	ringMem, err := mapShared(u.fd, IORING_OFF_SQ_RING, int(ringBytes))
	if err != nil {
		return fmt.Errorf("map queues (%d bytes): %w", ringBytes, err)
	}
	u.maps = append(u.maps, ringMem)
	sqeMem, err := mapShared(u.fd, IORING_OFF_SQES, int(p.SQEntries)*64)
	if err != nil {
		return fmt.Errorf("map submission entries (%d bytes): %w", p.SQEntries*64, err)
	}
	u.maps = append(u.maps, sqeMem)
	if u.scratch, err = Map(PageBytes); err != nil {
		return err
	}
	u.wait = (*waitArg)(unsafe.Pointer(&u.scratch[0]))
	u.wait.arg.Ts = Address(u.scratch) + uint64(unsafe.Offsetof(u.wait.ts))

	q := &u.Queues
	q.sqHead, q.sqTail = word(ringMem, p.sqOff.Head), word(ringMem, p.sqOff.Tail)
	q.sqFlags, q.sqDropped = word(ringMem, p.sqOff.Flags), word(ringMem, p.sqOff.Dropped)
	q.sqMask, q.sqCount = *word(ringMem, p.sqOff.RingMask), p.SQEntries
	q.sqes = unsafe.Slice((*Entry)(unsafe.Pointer(&sqeMem[0])), p.SQEntries)
	q.tail = *q.sqTail
	q.cqHead, q.cqTail = word(ringMem, p.cqOff.Head), word(ringMem, p.cqOff.Tail)
	q.cqOverflow = word(ringMem, p.cqOff.Overflow)
	q.cqMask, q.cqCount = *word(ringMem, p.cqOff.RingMask), p.CQEntries
	q.cqes = unsafe.Slice((*Completion)(unsafe.Pointer(&ringMem[p.cqOff.Cqes])), p.CQEntries)
	if p.Flags&IORING_SETUP_NO_SQARRAY == 0 {
		// The kernel looks entries up through this array; slot i is entry i for
		// ever, so that the hot path need not know whether the array exists.
		for i := range p.SQEntries {
			*word(ringMem, p.sqOff.Array+4*i) = i
		}
	}
	return nil
}

// Close unmaps the queues and closes the ring. Operations still in flight are
// cancelled by the kernel some time after: reap them first.
func (u *Uring) Close() error {
	err := u.Queues.release()
	if e := Unmap(u.scratch); err == nil {
		err = e
	}
	u.scratch, u.wait = nil, nil
	if u.fd >= 0 {
		if e := unix.Close(u.fd); err == nil {
			err = e
		}
		u.fd = -1
	}
	return err
}

// Fd is the ring's descriptor.
func (u *Uring) Fd() int { return u.fd }

// Submit hands n entries to the kernel and does not look for completions.
// It never blocks, so the scheduler is not told.
func (u *Uring) Submit(n uint32) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, u.enterFd, uintptr(n), 0, u.enterFlags, 0, 0)
	return int(r), errno
}

// Poll hands n entries to the kernel and runs deferred task work, so that every
// completion that can be had is in the queue. It never blocks; the scheduler is
// not told, which is why callers keep n bounded: a stop-the-world waits for it.
func (u *Uring) Poll(n uint32) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, u.enterFd, uintptr(n), 0,
		u.enterFlags|IORING_ENTER_GETEVENTS, 0, 0)
	return int(r), errno
}

// Wait hands n entries to the kernel and blocks until min completions are there
// or timeout has passed (ETIME); a negative timeout is none. The scheduler is
// told, so other goroutines run meanwhile. A signal ends it with EINTR, or with
// the number of entries when some were submitted. Timeouts since Linux 5.11.
func (u *Uring) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	flags := u.enterFlags | IORING_ENTER_GETEVENTS
	var arg unsafe.Pointer
	var size uintptr
	if timeout >= 0 {
		u.wait.ts.Sec = int64(timeout / time.Second)
		u.wait.ts.Nsec = int64(timeout % time.Second)
		arg, size = unsafe.Pointer(u.wait), unsafe.Sizeof(u.wait.arg)
		flags |= IORING_ENTER_EXT_ARG
	}
	r, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, u.enterFd, uintptr(n), uintptr(min), flags, uintptr(arg), size)
	return int(r), errno
}

// Wakeup wakes the kernel's polling thread (SQPOLL only).
func (u *Uring) Wakeup() syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, u.enterFd, 0, 0, u.enterFlags|IORING_ENTER_SQ_WAKEUP, 0, 0)
	return errno
}

// mapShared maps n bytes of a ring's memory at the kernel's magic offset.
func mapShared(fd int, offset int64, n int) ([]byte, error) {
	mem, err := unix.Mmap(fd, offset, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	return mem, nil
}

func unmapShared(mem []byte) error { return unix.Munmap(mem) }
