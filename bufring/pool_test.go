//go:build linux

package bufring

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPoolOptionsOutOfRangeAreRefused(t *testing.T) {
	tests := []struct {
		name string
		o    PoolOptions
		says string
	}{
		{"no size", PoolOptions{Count: 1}, "BufBytes is 0"},
		{"a negative size", PoolOptions{BufBytes: -1, Count: 1}, "BufBytes is -1"},
		{"too large", PoolOptions{BufBytes: 1<<30 + 1, Count: 1}, "BufBytes is 1073741825"},
		{"no buffers", PoolOptions{BufBytes: 1}, "Count is 0"},
		{"fewer than none", PoolOptions{BufBytes: 1, Count: -3}, "Count is -3"},
		{"too many", PoolOptions{BufBytes: 1, Count: 1<<20 + 1}, "Count is 1048577"},
		{"more memory than there are addresses", PoolOptions{BufBytes: 1 << 30, Count: 1 << 20}, "1048576 buffers of 1073741824 bytes"},
	}
	for _, tt := range tests {
		p, err := NewPool(tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error that says %q", tt.name, err, tt.says)
		}
		if err == nil {
			_ = p.Close()
		}
	}
}

func TestPoolBuffersHaveTheirSizeAndDoNotOverlap(t *testing.T) {
	for _, o := range []PoolOptions{
		{BufBytes: 1, Count: 3}, {BufBytes: 63, Count: 5}, {BufBytes: 64, Count: 5}, {BufBytes: 65, Count: 5},
		{BufBytes: 4096, Count: 33}, {BufBytes: 1 << 20, Count: 2},
	} {
		p := newPool(t, o)
		if p.BufBytes() != o.BufBytes || p.Count() != o.Count || p.Free() != o.Count || p.Out() != 0 {
			t.Errorf("%+v: BufBytes %d, Count %d, Free %d, Out %d", o, p.BufBytes(), p.Count(), p.Free(), p.Out())
		}
		var leases []Lease
		for i := range o.Count {
			l := p.mustLease(t)
			b := l.Bytes()
			if len(b) != o.BufBytes || cap(b) != o.BufBytes || l.Len() != o.BufBytes || !l.Valid() {
				t.Errorf("%+v: a lease of %d bytes with room for %d", o, len(b), cap(b))
			}
			for j := range b {
				b[j] = byte(i + 1)
			}
			leases = append(leases, l)
		}
		for i, l := range leases {
			if !all(l.Bytes(), byte(i+1)) {
				t.Errorf("%+v: buffer %d was overwritten by another", o, i)
			}
			p.Put(l)
		}
	}
}

func TestPoolHandsOutWhatWasReturnedLast(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 4})
	a, b, c := p.mustLease(t), p.mustLease(t), p.mustLease(t)
	if a.id != 0 || b.id != 1 || c.id != 2 {
		t.Errorf("a fresh pool hands out %d, %d, %d", a.id, b.id, c.id)
	}
	p.Put(b)
	p.Put(a)
	p.Put(c)
	for _, want := range []uint32{2, 0, 1, 3} {
		if l := p.mustLease(t); l.id != want {
			t.Errorf("buffer %d came where %d was returned last", l.id, want)
		} else {
			defer p.Put(l)
		}
	}
}

func TestExhaustedPoolSaysSoUntilABufferIsBack(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 2})
	a, b := p.mustLease(t), p.mustLease(t)
	for range 2 {
		if l, err := p.Lease(); !errors.Is(err, ErrExhausted) || l.Valid() {
			t.Errorf("lease %+v, %v; want ErrExhausted", l, err)
		}
	}
	p.Put(a)
	a = p.mustLease(t)
	elsewhere(b.Release) // the pool finds it by itself
	b = p.mustLease(t)
	p.Put(a)
	p.Put(b)
}

func TestUseAfterReleasePanics(t *testing.T) {
	put := func(p *Pool, l Lease) { p.Put(l) }
	release := func(_ *Pool, l Lease) { l.Release() }
	ways := map[string]func(*Pool, Lease){"Put": put, "Release": release}
	for firstName, first := range ways {
		for secondName, second := range ways {
			p := newPool(t, PoolOptions{BufBytes: 8, Count: 2})
			l := p.mustLease(t)
			first(p, l)
			if m := panics(t, firstName+" and "+secondName, func() { second(p, l) }); !strings.Contains(m, "released twice") {
				t.Errorf("%s and %s: %q", firstName, secondName, m)
			}
			p.Reclaim()
			// The buffer belongs to somebody else now: the old lease must not
			// release it for them, nor a part or a copy of it.
			other := p.mustLease(t)
			for other.id != l.id {
				defer p.Put(other)
				other = p.mustLease(t)
			}
			old := l.Slice(1, 2)
			if m := panics(t, "a stale lease", func() { second(p, old) }); !strings.Contains(m, "buffer 0") {
				t.Errorf("a stale lease and %s: %q", secondName, m)
			}
			first(p, other)
			p.Reclaim()
		}
	}
}

func TestTheZeroLeaseHoldsNothing(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	var l Lease
	l.Release()
	l.Release()
	p.Put(l)
	if l.Valid() || l.Len() != 0 || l.Bytes() != nil || p.Owns(l) || p.Free() != 1 {
		t.Errorf("the zero lease: valid %v, %d bytes", l.Valid(), l.Len())
	}
	if l, n := l.Append([]byte("x")); n != 0 || l.Valid() {
		t.Errorf("the zero lease took %d bytes", n)
	}
	var account int32
	p.Charge(l, &account)
	if account != 0 {
		t.Error("the zero lease was charged")
	}
	if l = l.Slice(0, 0); l.Valid() {
		t.Error("a part of the zero lease is valid")
	}
}

func TestPutOfALeaseOfAnotherPoolGoesHome(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	q := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	l := p.mustLease(t)
	if !p.Owns(l) || q.Owns(l) {
		t.Error("a lease has the wrong owner")
	}
	q.Put(l)
	if q.Free() != 1 || p.Reclaim() != 1 || p.Free() != 1 {
		t.Errorf("%d free at home, %d elsewhere", p.Free(), q.Free())
	}
}

func TestPoisonOverwritesWhatWasReleased(t *testing.T) {
	for _, poison := range []bool{true, false} {
		p := newPool(t, PoolOptions{BufBytes: 100, Count: 2, Poison: poison})
		for name, give := range map[string]func(Lease){"Put": p.Put, "Release": Lease.Release} {
			l := p.mustLease(t)
			b := l.Bytes()
			copy(b, "secret")
			give(l.Slice(0, 1)) // the whole buffer, however little of it is leased
			p.Reclaim()
			if all(b, poisonByte) != poison {
				t.Errorf("poison %v, %s: released memory holds %q", poison, name, b[:8])
			}
		}
	}
}

func TestSliceKeepsTheLeaseAndItsBounds(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 10, Count: 1})
	l := p.mustLease(t)
	copy(l.Bytes(), "0123456789")
	part := l.Slice(2, 8)
	if string(part.Bytes()) != "234567" || part.Len() != 6 {
		t.Errorf("bytes 2 to 8 are %q", part.Bytes())
	}
	part = part.Slice(1, 3)
	if string(part.Bytes()) != "34" || !p.Owns(part) {
		t.Errorf("and of these 1 to 3 are %q", part.Bytes())
	}
	if empty := part.Slice(2, 2); empty.Len() != 0 || !empty.Valid() {
		t.Errorf("an empty part: %d bytes, valid %v", empty.Len(), empty.Valid())
	}
	for _, bad := range [][2]int{{-1, 1}, {0, 3}, {2, 1}, {3, 3}} {
		panics(t, "slice beyond the lease", func() { part.Slice(bad[0], bad[1]) })
	}
	p.Put(part)
}

func TestAppendFillsTheRestOfTheBuffer(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 2})
	neighbour := p.mustLease(t)
	l := p.mustLease(t).Slice(0, 0)
	for _, tt := range []struct {
		add  string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"", 0, "abc"}, {"defgh", 5, "abcdefgh"}, {"i", 0, "abcdefgh"}} {
		var n int
		if l, n = l.Append([]byte(tt.add)); n != tt.n || string(l.Bytes()) != tt.want {
			t.Errorf("append of %q took %d bytes: %q", tt.add, n, l.Bytes())
		}
	}
	l, n := l.Slice(2, 4).Append([]byte("XYZWV!"))
	if n != 4 || string(l.Bytes()) != "cdXYZW" {
		t.Errorf("append behind a part took %d bytes: %q", n, l.Bytes())
	}
	if !all(neighbour.Bytes(), 0) {
		t.Errorf("the neighbour holds %q", neighbour.Bytes())
	}
	p.Put(l)
	p.Put(neighbour)
}

func TestChargeCountsUntilTheBufferIsFreeAgain(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 3})
	var mine, yours int32
	a, b, c := p.mustLease(t), p.mustLease(t), p.mustLease(t)
	p.Charge(a, &mine)
	p.Charge(b, &mine)
	p.Charge(c, &yours)
	p.Charge(a, &yours) // one account a lease: the first
	if mine != 2 || yours != 1 {
		t.Errorf("charged %d and %d, want 2 and 1", mine, yours)
	}
	p.Put(a.Slice(0, 0))
	if mine != 1 {
		t.Errorf("%d after one was put back, want 1", mine)
	}
	elsewhere(b.Release)
	if mine != 1 {
		t.Error("another goroutine touched the account")
	}
	if n := p.Reclaim(); n != 1 || mine != 0 {
		t.Errorf("reclaimed %d, and the account is %d", n, mine)
	}
	p.Put(c)
	a = p.mustLease(t)
	p.Put(a) // not charged to whoever had it before
	if mine != 0 || yours != 0 {
		t.Errorf("at the end %d and %d", mine, yours)
	}
	other := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	l := other.mustLease(t)
	p.Charge(l, &mine)
	if mine != 0 {
		t.Error("a lease of another pool was charged")
	}
	other.Put(l)
}

func TestCloseOfAPoolSaysHowManyBuffersAreOut(t *testing.T) {
	p, err := NewPool(PoolOptions{BufBytes: 8, Count: 5})
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.mustLease(t), p.mustLease(t)
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "2 of 5 buffers") {
		t.Errorf("close with two leases out: %v", err)
	}
	copy(a.Bytes(), "still ok") // the memory is still there
	p.Put(a)
	elsewhere(b.Release)
	for range 2 { // closing twice is harmless
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.Lease(); !errors.Is(err, ErrExhausted) {
		t.Errorf("a lease of a closed pool: %v", err)
	}
}

func TestCloseGivesTheMemoryBack(t *testing.T) {
	const size = 256 << 20
	before := mappedBytes(t)
	for range 8 {
		p, err := NewPool(PoolOptions{BufBytes: size, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if grown := mappedBytes(t) - before; grown >= size {
		t.Errorf("%d MiB stay mapped", grown>>20)
	}
}

func TestNotifyIsCalledOnceForEachAwait(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 4})
	calls := 0
	p.Notify(func() { calls++ })
	p.mustLease(t).Release()
	if calls != 0 {
		t.Error("called though nobody awaits anything")
	}
	p.Await()
	p.Put(p.mustLease(t)) // on the owner's own goroutine: it knows
	if calls != 0 {
		t.Error("called for a Put")
	}
	a, b := p.mustLease(t), p.mustLease(t)
	elsewhere(a.Release)
	elsewhere(b.Release)
	if calls != 1 {
		t.Errorf("called %d times for two releases and one Await", calls)
	}
	p.Await()
	elsewhere(p.mustLease(t).Release)
	if calls != 2 {
		t.Errorf("called %d times for two Awaits", calls)
	}
	if p.Reclaim() == 0 {
		t.Error("nothing was reclaimed")
	}
}

// The owner sleeps when every buffer is out. A wake-up that is lost would leave it
// asleep with buffers in the returned stack.
func TestAwaitLosesNoReleaseUnderStress(t *testing.T) {
	const rounds, holders = 30_000, 3
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 2, Poison: true})
	wake := make(chan struct{}, 1)
	p.Notify(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	leases := make(chan Lease, p.Count())
	var holding sync.WaitGroup
	for range holders {
		holding.Go(func() {
			for l := range leases {
				l.Release()
			}
		})
	}
	slept := 0
	timeout := time.After(2 * limit)
	for done := 0; done < rounds; {
		l, err := p.Lease()
		if err == nil {
			l.Bytes()[0] = 1
			leases <- l
			done++
			continue
		}
		p.Await()
		if p.Reclaim() > 0 {
			continue
		}
		slept++
		select {
		case <-wake:
		case <-timeout:
			t.Fatalf("asleep after %d of %d leases", done, rounds)
		}
	}
	close(leases)
	holding.Wait()
	t.Logf("slept %d times in %d leases", slept, rounds)
}

// A release on another processor happens at the very moment at which the owner asks
// to be told of it and looks for the last time. Either he finds the buffer, or he is
// told.
func TestReleaseAtTheMomentOfAwaitIsFoundOrTold(t *testing.T) {
	const (
		rounds, budget = 100_000, 400 * time.Millisecond
		patient        = 1 << 14 // looks, without which both would seldom run at once
	)
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	var told, stop atomic.Bool
	var finished atomic.Int64 // calls of Release that have returned
	p.Notify(func() { told.Store(true) })
	var handed atomic.Pointer[Lease]
	var releasing sync.WaitGroup
	defer releasing.Wait()
	defer stop.Store(true)
	releasing.Go(func() {
		for idle := 0; !stop.Load(); {
			if l := handed.Swap(nil); l != nil {
				l.Release()
				finished.Add(1)
				idle = 0
			} else if idle++; idle%patient == 0 {
				runtime.Gosched() // the owner may need this processor
			}
		}
	})
	var lease Lease
	found, slept := 0, 0
	start := time.Now()
	for round := 0; round < rounds && time.Since(start) < budget; round++ {
		for finished.Load() != int64(round) {
			runtime.Gosched() // the last one may still be about to tell, which would be told of this one
		}
		lease = p.mustLease(t)
		p.waiting.Store(false) // what the round before left
		told.Store(false)
		handed.Store(&lease)
		for range rand.IntN(1 << rand.IntN(9)) { // so that every moment has its turn
			told.Load()
		}
		p.Await()
		if p.Reclaim() > 0 {
			found++
			continue
		}
		slept++
		asleep := time.Now()
		for idle := 1; !told.Load(); idle++ {
			if idle%patient == 0 {
				runtime.Gosched()
				if time.Since(asleep) > limit/3 {
					t.Fatalf("round %d: neither found nor told of", round)
				}
			}
		}
		if n := p.Reclaim(); n != 1 {
			t.Fatalf("round %d: told of a release, and reclaimed %d", round, n)
		}
	}
	t.Logf("found %d times, told of %d times", found, slept)
}

// Many goroutines release at once; every buffer comes back exactly once.
func TestReleasesOfManyGoroutinesAllComeBack(t *testing.T) {
	const rounds, count, holders = 200, 64, 8
	p := newPool(t, PoolOptions{BufBytes: 16, Count: count, Poison: true})
	for round := range rounds {
		leases := make([]Lease, count)
		ids := map[uint32]bool{}
		for i := range leases {
			leases[i] = p.mustLease(t)
			ids[leases[i].id] = true
		}
		if len(ids) != count {
			t.Fatalf("round %d: %d different buffers of %d", round, len(ids), count)
		}
		var holding sync.WaitGroup
		for h := range holders {
			holding.Go(func() {
				for i := h; i < count; i += holders {
					leases[i].Bytes()[0] = byte(i)
					leases[i].Release()
				}
			})
		}
		got := 0
		for got < count/2 { // while they release
			got += p.Reclaim()
			runtime.Gosched()
		}
		holding.Wait()
		if got += p.Reclaim(); got != count || p.Free() != count || p.Out() != 0 {
			t.Fatalf("round %d: %d of %d came back, %d are free", round, got, count, p.Free())
		}
	}
}

func TestPoolDoesNotAllocate(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 64, Count: 4})
	p.Notify(func() {})
	var account int32
	src := []byte("bytes")
	for name, f := range map[string]func(){
		"Lease and Put": func() { p.Put(p.mustLease(t)) },
		"Lease, Charge, Slice, Append and Put": func() {
			l := p.mustLease(t)
			p.Charge(l, &account)
			l, _ = l.Slice(0, 1).Append(src)
			p.Put(l)
		},
		"Lease, Await, Release and Reclaim": func() {
			l := p.mustLease(t)
			p.Await()
			l.Release()
			p.Reclaim()
		},
		"an exhausted pool": func() {
			var held [4]Lease
			for i := range held {
				held[i] = p.mustLease(t)
			}
			if _, err := p.Lease(); err != ErrExhausted {
				t.Error(err)
			}
			for _, l := range held {
				p.Put(l)
			}
		},
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}
