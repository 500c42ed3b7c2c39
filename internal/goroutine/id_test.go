//go:build linux

package goroutine

import (
	"iter"
	"runtime"
	"sync"
	"testing"
)

func TestGoroutinesAreToldApart(t *testing.T) {
	const n = 100
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := map[uintptr]bool{ID(): true}
	met := make(chan struct{})
	for range n {
		all.Go(func() {
			mu.Lock()
			seen[ID()] = true
			if len(seen) == n+1 {
				close(met)
			}
			mu.Unlock()
			<-met // so that no number is used again
		})
	}
	all.Wait()
	if seen[0] {
		t.Error("a goroutine has number 0")
	}
}

func TestAGoroutineKeepsItsNumber(t *testing.T) {
	id := ID()
	if deep(1000) != id { // its stack has moved
		t.Error("another number on a larger stack")
	}
	for range 100 {
		runtime.Gosched()
		if ID() != id {
			t.Fatal("another number on another thread")
		}
	}
}

func deep(n int) uintptr {
	var frame [100]byte
	if n == 0 {
		return ID() + uintptr(frame[0])
	}
	return deep(n-1) + uintptr(frame[n%len(frame)])
}

func TestACoroutineHasItsOwnNumber(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	next, stop := iter.Pull(func(yield func(uintptr) bool) {
		for yield(ID()) {
		}
	})
	defer stop()
	first, _ := next()
	again, _ := next()
	if first == ID() || first != again {
		t.Errorf("the coroutine is %x, and then %x; its caller %x", first, again, ID())
	}
}

// Whatever the addresses are: nothing is read.
func TestPrefetchReadsNothing(t *testing.T) {
	Prefetch(nil)
	Prefetch((*int)(nil))
	Prefetch(new([128]byte))
	PrefetchSwitch(0, 0)
	PrefetchSwitch(ID(), Stack())
	PrefetchSwitch(1<<63, ^uintptr(0))
	if n := testing.AllocsPerRun(100, func() { Prefetch(t) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
