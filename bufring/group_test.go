//go:build linux

package bufring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

func TestGroupOptionsOutOfRangeAreRefused(t *testing.T) {
	r := openRing(t)
	tests := []struct {
		name string
		o    GroupOptions
		says string
	}{
		{"too small", GroupOptions{BufBytes: 15}, "BufBytes is 15"},
		{"negative size", GroupOptions{BufBytes: -1}, "BufBytes is -1"},
		{"too large", GroupOptions{BufBytes: 1<<30 + 1}, "BufBytes is 1073741825"},
		{"negative count", GroupOptions{Count: -1}, "Count is -1"},
		{"too many", GroupOptions{Count: 32769}, "Count is 32769"},
		{"negative window", GroupOptions{Window: -1}, "Window is -1"},
		{"window beyond count", GroupOptions{Count: 8, Window: 9}, "Window is 9"},
	}
	for _, tt := range tests {
		g, err := NewGroup(r, tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error that says %q", tt.name, err, tt.says)
		}
		if err == nil {
			_ = g.Close()
		}
	}
}

func TestGroupHasItsDefaults(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{ID: 9})
	if g.ID() != 9 || g.BufBytes() != 4096 || g.Count() != 1024 || g.Window() != 32 || g.Published() != 32 ||
		g.Available() != 1024 || g.Leased() != 0 {
		t.Errorf("ID %d, BufBytes %d, Count %d, Window %d, Published %d, Available %d, Leased %d",
			g.ID(), g.BufBytes(), g.Count(), g.Window(), g.Published(), g.Available(), g.Leased())
	}
	if w := newGroup(t, r, GroupOptions{ID: 1, Count: 5}).Window(); w != 5 {
		t.Errorf("the window of 5 buffers is %d", w)
	}
}

// Counts that are no power of two get a larger ring with fewer buffers in it.
func TestGroupsOfEverySizePublishAllTheyHave(t *testing.T) {
	r := openRing(t)
	for i, count := range []int{1, 2, 3, 31, 32, 33, 1000, 4095, 4096, 4097, 32767, 32768} {
		g, err := NewGroup(r, GroupOptions{ID: uint16(i), BufBytes: 16, Count: count, Window: count})
		if err != nil {
			t.Fatalf("%d buffers: %v", count, err)
		}
		for round := range 3 {
			if g.Published() != count {
				t.Fatalf("%d buffers, round %d: %d published", count, round, g.Published())
			}
			leases := make([]Lease, count)
			for i := range leases {
				leases[i] = g.Take(uint16(i), 16)
			}
			if g.Published() != 0 || g.Leased() != count || g.Available() != 0 {
				t.Fatalf("%d buffers, all taken: %d published, %d leased, %d available", count, g.Published(), g.Leased(), g.Available())
			}
			g.Refill() // of nothing
			for _, l := range leases {
				g.Put(l)
			}
			g.Refill()
		}
		if err := g.Close(); err != nil {
			t.Errorf("%d buffers: %v", count, err)
		}
	}
}

// The kernel's own order: a receive gets the buffer that was published first, at
// every size and position.
func TestKernelTakesBuffersInTheOrderOfPublishing(t *testing.T) {
	r := openRing(t)
	a, b := socketPair(t)
	for i, count := range []int{1, 3, 4096, 5000, 32768} {
		// A group of its own for each: Linux before 6.9 goes on in a group that was
		// closed where it was, if its ID is below 64.
		g, err := NewGroup(r, GroupOptions{ID: uint16(i), BufBytes: 16, Count: count, Window: count})
		if err != nil {
			t.Fatal(err)
		}
		var order []uint16
		for i := range count {
			order = append(order, uint16(i))
		}
		for i := range min(3*count, 5000) {
			if _, err := unix.Write(b, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			r.Entry().PrepareRecvSelect(a, g.ID())
			c := completion(t, r)
			id, ok := c.Buffer()
			if c.Res != 1 || !ok || id != order[0] {
				t.Fatalf("%d buffers, receive %d: %+v (%v) in buffer %d, want buffer %d", count, i, c, c.Err(), id, order[0])
			}
			order = append(order[1:], id)
			l := g.Take(id, int(c.Res))
			if l.Len() != 1 || l.Bytes()[0] != byte(i) {
				t.Fatalf("%d buffers, receive %d: received %v", count, i, l.Bytes())
			}
			g.Put(l)
			g.Refill()
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Linux 6.1 remembered the head of a group below 64 that was closed, and handed out
// the buffers of the next one with that ID from there on.
func TestGroupRegisteredAgainBeginsAnewOrIsRefused(t *testing.T) {
	for _, id := range []uint16{0, 63, 64, 1000} {
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			r := openRing(t)
			a, b := socketPair(t)
			for round := range 3 {
				g, err := NewGroup(r, GroupOptions{ID: id, BufBytes: 16, Count: 4, Window: 4})
				if round > 0 && id < 64 && errors.Is(err, ring.ErrNotSupported) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := unix.Write(b, []byte{1}); err != nil {
					t.Fatal(err)
				}
				r.Entry().PrepareRecvSelect(a, id)
				c := completion(t, r)
				got, ok := c.Buffer()
				if c.Res != 1 || !ok || got != 0 {
					t.Fatalf("round %d: %+v (%v) in buffer %d, want buffer 0", round, c, c.Err(), got)
				}
				g.Put(g.Take(got, 1))
				if err := g.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// completion waits for the next completion.
func completion(t testing.TB, r *ring.Ring) ring.Completion {
	t.Helper()
	var c [1]ring.Completion
	for end := time.Now().Add(limit); r.Reap(c[:]) == 0; {
		if time.Now().After(end) {
			t.Fatal("no completion")
		}
		if err := r.Wait(1, time.Until(end)); err != nil {
			t.Fatal(err)
		}
	}
	return c[0]
}

func TestTakeOfWhatTheKernelDoesNotHoldPanics(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{ID: 3, BufBytes: 16, Count: 8, Window: 4})
	l := g.Take(0, 1)
	if m := panics(t, "Take twice", func() { g.Take(0, 1) }); !strings.Contains(m, "group 3: the kernel filled buffer 0") {
		t.Errorf("Take twice: %q", m)
	}
	panics(t, "Take of a buffer beyond the group", func() { g.Take(8, 1) })
	panics(t, "Take of a buffer far beyond the group", func() { g.Take(65535, 1) })
	panics(t, "Take of a buffer that was never published", func() { g.Take(7, 1) })
	mine := g.mustLease(t)
	panics(t, "Take of a buffer leased directly", func() { g.Take(uint16(mine.id), 1) })
	g.Put(mine)
	g.Put(l)
	panics(t, "Take of a buffer that was given back and not published again", func() { g.Take(0, 1) })
	if g.Published() != 3 || g.Leased() != 0 {
		t.Errorf("%d published and %d leased, want 3 and none", g.Published(), g.Leased())
	}
}

// More bytes than a buffer has cannot come from the kernel; if they seem to, the
// lease must not reach into a neighbour.
func TestTakeOfMoreBytesThanABufferHasPanics(t *testing.T) {
	r := openRing(t)
	for i, n := range []int{17, 1 << 20, -1} {
		g, err := NewGroup(r, GroupOptions{ID: uint16(i), BufBytes: 16, Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		var l Lease
		panics(t, fmt.Sprintf("Take of %d bytes", n), func() { l = g.Take(0, n); _ = l.Bytes() })
		l.Release()
		_ = g.Close()
		_ = r.UnregisterBufRing(0) // if the group could not be closed
	}
}

func TestWindowGrowsWithTheLoadAndUpToCount(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 20, Window: 4})
	// take takes n published buffers and gives them back.
	take := func(n int) {
		t.Helper()
		var leases []Lease
		for id := uint16(0); len(leases) < n; id++ {
			leases = append(leases, g.Take(g.kernels(t), 1))
		}
		for _, l := range leases {
			g.Put(l)
		}
	}
	for _, step := range []struct{ take, window int }{
		{0, 4}, {1, 4}, {2, 4}, // up to half of it is not a lot
		{3, 8}, {4, 8}, {5, 16}, {16, 20}, {20, 20},
	} {
		take(step.take)
		g.Refill()
		if g.Window() != step.window || g.Published() != step.window {
			t.Fatalf("after %d were taken: window %d and %d published, want %d", step.take, g.Window(), g.Published(), step.window)
		}
	}
	g.Exhausted()
	if g.Window() != 20 {
		t.Errorf("the window of 20 buffers grew to %d", g.Window())
	}
}

// kernels finds a buffer that is with the kernel.
func (g *Group) kernels(t testing.TB) uint16 {
	t.Helper()
	free := map[uint32]bool{}
	for _, id := range g.free {
		free[id] = true
	}
	for id := range uint32(g.Count()) {
		if !free[id] && g.bufs[id].gen&1 == 0 {
			return uint16(id)
		}
	}
	t.Fatal("no buffer is with the kernel")
	return 0
}

func TestWindowGrowsAtOnceWhenAReceiveFoundNoBuffer(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 100, Window: 2})
	for _, want := range []int{4, 8, 16, 32, 64, 100, 100} {
		g.Exhausted()
		g.Refill()
		if g.Window() != want || g.Published() != want {
			t.Fatalf("window %d and %d published, want %d", g.Window(), g.Published(), want)
		}
	}
}

func TestWindowShrinksAfterALongCalmAndNotBelowItsLeast(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 64, Window: 6})
	for range 4 {
		g.Exhausted()
	}
	g.Refill()
	if g.Window() != 64 || g.Published() != 64 {
		t.Fatalf("window %d and %d published", g.Window(), g.Published())
	}
	calm := 0
	for _, want := range []int{32, 16, 8, 6} {
		before := g.Window()
		for calm = 0; g.Window() == before && calm <= 2*calmRefills; calm++ {
			g.Refill()
		}
		if g.Window() != want {
			t.Fatalf("the window went from %d to %d, want %d", before, g.Window(), want)
		}
		if calm < calmRefills-1 {
			t.Errorf("the window of %d shrank after only %d calm refills", before, calm)
		}
	}
	for range 2 * calmRefills {
		g.Refill()
	}
	if g.Window() != 6 {
		t.Errorf("the window shrank to %d, its least is 6", g.Window())
	}
	// What was published above the window is used up before more is published.
	if g.Published() != 64 {
		t.Fatalf("%d published", g.Published())
	}
	for want := 63; want >= 6; want-- {
		g.Put(g.Take(g.kernels(t), 1))
		g.Refill()
		if g.Published() != want {
			t.Fatalf("%d published, want %d", g.Published(), want)
		}
	}
	g.Put(g.Take(g.kernels(t), 1))
	g.Refill()
	if g.Published() != 6 || g.Free() != 58 {
		t.Errorf("%d published and %d free, want 6 and 58", g.Published(), g.Free())
	}
}

func TestACalmThatIsInterruptedBeginsAnew(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 64, Window: 6})
	for range 4 {
		g.Exhausted()
	}
	for range 3 {
		for range calmRefills - 1 {
			g.Refill()
		}
		for range 10 { // more than an eighth, less than half
			g.Put(g.Take(g.kernels(t), 1))
		}
		g.Refill()
	}
	if g.Window() != 64 {
		t.Errorf("the window shrank to %d between waves of load", g.Window())
	}
}

func TestGroupPublishesWhatWasReturnedLast(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 8, Window: 2})
	a, b := socketPair(t)
	seen := map[uint16]bool{}
	for i := range 100 {
		if _, err := unix.Write(b, []byte{1}); err != nil {
			t.Fatal(err)
		}
		r.Entry().PrepareRecvSelect(a, g.ID())
		c := completion(t, r)
		id, ok := c.Buffer()
		if !ok {
			t.Fatalf("receive %d: %+v (%v)", i, c, c.Err())
		}
		seen[id] = true
		g.Put(g.Take(id, int(c.Res)))
		g.Refill()
	}
	if len(seen) != 2 {
		t.Errorf("100 receives with a window of 2 went through %d buffers", len(seen))
	}
}

func TestCloseOfAGroupSaysHowManyLeasesAreOut(t *testing.T) {
	r := openRing(t)
	g, err := NewGroup(r, GroupOptions{ID: 64, BufBytes: 16, Count: 8})
	if err != nil {
		t.Fatal(err)
	}
	a, b := g.Take(0, 1), g.Take(1, 1)
	if err := g.Close(); err == nil || !strings.Contains(err.Error(), "group 64: 2 of 8 buffers") {
		t.Errorf("close with two leases out: %v", err)
	}
	g.Put(a)
	elsewhere(b.Release)
	for range 2 { // closing twice is harmless
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	again, err := NewGroup(r, GroupOptions{ID: 64}) // its number is free, below 64 only since Linux 6.9
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestGroupThatCannotBeRegisteredGivesItsMemoryBack(t *testing.T) {
	r := openRing(t)
	newGroup(t, r, GroupOptions{ID: 5, Count: 1})
	before := mappedBytes(t)
	for range 8 {
		g, err := NewGroup(r, GroupOptions{ID: 5, BufBytes: 64 << 20, Count: 4})
		if !errors.Is(err, unix.EEXIST) {
			t.Errorf("group 5 for a second time: %v", err)
			_ = g.Close()
		}
	}
	if grown := mappedBytes(t) - before; grown >= 256<<20 {
		t.Errorf("%d MiB stay mapped", grown>>20)
	}
}

func TestGroupOnAnotherThreadIsRefused(t *testing.T) {
	r := openRing(t)
	if !r.Have(ring.SingleIssuer) {
		t.Skip("this kernel has no single issuer (Linux 6.0)")
	}
	elsewhere(func() {
		g, err := NewGroup(r, GroupOptions{})
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "thread") {
			t.Errorf("a group on another thread: %v", err)
			_ = g.Close()
		}
	})
}

// One multishot receive, random sizes, leases kept for a while and released on
// other goroutines, and groups so small that they run dry all the time: the bytes
// are the ones that were sent, in their order.
func TestGroupReceivesAStreamWhole(t *testing.T) {
	for _, tt := range []GroupOptions{
		{BufBytes: 16, Count: 1}, {BufBytes: 16, Count: 4, Window: 1}, {BufBytes: 1000, Count: 7}, {BufBytes: 4096, Count: 64},
	} {
		t.Run(fmt.Sprintf("%d buffers of %d bytes", tt.Count, tt.BufBytes), func(t *testing.T) {
			tt.Poison = true
			seed := rand.Uint64()
			rnd := rand.New(rand.NewPCG(seed, 3))
			r := openRing(t)
			g := newGroup(t, r, tt)
			wake := make(chan struct{}, 1)
			g.Notify(func() {
				select {
				case wake <- struct{}{}:
				default:
				}
			})
			// Not a Unix pair: there a multishot receive can miss the end of the
			// stream when a shutdown follows the last bytes at once (liburing#1549;
			// seen on 6.18.44 in 2 of 100 streams, on TCP in none of 8,700).
			a, b := tcpPair(t, r)
			total := 2000 * tt.BufBytes / 2
			written := make(chan error, 1)
			go func() {
				rnd := rand.New(rand.NewPCG(seed, 4))
				for at := 0; at < total; {
					piece := make([]byte, min(1+rnd.IntN(3*tt.BufBytes), total-at))
					for i := range piece {
						piece[i] = streamByte(at + i)
					}
					if _, err := unix.Write(b, piece); err != nil {
						written <- err
						return
					}
					at += len(piece)
				}
				written <- unix.Shutdown(b, unix.SHUT_WR)
			}()

			// Leases that are kept are checked again, by others, before release.
			type kept struct {
				Lease
				at int
			}
			elsewhere := make(chan kept, g.Count())
			released := make(chan struct{})
			go func() {
				defer close(released)
				for k := range elsewhere {
					for i, c := range k.Bytes() {
						if c != streamByte(k.at+i) {
							t.Errorf("seed %d: byte %d changed while it was leased", seed, k.at+i)
							break
						}
					}
					k.Release()
				}
			}()
			received, starved := 0, 0
			timeout := time.After(2 * limit)
			for end := false; !end; {
				g.Refill()
				for g.Published() == 0 { // park until a buffer is back
					g.Await()
					if g.Reclaim() == 0 {
						select {
						case <-wake:
						case <-timeout:
							t.Fatalf("seed %d: every buffer is out, after %d of %d bytes", seed, received, total)
						}
					}
					g.Refill()
				}
				r.Entry().PrepareRecvMultishot(a, g.ID())
				for more := true; more; {
					g.Refill()
					c := completion(t, r)
					more = c.More()
					switch id, ok := c.Buffer(); {
					case ok:
						l := g.Take(id, int(c.Res))
						for i, c := range l.Bytes() {
							if c != streamByte(received+i) {
								t.Fatalf("seed %d: byte %d is %d, want %d", seed, received+i, c, streamByte(received+i))
							}
						}
						if rnd.IntN(2) == 0 {
							elsewhere <- kept{l, received}
						} else {
							g.Put(l)
						}
						received += int(c.Res)
					case c.Err() == unix.ENOBUFS:
						starved++
						g.Exhausted()
					case c.Res == 0:
						end = true
					default:
						t.Fatalf("seed %d: %+v (%v)", seed, c, c.Err())
					}
				}
			}
			close(elsewhere)
			<-released
			if err := <-written; err != nil {
				t.Error(err)
			}
			if received != total {
				t.Errorf("seed %d: received %d of %d bytes", seed, received, total)
			}
			if tt.Count == 1 && starved == 0 {
				t.Error("a group of one buffer never ran dry")
			}
			t.Logf("%d bytes, starved %d times, window %d", received, starved, g.Window())
		})
	}
}

// streamByte is the byte at a position of the test's stream.
func streamByte(at int) byte { return byte(at ^ at>>8*7 ^ at>>16) }

func TestGroupDoesNotAllocate(t *testing.T) {
	r := openRing(t)
	g := newGroup(t, r, GroupOptions{BufBytes: 16, Count: 64})
	a, b := socketPair(t)
	one := []byte{1}
	var account int32
	if n := testing.AllocsPerRun(200, func() {
		if _, err := unix.Write(b, one); err != nil {
			t.Fatal(err)
		}
		r.Entry().PrepareRecvSelect(a, 0)
		c := completion(t, r)
		id, _ := c.Buffer()
		l := g.Take(id, int(c.Res))
		g.Charge(l, &account)
		g.Await()
		if account%2 == 0 {
			g.Put(l)
		} else {
			l.Release()
		}
		g.Refill()
	}); n != 0 {
		t.Errorf("%v allocations a receive, want none", n)
	}
}
