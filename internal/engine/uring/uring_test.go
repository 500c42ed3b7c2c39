//go:build linux

package uring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
	"example.com/ringnet/internal/sys"
)

// TestMain fails the package when a test leaves a descriptor open.
func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// open makes an engine on the test's own thread.
func open(t *testing.T, o Options) *Engine {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	if o.EntryCount == 0 {
		o.EntryCount, o.CompletionCount = 4, 8
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := e.Enable(); err != nil {
		t.Fatal(err)
	}
	return e
}

// nop does one operation through the engine.
func nop(t *testing.T, e *Engine, userData uint64) {
	t.Helper()
	q := e.Queues()
	q.Next().UserData = userData // an empty entry is a nop
	q.Publish()
	for end := time.Now().Add(10 * time.Second); q.Ready() == 0; {
		if _, errno := e.Wait(q.Unconsumed(), 1, time.Second); errno != 0 && errno != unix.EINTR && errno != unix.ETIME {
			t.Fatal(errno)
		}
		if time.Now().After(end) {
			t.Fatal("no completion")
		}
	}
	if c := q.Completion(0); c.UserData != userData || c.Res != 0 {
		t.Errorf("completion %+v, want user data %d", *c, userData)
	}
	q.Advance(1)
}

const always = sys.IORING_SETUP_R_DISABLED | sys.IORING_SETUP_SUBMIT_ALL | sys.IORING_SETUP_CQSIZE | sys.IORING_SETUP_CLAMP

func TestSetupFlagsAreWhatIsWantedLessWhatIsMasked(t *testing.T) {
	const (
		single   = sys.IORING_SETUP_SINGLE_ISSUER
		deferred = sys.IORING_SETUP_DEFER_TASKRUN
		flag     = sys.IORING_SETUP_TASKRUN_FLAG
		noArray  = sys.IORING_SETUP_NO_SQARRAY
	)
	tests := []struct {
		name   string
		mask   uint32
		sqpoll time.Duration
		want   uint32
	}{
		{name: "nothing masked", want: single | deferred | flag | noArray},
		{name: "no entry array masked", mask: noArray, want: single | deferred | flag},
		{name: "deferred work masked", mask: deferred, want: single | noArray},
		{name: "single issuer masked, which deferred work needs", mask: single, want: noArray},
		{name: "all masked", mask: noArray | deferred | single, want: 0},
		{name: "polling thread", sqpoll: time.Millisecond, want: sys.IORING_SETUP_SQPOLL | single | noArray},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := open(t, Options{EntryCount: 4, CompletionCount: 8, Mask: tt.mask, SQPoll: tt.sqpoll})
			got := e.SetupFlags() &^ always
			if e.SetupFlags()&always != always {
				t.Errorf("flags %#x lack some of %#x", e.SetupFlags(), always)
			}
			// An older kernel gives fewer, never others.
			if got&^tt.want != 0 {
				t.Errorf("flags %#x, want %#x", got, tt.want)
			} else if got != tt.want {
				t.Logf("flags %#x on this kernel, %#x wanted", got, tt.want)
			}
			for i := range uint64(10) {
				nop(t, e, i)
			}
		})
	}
}

func TestQueuesHaveTheSizesAskedForOrTheKernelsLimit(t *testing.T) {
	tests := []struct{ entries, completions, wantEntries, wantCompletions uint32 }{
		{entries: 1, completions: 2, wantEntries: 1, wantCompletions: 2},
		{entries: 3, completions: 5, wantEntries: 4, wantCompletions: 8},
		{entries: 1 << 20, completions: 1 << 21, wantEntries: 32768, wantCompletions: 65536},
	}
	for _, tt := range tests {
		e := open(t, Options{EntryCount: tt.entries, CompletionCount: tt.completions})
		if q := e.Queues(); q.EntryCount() != tt.wantEntries || q.CompletionCount() != tt.wantCompletions {
			t.Errorf("asked for %d and %d, got %d and %d", tt.entries, tt.completions, q.EntryCount(), q.CompletionCount())
		}
	}
}

func TestNewSaysEINVALWhenThereIsNothingLeftToGiveUp(t *testing.T) {
	e, err := New(Options{EntryCount: 0, CompletionCount: 1})
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v, want EINVAL", err)
	}
	if err == nil {
		_ = e.Close()
	}
}

// A thread has 16 places for ring descriptors (IO_RINGFD_REG_MAX). What finds
// none works by its ordinary descriptor.
func TestEngineWorksWhenItsThreadHasNoPlaceForItsDescriptor(t *testing.T) {
	failed := 0
	for i := range uint64(20) {
		e := open(t, Options{})
		if e.RingFdError != nil {
			failed++
		}
		nop(t, e, i)
	}
	if failed != 4 {
		t.Errorf("%d of 20 rings found no place among 16", failed)
	}
}

func TestClosingAnEngineGivesItsPlaceOnTheThreadBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range 40 {
		e, err := New(Options{EntryCount: 1, CompletionCount: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Enable(); err != nil {
			t.Fatal(err)
		}
		if e.RingFdError != nil {
			t.Fatalf("ring %d: %v", i, e.RingFdError)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Close on another thread cannot reach the registration of the thread that owns
// the ring, and must not undo one of its own, which may have the same place.
func TestCloseOnAnotherThreadLeavesThatThreadsOwnRingAlone(t *testing.T) {
	for _, mask := range []uint32{0, sys.IORING_SETUP_SINGLE_ISSUER} {
		t.Run(fmt.Sprintf("mask %#x", mask), func(t *testing.T) {
			var mine [16]*Engine // all the places that this thread has
			for i := range mine {
				mine[i] = open(t, Options{Mask: mask})
			}
			theirs := make(chan *Engine)
			closed, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				runtime.LockOSThread() // for good: the thread keeps a closed ring registered
				e, err := New(Options{EntryCount: 1, CompletionCount: 2, Mask: mask})
				if err == nil {
					err = e.Enable()
				}
				if err != nil {
					t.Error(err)
				}
				theirs <- e
				<-closed // the thread must live on: with it, its ring would go
			}()
			if e := <-theirs; e != nil {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}
			close(closed)
			<-ended
			for i, e := range mine {
				q := e.Queues()
				q.Next()
				q.Publish()
				if _, errno := e.Poll(1); errno != 0 {
					t.Errorf("another thread's ring was closed here: now entering ring %d of this thread says %v", i, errno)
				}
				q.Advance(q.Ready())
			}
		})
	}
}

func TestCloseTwiceIsHarmlessAndWakeAfterItSaysEBADF(t *testing.T) {
	e, err := New(Options{EntryCount: 1, CompletionCount: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := e.Wake(1); !errors.Is(err, unix.EBADF) {
		t.Errorf("wake of a closed ring: %v, want EBADF", err)
	}
}

func TestWakeIsSafeDuringClose(t *testing.T) {
	for range 50 {
		e := open(t, Options{})
		woken := make(chan struct{})
		go func() {
			defer close(woken)
			for e.Wake(1) == nil { // until it is closed, or at once on a kernel without it
			}
		}()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		<-woken
	}
}
