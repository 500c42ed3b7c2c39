//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// bufRingReader reads a buffer ring's memory as the kernel does: a tail in the
// last two bytes of entry 0, and entries from its own head on.
type bufRingReader struct {
	mem  []byte
	head uint16
}

type providedBuffer struct {
	addr uint64
	len  uint32
	bid  uint16
}

func (k *bufRingReader) tail() uint16 { return binary.LittleEndian.Uint16(k.mem[14:]) }

func (k *bufRingReader) available() int { return int(k.tail() - k.head) }

func (k *bufRingReader) take() providedBuffer {
	places := len(k.mem) / 16
	e := k.mem[(int(k.head)%places)*16:]
	k.head++
	return providedBuffer{
		addr: binary.LittleEndian.Uint64(e),
		len:  binary.LittleEndian.Uint32(e[8:]),
		bid:  binary.LittleEndian.Uint16(e[12:]),
	}
}

// Rings of 4,096 entries and more went wrong elsewhere, where indexes were
// computed in 16 bits; and positions wrap at 65,536 whatever the size.
func TestBufRingHandsBuffersOverInOrderAtEverySize(t *testing.T) {
	mem := mapped(t, 1<<16)
	base := Address(mem)
	for _, entries := range []int{1, 2, 8, 256, 2048, 4096, 8192, 16384, 32768} {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 0))
		r, err := NewBufRing(entries)
		if err != nil {
			t.Fatal(err)
		}
		if r.EntryCount() != entries {
			t.Errorf("a ring of %d entries says it has %d", entries, r.EntryCount())
		}
		kernel := bufRingReader{mem: r.mem}
		var want []providedBuffer // published, not yet taken
		var firstID uint16        // the id that entry 0 holds
		positions := 0
		for positions < 3*65536 {
			n := rnd.IntN(entries - len(want) + 1)
			for range n {
				at, size, bid := rnd.IntN(len(mem)/2), rnd.IntN(len(mem)/2), uint16(rnd.Uint32())
				if positions%entries == 0 {
					firstID = bid
				}
				r.Add(mem[at:at+size], bid)
				positions++
				want = append(want, providedBuffer{base + uint64(at), uint32(size), bid})
			}
			if seen := kernel.available(); seen != len(want)-n {
				t.Fatalf("%d entries, seed %d: the kernel sees %d buffers before Publish, want %d", entries, seed, seen, len(want)-n)
			}
			r.Publish()
			if seen := kernel.available(); seen != len(want) {
				t.Fatalf("%d entries, seed %d: the kernel sees %d buffers after Publish, want %d", entries, seed, seen, len(want))
			}
			if id := binary.LittleEndian.Uint16(r.mem[12:]); positions > 0 && id != firstID {
				t.Fatalf("%d entries, seed %d: publishing changed the id of entry 0 from %d to %d", entries, seed, firstID, id)
			}
			if r.Tail() != uint16(positions) {
				t.Fatalf("%d entries: tail is %d at position %d", entries, r.Tail(), positions)
			}
			taken := rnd.IntN(len(want) + 1)
			for i := range taken {
				if got := kernel.take(); got != want[i] {
					t.Fatalf("%d entries, seed %d, position %d: the kernel took %+v, want %+v", entries, seed, kernel.head-1, got, want[i])
				}
			}
			want = want[taken:]
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBufRingCanBeFullAtEveryPosition(t *testing.T) {
	mem := mapped(t, 1)
	for _, entries := range []int{1, 4096, 32768} {
		r, err := NewBufRing(entries)
		if err != nil {
			t.Fatal(err)
		}
		kernel := bufRingReader{mem: r.mem}
		for position := 0; position < 2*65536; position += entries {
			for i := range entries {
				r.Add(mem, uint16(i))
			}
			r.Publish()
			if kernel.available() != entries {
				t.Fatalf("%d entries: full at position %d, the kernel sees %d", entries, position, kernel.available())
			}
			for i := range entries {
				if b := kernel.take(); int(b.bid) != i {
					t.Fatalf("%d entries: the kernel took %d where %d was added", entries, b.bid, i)
				}
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBufRingRefusesSizesTheKernelRefuses(t *testing.T) {
	for _, entries := range []int{-1, 0, 3, 100, 32767, 32769, 65536} {
		if r, err := NewBufRing(entries); err == nil {
			t.Errorf("a ring of %d entries was made", entries)
			_ = r.Close()
		}
	}
}

func TestBufRingIsTakenByTheKernelAtItsLargest(t *testing.T) {
	u := setup(t, 8, Params{})
	r, err := NewBufRing(MaxBufRingEntries)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := u.RegisterBufRing(7, r); err != nil {
		t.Fatal(err)
	}
	if err := u.UnregisterBufRing(7); err != nil {
		t.Error(err)
	}
	if u.UnregisterBufRing(7) == nil {
		t.Error("a group was taken back twice without an error")
	}
}

// The numbers that the model above assumes are the kernel's own: a real receive
// takes buffers by them, over more than 65,536 positions.
func TestBufRingPositionsWrapInTheKernelToo(t *testing.T) {
	const entries, rounds = 32768, 70_000
	u := setup(t, 8, Params{})
	r, err := NewBufRing(entries)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := u.RegisterBufRing(1, r); err != nil {
		t.Fatal(err)
	}
	mem := mapped(t, entries)
	pair := socketPair(t)
	for i := range entries - 1 { // one short of full, so that each round adds one first
		r.Add(mem[i:i+1], uint16(i))
	}
	r.Publish()
	next := entries - 1 // the id added next, and after it the one taken next, in turn
	for round := range rounds {
		r.Add(mem[next%entries:next%entries+1], uint16(next%entries))
		next++
		r.Publish()
		if _, errno := Send(pair[1], []byte{byte(round)}, 0); errno != 0 {
			t.Fatal(errno)
		}
		e := u.Next()
		*e = Entry{Opcode: IORING_OP_RECV, Fd: int32(pair[0]), Flags: IOSQE_BUFFER_SELECT, BufIndex: 1}
		c := u.one(t)
		if want := round % entries; c.Res != 1 || int(c.Flags>>IORING_CQE_BUFFER_SHIFT) != want || mem[want] != byte(round) {
			t.Fatalf("round %d: result %d in buffer %d holding %d, want buffer %d", round, c.Res, c.Flags>>IORING_CQE_BUFFER_SHIFT, mem[want], want)
		}
	}
}
