//go:build linux

package net

import (
	"errors"
	"fmt"
	"sync"

	"example.com/ringnet/ring"
)

// Static is content that is sent again and again: it is copied once, into memory
// outside the Go heap, and from there on never again where zero copy works. A loop
// that sends it without copying registers it with its ring, once. Safe for
// concurrent use by any number of loops.
type Static struct {
	mem []byte

	mu     sync.Mutex
	uses   int
	closed bool
}

// staticMax is the largest Static: the kernel registers at most 1 GiB.
const staticMax = 1 << 30

// NewStatic copies b, 1 byte to 1 GiB. The Static must be closed to free the copy.
func NewStatic(b []byte) (*Static, error) {
	if len(b) == 0 || len(b) > staticMax {
		return nil, fmt.Errorf("ringnet: NewStatic: %d bytes: it must be from 1 to %d", len(b), staticMax)
	}
	mem, err := ring.Map(len(b))
	if err != nil {
		return nil, err
	}
	copy(mem, b)
	return &Static{mem: mem}, nil
}

// Len is the number of bytes.
func (s *Static) Len() int { return len(s.mem) }

// Close frees the memory once nothing of it waits to be sent.
func (s *Static) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("ringnet: close a Static: it is closed already")
	}
	s.closed = true
	return s.free()
}

func (s *Static) free() error {
	if !s.closed || s.uses > 0 {
		return nil
	}
	mem := s.mem
	s.mem = nil
	return ring.Unmap(mem)
}

func (s *Static) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.uses++
	return true
}

func (s *Static) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// released implements owner.
func (s *Static) released(*loop, *Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses--
	_ = s.free()
}

// SendStatic sends n bytes of s from off on, after what was written before; a
// negative n: up to its end. Errors are those of Write, or tell of a range that is
// not in s.
func (c *Conn) SendStatic(s *Static, off, n int) error {
	if s == nil || !s.use() {
		return fmt.Errorf("ringnet: SendStatic: the Static is closed: %w", ErrClosed)
	}
	if n < 0 {
		n = len(s.mem) - off
	}
	err := c.mayWrite(max(0, n))
	if err == nil && (off < 0 || n < 0 || off > len(s.mem) || n > len(s.mem)-off) {
		err = fmt.Errorf("ringnet: SendStatic: %d bytes from %d on are not in %d bytes", n, off, len(s.mem))
	}
	if err != nil || n == 0 {
		s.released(c.l, c, nil)
		return err
	}
	c.l.sendSegment(c, segment{mem: s.mem[off : off+n : off+n], owner: s})
	return nil
}

// statics are the Statics that a loop has registered with its ring.
type statics struct {
	index map[*Static]uint16 // staticsMax: it could not be registered
	free  []uint16
	state int8 // 0: no table yet, 1: there is one, -1: it cannot be had
}

// staticsMax is how many Statics one loop registers; others go unregistered.
const staticsMax = 1024

// fixed is the index of the registered buffer that a segment lies in.
func (l *loop) fixed(s *segment) (uint16, bool) {
	st, ok := s.owner.(*Static)
	if !ok || l.statics.state < 0 {
		return 0, false
	}
	f := &l.statics
	if i, ok := f.index[st]; ok {
		return i, i < staticsMax
	}
	if f.state == 0 {
		if err := l.r.RegisterBuffersSparse(staticsMax); err != nil {
			f.state = -1
			l.o.Logger.Info("ringnet: static content is sent unregistered", "loop", l.index, "err", err)
			return 0, false
		}
		f.state, f.index = 1, map[*Static]uint16{}
		for i := staticsMax - 1; i >= 0; i-- {
			f.free = append(f.free, uint16(i))
		}
	}
	// Closed ones stay pinned until somebody looks.
	for old, i := range f.index {
		if !old.isClosed() {
			continue
		}
		if i == staticsMax {
			delete(f.index, old)
		} else if l.r.UpdateBuffer(uint32(i), nil) == nil {
			delete(f.index, old)
			f.free = append(f.free, i)
		}
	}
	n := len(f.free)
	if n == 0 {
		return 0, false
	}
	i := f.free[n-1]
	if err := l.r.UpdateBuffer(uint32(i), st.mem); err != nil {
		// Over RLIMIT_MEMLOCK, most likely. Others may be small enough.
		f.index[st] = staticsMax
		return 0, false
	}
	f.free, f.index[st] = f.free[:n-1], i
	return i, true
}
