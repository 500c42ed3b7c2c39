//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"unsafe"
)

// MaxVector is the most pieces one Message holds. Twenty-eight fill a block of
// 512 bytes with the header; IOV_MAX would be 1,024, but beyond a few dozen the
// saved calls no longer show.
const MaxVector = 28

// MessageBytes is the size of a Message in memory.
const MessageBytes = int(unsafe.Sizeof(Message{}))

// Message is a struct msghdr with its vector, for vectored sends and receives.
// It must stay where it is until the operation's completion: the kernel may copy
// it only when it tries again. So it lives in memory from [Map].
type Message struct {
	hdr msghdr
	iov [MaxVector]iovec
}

// Messages lays as many messages over mem, which came from [Map], as fit.
func Messages(mem []byte) ([]Message, error) {
	if len(mem) < MessageBytes {
		return nil, fmt.Errorf("a message takes %d bytes, got %d", MessageBytes, len(mem))
	}
	return unsafe.Slice((*Message)(unsafe.Pointer(&mem[0])), len(mem)/MessageBytes), nil
}

// Reset empties the vector.
func (m *Message) Reset() {
	m.hdr = msghdr{Iov: uint64(uintptr(unsafe.Pointer(&m.iov[0])))}
}

// Append adds b to the vector, and reports false when it is full.
func (m *Message) Append(b []byte) bool {
	n := m.hdr.Iovlen
	if n == MaxVector {
		return false
	}
	m.iov[n] = iovec{Base: Address(b), Len: uint64(len(b))}
	m.hdr.Iovlen = n + 1
	return true
}

// Len is the number of pieces in the vector.
func (m *Message) Len() int { return int(m.hdr.Iovlen) }

// SetName sets where the peer's address is read from or written to.
func (m *Message) SetName(name []byte) {
	m.hdr.Name, m.hdr.Namelen = Address(name), uint32(len(name))
}

// SetControl sets where control data is read from or written to.
func (m *Message) SetControl(control []byte) {
	m.hdr.Control, m.hdr.Controllen = Address(control), uint64(len(control))
}

// Address is the message's own address.
func (m *Message) Address() uint64 { return uint64(uintptr(unsafe.Pointer(m))) }
