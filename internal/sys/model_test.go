//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"slices"
	"testing"
)

// The fuzz targets here run sequences of operations on what does index arithmetic,
// and compare it with plain slices.

// steps reads a sequence of operations.
type steps []byte

// next is the next operation's number, less than n; false at the end.
func (s *steps) next(n int) (int, bool) {
	if len(*s) == 0 {
		return 0, false
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n, true
}

// number is an argument, from 0 to most; 0 when there is nothing left to read.
func (s *steps) number(most int) int {
	n := 0
	for range min(2, len(*s)) {
		n = n<<8 | int((*s)[0])
		*s = (*s)[1:]
	}
	return n % (most + 1)
}

// FuzzBufRing runs a buffer ring of any size, at any position, against the reader
// that stands for the kernel in the engines of this process.
func FuzzBufRing(f *testing.F) {
	for _, size := range []byte{0, 1, 12, 15} {
		for _, start := range []uint16{0, 4095, 32767, 65535} {
			f.Add(size, start, []byte{0, 255, 255, 1, 2, 1, 0, 0, 0, 7, 1, 2, 255, 255, 2, 0, 0, 0, 255, 255, 1, 0, 9, 9, 1, 2, 8, 8})
		}
	}
	mem, err := Map(1 << 16)
	if err != nil {
		f.Fatal(err)
	}
	base := Address(mem)
	f.Cleanup(func() { _ = Unmap(mem) })
	f.Fuzz(func(t *testing.T, size byte, start uint16, ops []byte) {
		entries := 1 << (size % 16)
		r, err := NewBufRing(entries)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		kernel := NewBufReader(r)
		for range start {
			r.Add(mem[:1], 0)
			r.Publish()
			kernel.Commit()
		}
		if r.Tail() != start {
			t.Fatalf("tail %d after %d buffers", r.Tail(), start)
		}
		type buffer struct {
			at, n int
			bid   uint16
		}
		var added, published []buffer
		next := int(start)
		for s := steps(ops); ; {
			op, ok := s.next(3)
			if !ok {
				break
			}
			switch op {
			case 0: // add
				for range s.number(entries - len(added) - len(published)) {
					b := buffer{at: next * 7 % len(mem), bid: uint16(next * 3)}
					b.n = next % min(300, len(mem)-b.at)
					r.Add(mem[b.at:b.at+b.n], b.bid)
					added = append(added, b)
					next++
				}
			case 1:
				r.Publish()
				published = append(published, added...)
				added = nil
			case 2: // take
				for range s.number(len(published)) {
					got, bid, ok := kernel.Peek()
					want := published[0]
					if !ok || bid != want.bid || len(got) != want.n || want.n > 0 && Address(got) != base+uint64(want.at) {
						t.Fatalf("%d entries, tail %d: the kernel sees %v, id %d, %d bytes at %#x; want %+v from %#x", entries, r.Tail(), ok, bid, len(got), Address(got), want, base)
					}
					kernel.Commit()
					published = published[1:]
				}
			}
			if _, _, ok := kernel.Peek(); ok != (len(published) > 0) {
				t.Fatalf("%d entries, tail %d: the kernel sees a buffer: %v; %d are published", entries, r.Tail(), ok, len(published))
			}
			if r.Tail() != uint16(next) {
				t.Fatalf("tail %d, want %d", r.Tail(), uint16(next))
			}
		}
	})
}

// FuzzQueues runs queues of any size, at any position, against their other side.
func FuzzQueues(f *testing.F) {
	f.Add(byte(0), byte(1), uint32(0), []byte{0, 1, 0, 1, 2, 9, 3, 9, 4, 5, 9})
	f.Add(byte(3), byte(4), uint32(1<<32-5), []byte{0, 9, 9, 1, 0, 3, 3, 2, 255, 255, 3, 255, 255, 5, 2, 2, 4, 3, 0, 77, 5, 0, 9, 4, 5, 255, 255})
	f.Add(byte(2), byte(1), uint32(1<<31-1), bytes.Repeat([]byte{0, 0, 9, 1, 2, 0, 9, 3, 0, 5, 5, 0, 2, 4}, 20))
	f.Fuzz(func(t *testing.T, size, completions byte, start uint32, ops []byte) {
		entries, places := 1<<(size%8), 1<<(completions%8)
		h := NewHost(uint32(entries), uint32(places))
		q := h.Queues
		if int(q.EntryCount()) != entries || int(q.CompletionCount()) != places {
			t.Fatalf("queues of %d and %d, want %d and %d", q.EntryCount(), q.CompletionCount(), entries, places)
		}
		*q.sqHead, *q.sqTail, q.tail, *q.cqHead, *q.cqTail = start, start, start, start, start
		var prepared, published []uint64 // entries
		var posted []uint64              // completions, also those that do not fit
		inQueue, last := 0, uint64(0)
		for s := steps(ops); ; {
			op, ok := s.next(6)
			if !ok {
				break
			}
			switch op {
			case 0: // prepare
				for range s.number(entries + 1) {
					e := q.Next()
					if full := len(prepared)+len(published) == entries; (e == nil) != full {
						t.Fatalf("an entry: %v, with %d of %d in use", e != nil, len(prepared)+len(published), entries)
					}
					if e == nil {
						break
					}
					if *e != (Entry{}) {
						t.Fatalf("an entry is not empty: %+v", *e)
					}
					last++
					*e = Entry{Opcode: 255, Flags: 255, UserData: last}
					prepared = append(prepared, last)
				}
			case 1:
				q.Publish()
				published = append(published, prepared...)
				prepared = nil
			case 2: // the other side takes
				for range s.number(len(published)) {
					if e := h.Next(); e == nil || e.UserData != published[0] {
						t.Fatalf("the other side sees %+v, want entry %d", e, published[0])
					}
					h.Take()
					published = published[1:]
				}
			case 3: // and posts
				for range s.number(2 * places) {
					last++
					h.Post(Completion{UserData: last, Res: int32(last)})
					posted = append(posted, last)
					if inQueue < places && inQueue == len(posted)-1 {
						inQueue++
					}
				}
			case 4:
				h.Flush()
				inQueue = min(places, len(posted))
			case 5: // reap
				n := s.number(int(q.Ready()))
				for i := range n {
					if c := q.Completion(uint32(i)); c.UserData != posted[i] || c.Res != int32(posted[i]) {
						t.Fatalf("completion %d is %+v, want %d", i, *c, posted[i])
					}
				}
				q.Advance(uint32(n))
				posted, inQueue = posted[n:], inQueue-n
			}
			if int(q.Unconsumed()) != len(prepared)+len(published) || int(q.Free()) != entries-len(prepared)-len(published) {
				t.Fatalf("%d unconsumed and %d free, want %d of %d", q.Unconsumed(), q.Free(), len(prepared)+len(published), entries)
			}
			if e := h.Next(); (e != nil) != (len(published) > 0) {
				t.Fatalf("the other side sees an entry: %v; %d are published", e != nil, len(published))
			}
			if int(q.Ready()) != inQueue || h.Overflow() != len(posted)-inQueue || q.Overflowed() != (len(posted) > inQueue) {
				t.Fatalf("%d ready and %d beyond (flag %v), want %d and %d", q.Ready(), h.Overflow(), q.Overflowed(), inQueue, len(posted)-inQueue)
			}
			if q.Lost() != 0 {
				t.Fatalf("%d were lost", q.Lost())
			}
		}
	})
}

// FuzzMessage builds vectors out of pieces of memory.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{0, 0, 5, 0, 9, 0, 0, 0, 255, 255})
	f.Add(bytes.Repeat([]byte{0, 3, 7, 1, 0}, MaxVector+3))
	f.Add([]byte{2, 0, 28, 3, 0, 64, 0, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2})
	mem, err := Map(2 * MessageBytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = Unmap(mem) })
	arena, err := Map(1 << 14)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = Unmap(arena) })
	for i := range arena {
		arena[i] = byte(i * 7)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		ms, err := Messages(mem)
		if err != nil {
			t.Fatal(err)
		}
		m := &ms[1]
		m.Reset()
		clear(mem[:MessageBytes]) // the neighbour
		var want [][]byte
		var nameLen, controlLen int
		for s := steps(ops); ; {
			op, ok := s.next(8)
			if !ok {
				break
			}
			at := s.number(len(arena))
			piece := arena[at : at+s.number(len(arena)-at)]
			switch op {
			case 2:
				m.SetName(piece)
				nameLen = len(piece)
			case 3:
				m.SetControl(piece)
				controlLen = len(piece)
			case 4:
				m.Reset()
				want, nameLen, controlLen = nil, 0, 0
			default:
				if took := m.Append(piece); took != (len(want) < MaxVector) {
					t.Fatalf("piece %d was taken: %v", len(want), took)
				} else if took {
					want = append(want, piece)
				}
			}
			if m.Len() != len(want) || m.NameLen() != nameLen || m.ControlLen() != controlLen {
				t.Fatalf("%d pieces, name %d, control %d; want %d, %d, %d", m.Len(), m.NameLen(), m.ControlLen(), len(want), nameLen, controlLen)
			}
		}
		if total := len(slices.Concat(want...)); m.Bytes() != total {
			t.Fatalf("%d bytes, want %d", m.Bytes(), total)
		}
		for i, w := range want {
			if got := m.Piece(i); !bytes.Equal(got, w) || len(w) > 0 && Address(got) != Address(w) {
				t.Fatalf("piece %d is %d bytes at %#x, want %d at %#x", i, len(got), Address(got), len(w), Address(w))
			}
		}
		if MessageAt(m.Address()) != m {
			t.Fatal("the address is not the message's")
		}
		if !bytes.Equal(mem[:MessageBytes], make([]byte, MessageBytes)) {
			t.Fatal("the message before was overwritten")
		}
	})
}
