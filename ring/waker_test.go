//go:build linux

package ring

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wakers are the ways to wake a ring.
var wakers = []struct {
	name string
	mask Features
}{
	{"by message", 0},
	{"by eventfd", SyncMessage},
	{"by eventfd and single polls", SyncMessage | PollMultishot},
	{"by eventfd, completions not deferred", SyncMessage | DeferTaskrun},
}

const wakerData = 77

// waker makes an armed waker of the ring.
func (r *testRing) waker() *Waker {
	r.t.Helper()
	w, err := NewWaker(r.Ring, wakerData)
	if err != nil {
		r.t.Fatal(err)
	}
	r.after = append(r.after, func() {
		for range 2 { // closing twice is harmless
			if err := w.Close(); err != nil {
				r.t.Error(err)
			}
		}
		if err := w.Wake(); err != nil { // and waking afterwards does nothing
			r.t.Error(err)
		}
	})
	r.arm(w)
	return w
}

func (r *testRing) arm(w *Waker) {
	r.t.Helper()
	if !w.Arm() {
		r.t.Fatal("the submission queue is full")
	}
	if w.Armed() {
		r.inFlight[wakerData]++
	}
}

func TestWakerWakesAWaitingRing(t *testing.T) {
	for _, tt := range wakers {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Config{EntryCount: 1, Mask: tt.mask})
			w := r.waker()
			if r.Have(SyncMessage) == w.Armed() {
				t.Errorf("armed %v, though the kernel's messages can be used: %v", w.Armed(), r.Have(SyncMessage))
			}
			for i := range 100 {
				go func() {
					if err := w.Wake(); err != nil {
						t.Error(err)
					}
				}()
				c := r.await(wakerData)
				if c.Res < 0 {
					t.Fatalf("wake %d: %+v (%v)", i, c, c.Err())
				}
				if w.Armed() && !c.More() {
					r.arm(w)
				}
			}
			r.silent()
		})
	}
}

// A wake that comes while the ring is between the waker's completion and the next
// wait must end that wait too.
func TestWakeBetweenCompletionAndArmIsNotLost(t *testing.T) {
	for _, tt := range wakers {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Config{Mask: tt.mask})
			w := r.waker()
			for i := range 20 {
				if err := w.Wake(); err != nil {
					t.Fatal(err)
				}
				c := r.await(wakerData)
				if err := w.Wake(); err != nil {
					t.Fatal(err)
				}
				if w.Armed() && !c.More() {
					r.arm(w)
				}
				for end := time.Now().Add(limit / 10); len(r.early) == 0; {
					if time.Now().After(end) {
						t.Fatalf("round %d: the ring sleeps on after a wake", i)
					}
					r.gather(time.Until(end))
				}
				if c = r.await(wakerData); w.Armed() && !c.More() {
					r.arm(w)
				}
			}
		})
	}
}

// The protocol of a mailbox: posters enqueue, then latch, and who sets the latch
// wakes; the ring arms, clears the latch, looks, and sleeps. A lost wake-up leaves
// posts behind in the queue.
func TestWakersLoseNoPostUnderStress(t *testing.T) {
	const posters, posts = 4, 1000
	for _, tt := range wakers {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Config{EntryCount: 2, CompletionCount: 4, Mask: tt.mask})
			w := r.waker()
			var queue atomic.Int64
			var latch atomic.Bool
			var posting sync.WaitGroup
			for range posters {
				posting.Go(func() {
					for i := range posts {
						queue.Add(1)
						if !latch.Swap(true) {
							if err := w.Wake(); err != nil {
								t.Error(err)
								return
							}
						}
						// After a few posts, wait until the ring has them all and
						// is about to sleep: that is when wake-ups get lost.
						for i%4 == 0 && queue.Load() > 0 && !t.Failed() {
							runtime.Gosched()
						}
					}
				})
			}
			defer posting.Wait()
			end := time.Now().Add(2 * limit)
			for taken := int64(0); taken < posters*posts; {
				for i := range r.early {
					if c := &r.early[i]; w.Armed() && !c.More() {
						r.arm(w)
					}
				}
				r.early = r.early[:0]
				latch.Store(false)
				taken += queue.Swap(0)
				if taken == posters*posts {
					break
				}
				if time.Now().After(end) {
					t.Errorf("asleep with %d of %d posts taken", taken, posters*posts)
					break
				}
				if !latch.Load() {
					r.gather(time.Until(end))
				} else {
					r.gather(0)
				}
			}
			t.Logf("%d waits, %d completions for %d posts", r.Counters().Waits, r.Counters().Completions, posters*posts)
		})
	}
}

func TestWakeBeforeEnableAndAfterCloseIsNoDisaster(t *testing.T) {
	for _, tt := range wakers {
		r, err := New(Config{Mask: tt.mask})
		if err != nil {
			t.Fatal(err)
		}
		w, err := NewWaker(r, wakerData)
		if err != nil {
			t.Fatal(err)
		}
		// A ring that is not enabled refuses messages; a counter waits.
		if err := w.Wake(); err != nil && !errors.Is(err, unix.EBADFD) {
			t.Errorf("%s: wake before Enable: %v", tt.name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Wake(); err != nil && !errors.Is(err, unix.EBADF) {
			t.Errorf("%s: wake after Close of the ring: %v", tt.name, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWakerCanBeClosedWhileOthersWake(t *testing.T) {
	for _, tt := range wakers {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Config{CompletionCount: 4096, Mask: tt.mask})
			w := r.waker()
			var waking sync.WaitGroup
			for range 3 {
				waking.Go(func() {
					for range 1000 {
						if err := w.Wake(); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			r.await(wakerData)
			// Its poll ends first, then its descriptor.
			r.drain()
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			waking.Wait()
			r.gather(0)
			r.early = nil
		})
	}
}

func TestArmSaysWhenTheQueueIsFull(t *testing.T) {
	r := open(t, Config{EntryCount: 1, Mask: SyncMessage})
	r.eng = &reluctant{Engine: r.eng, script: []answer{{errno: unix.EBUSY}}}
	first := r.start(func(e *Entry) { e.PrepareNop() })
	w, err := NewWaker(r.Ring, wakerData)
	if err != nil {
		t.Fatal(err)
	}
	r.after = append(r.after, func() { _ = w.Close() })
	if w.Arm() {
		t.Error("armed though the queue is full and the engine busy")
	}
	r.arm(w)
	r.await(first)
}
