//go:build linux

package sim

import (
	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// group is a ring of provided buffers, and the kernel's account of which are its.
type group struct {
	id     uint16
	reader *sys.BufReader
	ours   []bool // by buffer id
	looked int    // of the published ones, how many are in the account
}

// look takes newly published buffers into the account.
func (e *Engine) look(g *group) {
	for {
		_, bid, ok := g.reader.At(g.looked)
		if !ok {
			return
		}
		g.looked++
		for int(bid) >= len(g.ours) {
			g.ours = append(g.ours, false)
		}
		if g.ours[bid] {
			e.Violate("buffer %d of group %d is published twice", bid, g.id)
		}
		g.ours[bid] = true
	}
}

// pick shows the buffer that the next receive would fill.
func (e *Engine) pick(g *group) (mem []byte, bid uint16, ok bool) {
	e.look(g)
	return g.reader.Peek()
}

// commit takes it: it is the program's from then on.
func (g *group) commit(bid uint16) {
	g.reader.Commit()
	g.looked--
	g.ours[bid] = false
}

func (e *Engine) group(id uint16) *group {
	for _, g := range e.groups {
		if g.id == id {
			return g
		}
	}
	return nil
}

func (e *Engine) anyGroup() *group {
	if len(e.groups) == 0 {
		return nil
	}
	return e.groups[0]
}

// RegisterBufRing implements engine.Registrar.
func (e *Engine) RegisterBufRing(id uint16, r *sys.BufRing) error {
	if e.group(id) != nil {
		return unix.EEXIST
	}
	e.groups = append(e.groups, &group{id: id, reader: sys.NewBufReader(r)})
	return nil
}

// UnregisterBufRing implements engine.Registrar.
func (e *Engine) UnregisterBufRing(id uint16) error {
	for i, g := range e.groups {
		if g.id != id {
			continue
		}
		for _, o := range e.armed {
			if o.group == g {
				e.Violate("buffer group %d is unregistered while %s is armed on it", id, o)
			}
		}
		e.groups = append(e.groups[:i], e.groups[i+1:]...)
		return nil
	}
	return unix.EINVAL
}

// RegisterBuffers implements engine.Registrar.
func (e *Engine) RegisterBuffers([][]byte) error { return nil }

// RegisterBuffersSparse implements engine.Registrar.
func (e *Engine) RegisterBuffersSparse(n uint32) error {
	if e.fixed != nil {
		return unix.EBUSY
	}
	e.fixed = make([][]byte, n)
	return nil
}

// UpdateBuffer implements engine.Registrar. Pinning memory may fail.
func (e *Engine) UpdateBuffer(index uint32, mem []byte) error {
	if int(index) >= len(e.fixed) {
		return unix.EINVAL
	}
	if mem != nil && e.chance(e.faults.NoPinning) {
		return unix.ENOMEM
	}
	e.fixed[index] = mem
	return nil
}

// UnregisterBuffers implements engine.Registrar.
func (e *Engine) UnregisterBuffers() error { return nil }

// RegisterFilesSparse implements engine.Registrar.
func (e *Engine) RegisterFilesSparse(n uint32) error {
	if e.table != nil {
		return unix.EBUSY
	}
	e.table = make([]*socket, n)
	return nil
}

// UpdateFiles implements engine.Registrar. A place holds its socket open until it
// is emptied or filled again.
func (e *Engine) UpdateFiles(first uint32, fds []int32) error {
	if int(first)+len(fds) > len(e.table) {
		return unix.EINVAL
	}
	if e.chance(e.faults.TableNoMemory) {
		e.Note("the table of direct descriptors cannot be changed at %d", first)
		return unix.ENOMEM
	}
	for i, fd := range fds {
		place := &e.table[int(first)+i]
		var s *socket
		if fd >= 0 {
			if s = e.socket(int(fd)); s == nil {
				e.Violate("descriptor %d, which is not open, is put into the table", fd)
				return unix.EBADF
			}
			s.refs++
			e.Note("%s is direct descriptor %d", s, int(first)+i)
		}
		old := *place
		*place = s
		if old != nil {
			e.Note("%s is no longer direct descriptor %d", old, int(first)+i)
			e.unref(old)
		}
	}
	return nil
}

// UnregisterFiles implements engine.Registrar.
func (e *Engine) UnregisterFiles() error {
	for i, s := range e.table {
		if s != nil {
			e.table[i] = nil
			e.unref(s)
		}
	}
	e.table = nil
	return nil
}
