//go:build linux && (amd64 || arm64)

package sys

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// register is io_uring_register(2). Up to Linux 6.1 at least, taking a table back
// waits for what uses it, and a signal, of which Go's scheduler sends many, ends the
// wait with EINTR and nothing done. A cancellation has a time limit, which would
// begin anew.
func register(fd int, op uintptr, arg unsafe.Pointer, n uintptr) (int, error) {
	for {
		r, _, errno := syscall.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), op, uintptr(arg), n, 0, 0)
		switch {
		case errno == 0:
			return int(r), nil
		case errno != unix.EINTR || op == IORING_REGISTER_SYNC_CANCEL:
			return 0, errno
		}
	}
}

// Enable starts a ring made with R_DISABLED; with SINGLE_ISSUER the calling
// thread becomes the only one that may use it. Since Linux 5.10.
func (u *Uring) Enable() error {
	_, err := register(u.fd, IORING_REGISTER_ENABLE_RINGS, nil, 0)
	return err
}

// ringPlaces is how many rings a thread can have registered (IO_RINGFD_REG_MAX).
const ringPlaces = 16

// places gives each ring a place of its own in its thread's table while it can,
// so that an Enter from a foreign thread finds an empty place (EBADF) and not
// that thread's own ring, which it would enter without a word.
var places atomic.Uint32

// RegisterRingFd registers the ring's descriptor with the calling thread, which
// spares each later Enter from this thread a look-up and a reference count.
// Since Linux 5.18.
func (u *Uring) RegisterRingFd() error {
	up := rsrcUpdate{Offset: places.Add(1) % ringPlaces, Data: uint64(u.fd)}
	_, err := register(u.fd, IORING_REGISTER_RING_FDS, unsafe.Pointer(&up), 1)
	if err != nil {
		up.Offset = 1<<32 - 1 // any free place
		_, err = register(u.fd, IORING_REGISTER_RING_FDS, unsafe.Pointer(&up), 1)
	}
	runtime.KeepAlive(&up)
	if err != nil {
		return err
	}
	u.enterFd, u.enterFlags = uintptr(up.Offset), IORING_ENTER_REGISTERED_RING
	return nil
}

// UnregisterRingFd undoes RegisterRingFd, on the same thread.
func (u *Uring) UnregisterRingFd() error {
	if u.enterFlags == 0 {
		return nil
	}
	up := rsrcUpdate{Offset: uint32(u.enterFd)}
	_, err := register(u.fd, IORING_UNREGISTER_RING_FDS, unsafe.Pointer(&up), 1)
	runtime.KeepAlive(&up)
	u.enterFd, u.enterFlags = uintptr(u.fd), 0
	return err
}

// RegisterBufRing gives the kernel a buffer ring as group. Since Linux 5.19.
func (u *Uring) RegisterBufRing(group uint16, r *BufRing) error {
	reg := bufReg{RingAddr: Address(r.mem), RingEntries: uint32(len(r.bufs)), Bgid: group}
	_, err := register(u.fd, IORING_REGISTER_PBUF_RING, unsafe.Pointer(&reg), 1)
	runtime.KeepAlive(&reg)
	return err
}

// UnregisterBufRing takes group back. Since Linux 5.19.
func (u *Uring) UnregisterBufRing(group uint16) error {
	reg := bufReg{Bgid: group}
	_, err := register(u.fd, IORING_UNREGISTER_PBUF_RING, unsafe.Pointer(&reg), 1)
	runtime.KeepAlive(&reg)
	return err
}

// BufRingHead reads how many buffers of group the kernel has taken, modulo
// 65,536. For diagnosis. Since Linux 6.8.
func (u *Uring) BufRingHead(group uint16) (uint16, error) {
	st := bufStatus{BufGroup: uint32(group)}
	_, err := register(u.fd, IORING_REGISTER_PBUF_STATUS, unsafe.Pointer(&st), 1)
	runtime.KeepAlive(&st)
	return uint16(st.Head), err
}

// RegisterBuffers pins bufs and registers them for fixed operations. They count
// against RLIMIT_MEMLOCK. At most 1 GiB each. Since Linux 5.1.
func (u *Uring) RegisterBuffers(bufs [][]byte) error {
	iov := make([]iovec, len(bufs))
	for i, b := range bufs {
		iov[i] = iovec{Base: Address(b), Len: uint64(len(b))}
	}
	_, err := register(u.fd, IORING_REGISTER_BUFFERS, unsafe.Pointer(unsafe.SliceData(iov)), uintptr(len(iov)))
	runtime.KeepAlive(iov)
	runtime.KeepAlive(bufs)
	return err
}

// UnregisterBuffers undoes RegisterBuffers.
func (u *Uring) UnregisterBuffers() error {
	_, err := register(u.fd, IORING_UNREGISTER_BUFFERS, nil, 0)
	return err
}

// RegisterBuffersSparse makes a table of n places for fixed buffers. Since Linux
// 5.19.
func (u *Uring) RegisterBuffersSparse(n uint32) error {
	reg := rsrcRegister{Nr: n, Flags: IORING_RSRC_REGISTER_SPARSE}
	_, err := register(u.fd, IORING_REGISTER_BUFFERS2, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
	runtime.KeepAlive(&reg)
	return err
}

// UpdateBuffer pins mem and puts it into a place of the table, or with nil empties
// the place. An operation that uses what was there keeps it. Since Linux 5.13.
func (u *Uring) UpdateBuffer(index uint32, mem []byte) error {
	iov := iovec{Len: uint64(len(mem))}
	if len(mem) > 0 {
		iov.Base = Address(mem)
	}
	up := rsrcUpdate2{Offset: index, Data: addressOf(unsafe.Pointer(&iov)), Nr: 1}
	_, err := register(u.fd, IORING_REGISTER_BUFFERS_UPDATE, unsafe.Pointer(&up), unsafe.Sizeof(up))
	runtime.KeepAlive(&up)
	runtime.KeepAlive(&iov)
	return err
}

// RegisterFilesSparse makes a table of n empty direct descriptors. Since Linux 5.19.
func (u *Uring) RegisterFilesSparse(n uint32) error {
	reg := rsrcRegister{Nr: n, Flags: IORING_RSRC_REGISTER_SPARSE}
	_, err := register(u.fd, IORING_REGISTER_FILES2, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
	runtime.KeepAlive(&reg)
	return err
}

// UpdateFiles puts descriptors into the table from index first on; -1 empties a
// place. Since Linux 5.5.
func (u *Uring) UpdateFiles(first uint32, fds []int32) error {
	up := rsrcUpdate{Offset: first, Data: addressOf(unsafe.Pointer(unsafe.SliceData(fds)))}
	_, err := register(u.fd, IORING_REGISTER_FILES_UPDATE, unsafe.Pointer(&up), uintptr(len(fds)))
	runtime.KeepAlive(&up)
	runtime.KeepAlive(fds)
	return err
}

// UnregisterFiles drops the table of direct descriptors.
func (u *Uring) UnregisterFiles() error {
	_, err := register(u.fd, IORING_UNREGISTER_FILES, nil, 0)
	return err
}

// CancelAll cancels every operation in flight and waits up to timeout for them
// to end; their completions are in the queue afterwards. Since Linux 6.0.
func (u *Uring) CancelAll(timeout time.Duration) error {
	reg := syncCancelReg{Fd: -1, Flags: IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
		Timeout: timespec{Sec: int64(timeout / time.Second), Nsec: int64(timeout % time.Second)}}
	_, err := register(u.fd, IORING_REGISTER_SYNC_CANCEL, unsafe.Pointer(&reg), 1)
	runtime.KeepAlive(&reg)
	return err
}

// LimitWorkers caps the kernel worker threads of this ring. Since Linux 5.15.
func (u *Uring) LimitWorkers(bounded, unbounded uint32) error {
	n := [2]uint32{bounded, unbounded}
	_, err := register(u.fd, IORING_REGISTER_IOWQ_MAX_WORKERS, unsafe.Pointer(&n), 2)
	runtime.KeepAlive(&n)
	return err
}

// BusyPoll makes waits poll the network device for up to timeout before they
// sleep. Since Linux 6.9.
func (u *Uring) BusyPoll(timeout time.Duration, prefer bool) error {
	reg := napiReg{BusyPollTo: uint32(timeout / time.Microsecond)}
	if prefer {
		reg.PreferBusyPoll = 1
	}
	_, err := register(u.fd, IORING_REGISTER_NAPI, unsafe.Pointer(&reg), 1)
	runtime.KeepAlive(&reg)
	return err
}

// Operations reports which operation numbers the kernel knows. Since Linux 5.6.
func (u *Uring) Operations() ([256]bool, error) {
	var ops [256]bool
	p := new(probe)
	if _, err := register(u.fd, IORING_REGISTER_PROBE, unsafe.Pointer(p), 256); err != nil {
		return ops, err
	}
	for i := range min(int(p.OpsLen), len(p.Ops)) {
		ops[p.Ops[i].Op] = p.Ops[i].Flags&1 != 0 // IO_URING_OP_SUPPORTED
	}
	return ops, nil
}

// SendMessage posts a completion with the given result and user data to the ring
// whose descriptor is target, from any thread and without a ring of one's own.
// Since Linux 6.13.
func SendMessage(target int, userData uint64, res int32) error {
	e := Entry{Opcode: IORING_OP_MSG_RING, Fd: int32(target), Len: uint32(res), Off: userData, Addr: IORING_MSG_DATA}
	_, err := register(-1, IORING_REGISTER_SEND_MSG_RING, unsafe.Pointer(&e), 1)
	runtime.KeepAlive(&e)
	return err
}
