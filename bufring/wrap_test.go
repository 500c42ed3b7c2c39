//go:build linux

package bufring

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestWrapLeasesMemoryOfTheHeap(t *testing.T) {
	b := []byte("0123456789")
	l := Wrap(b)
	if l.Len() != 10 || !l.Valid() || &l.Bytes()[0] != &b[0] {
		t.Errorf("a lease of %q", l.Bytes())
	}
	if part := l.Slice(3, 5); string(part.Bytes()) != "34" {
		t.Errorf("bytes 3 to 5 are %q", part.Bytes())
	}
	if _, n := l.Append([]byte("x")); n != 0 {
		t.Errorf("wrapped memory took %d bytes more", n)
	}
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	var account int32
	p.Charge(l, &account)
	if p.Owns(l) || account != 0 {
		t.Error("a pool takes wrapped memory for its own")
	}
	elsewhere(l.Slice(2, 4).Release)
	if string(b) != "0123456789" {
		t.Errorf("release changed the memory: %q", b)
	}
	if m := panics(t, "a second release", l.Release); !strings.Contains(m, "released twice") {
		t.Errorf("a second release: %q", m)
	}
}

func TestWrapOfPoolsGoesThroughPut(t *testing.T) {
	p := newPool(t, PoolOptions{BufBytes: 8, Count: 1})
	l := Wrap([]byte("x"))
	p.Put(l)
	if p.Free() != 1 {
		t.Errorf("%d free of one", p.Free())
	}
	panics(t, "a second release", l.Release)
}

func TestWrapOfNothing(t *testing.T) {
	for _, b := range [][]byte{nil, {}} {
		l := Wrap(b)
		if l.Len() != 0 || !l.Valid() || len(l.Bytes()) != 0 {
			t.Errorf("a lease of nothing: %d bytes, valid %v", l.Len(), l.Valid())
		}
		l.Release()
		panics(t, "a second release", l.Release)
	}
}

// The memory is pinned until the release and free after it. A pin that was not
// taken back would crash the program when the collector finds it.
func TestWrapUnpinsWhatItReleases(t *testing.T) {
	freed := make(chan struct{})
	func() {
		b := new([64]byte)
		runtime.AddCleanup(b, func(struct{}) { close(freed) }, struct{}{})
		l := Wrap(b[:])
		b = nil
		runtime.GC()
		select {
		case <-freed:
			t.Error("leased memory was collected")
		default:
		}
		l.Bytes()[0] = 1
		l.Release()
	}()
	for end := time.Now().Add(limit); ; {
		runtime.GC()
		select {
		case <-freed:
			return
		default:
			runtime.Gosched()
		}
		if time.Now().After(end) {
			t.Fatal("released memory is never collected")
		}
	}
}
