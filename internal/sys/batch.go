//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"structs"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BatchPieces is the most pieces, and so the most datagrams, that one Batch holds.
const BatchPieces = 64

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	_   structs.HostLayout
	Hdr msghdr
	Len uint32
	_   uint32
}

// Batch is a number of datagrams for one sendmmsg(2), each with room for its
// address and control data. It lies in memory from [Map] and belongs to one
// goroutine; the calls that send it have read it when they return.
type Batch struct {
	mem    []byte
	fields *batchFields
	count  int // datagrams
	pieces int
}

type batchFields struct {
	headers [BatchPieces]mmsghdr
	iov     [BatchPieces]iovec
	areas   [BatchPieces]batchArea
}

type batchArea struct {
	name    [SockaddrBytes]byte
	_       [4]byte
	control [ControlBytes]byte
}

// NewBatch maps a batch. The caller closes it.
func NewBatch() (*Batch, error) {
	mem, err := Map(int(unsafe.Sizeof(batchFields{})))
	if err != nil {
		return nil, err
	}
	return &Batch{mem: mem, fields: (*batchFields)(unsafe.Pointer(&mem[0]))}, nil
}

// Close unmaps it.
func (b *Batch) Close() error {
	err := Unmap(b.mem)
	b.mem, b.fields = nil, nil
	return err
}

// Reset empties it.
func (b *Batch) Reset() { b.count, b.pieces = 0, 0 }

// Len is the number of datagrams.
func (b *Batch) Len() int { return b.count }

// Full reports that no further piece fits.
func (b *Batch) Full() bool { return b.pieces == BatchPieces }

// Begin adds a datagram, to the address that name has in the kernel's form; empty
// for a connected socket. The batch may not be full.
func (b *Batch) Begin(name []byte) {
	i := b.count
	b.count++
	h, area := &b.fields.headers[i].Hdr, &b.fields.areas[i]
	*h = msghdr{Iov: uint64(uintptr(unsafe.Pointer(&b.fields.iov[b.pieces])))}
	if n := copy(area.name[:], name); n > 0 {
		h.Name, h.Namelen = uint64(uintptr(unsafe.Pointer(&area.name))), uint32(n)
	}
}

// Add adds a piece to the datagram that was begun last. Its memory stays where it
// is until the batch is sent: it is mapped, or pinned.
func (b *Batch) Add(piece []byte) {
	b.fields.iov[b.pieces] = iovec{Base: Address(piece), Len: uint64(len(piece))}
	b.pieces++
	b.fields.headers[b.count-1].Hdr.Iovlen++
}

// SetSegment has the last datagram go out as several of so many bytes each, except
// that the last one may be shorter. Since Linux 4.18.
func (b *Batch) SetSegment(bytes uint16) {
	b.control(putSegment(b.free(), bytes))
}

// SetSource has the last datagram go out from an address of ours, and by an
// interface unless that is 0.
func (b *Batch) SetSource(from netip.Addr, ifindex uint32) {
	b.control(putSource(b.free(), from, ifindex))
}

// free is the control memory of the last datagram that is not used.
func (b *Batch) free() []byte {
	return b.fields.areas[b.count-1].control[b.fields.headers[b.count-1].Hdr.Controllen:]
}

func (b *Batch) control(n int) {
	h := &b.fields.headers[b.count-1].Hdr
	h.Control = uint64(uintptr(unsafe.Pointer(&b.fields.areas[b.count-1].control)))
	h.Controllen += uint64(n)
}

// Send sends the datagrams without blocking and returns how many went out; an
// errno, if that is none. When fewer went out than there are, the errno of the
// next one is lost with the kernel: try again from there.
func (b *Batch) Send(fd int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.fields.headers)),
		uintptr(b.count), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// SendOne sends the i-th datagram without blocking.
func (b *Batch) SendOne(fd, i int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.fields.headers[b.check(i)].Hdr)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return errno
}

func (b *Batch) check(i int) int {
	if i < 0 || i >= b.count {
		panic(fmt.Sprintf("sys: datagram %d of a batch of %d", i, b.count))
	}
	return i
}

// Name is the address of the i-th datagram in the kernel's form. For an engine
// that lives in this process, as the two below.
func (b *Batch) Name(i int) []byte {
	return b.fields.areas[b.check(i)].name[:b.fields.headers[i].Hdr.Namelen]
}

// Control is the control data of the i-th datagram.
func (b *Batch) Control(i int) []byte {
	return b.fields.areas[b.check(i)].control[:b.fields.headers[i].Hdr.Controllen]
}

// Payload appends the bytes of the i-th datagram to dst.
func (b *Batch) Payload(dst []byte, i int) []byte {
	h := &b.fields.headers[b.check(i)].Hdr
	first := (h.Iov - uint64(uintptr(unsafe.Pointer(&b.fields.iov)))) / uint64(unsafe.Sizeof(iovec{}))
	for _, v := range b.fields.iov[first : first+h.Iovlen] {
		dst = append(dst, Bytes(v.Base, int(v.Len))...)
	}
	return dst
}

// ParseSegment is the size that SetSegment set in control data; 0: none.
func ParseSegment(control []byte) int {
	for len(control) >= cmsgHeader {
		m, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if m.Level == unix.SOL_UDP && m.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data))
		}
		control = rest
	}
	return 0
}
