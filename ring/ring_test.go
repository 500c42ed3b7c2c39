//go:build linux

package ring

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine"
	"example.com/ringnet/internal/sys"
)

func TestNopCompletesWithItsUserData(t *testing.T) {
	r := open(t, Config{})
	e := r.Entry()
	e.PrepareNop()
	e.SetUserData(42)
	if err := r.Wait(1, -1); err != nil {
		t.Fatal(err)
	}
	var c [4]Completion
	if n := r.Reap(c[:]); n != 1 || c[0].UserData != 42 || c[0].Res != 0 {
		t.Fatalf("reaped %d, first %+v", n, c[0])
	}
	if r.Reap(c[:]) != 0 || r.Ready() != 0 {
		t.Error("the completion was not taken out of the queue")
	}
}

func TestConfigIsFilledInOrRefused(t *testing.T) {
	tests := []struct {
		name                 string
		c                    Config
		entries, completions int    // if it is accepted
		refused              string // else
	}{
		{name: "zero value", entries: 256, completions: 4096},
		{name: "one entry", c: Config{EntryCount: 1}, entries: 1, completions: 4096},
		{name: "many entries", c: Config{EntryCount: 1024}, entries: 1024, completions: 8192},
		{name: "most entries", c: Config{EntryCount: 32768}, entries: 32768, completions: 65536},
		{name: "rounded up", c: Config{EntryCount: 3, CompletionCount: 9}, entries: 4, completions: 16},
		{name: "smallest", c: Config{EntryCount: 1, CompletionCount: 2}, entries: 1, completions: 2},
		{name: "as many completions as entries", c: Config{EntryCount: 64, CompletionCount: 64}, entries: 64, completions: 64},
		{name: "engine by name", c: Config{Engine: Uring}, entries: 256, completions: 4096},
		{name: "negative entries", c: Config{EntryCount: -1}, refused: "EntryCount is -1"},
		{name: "too many entries", c: Config{EntryCount: 32769}, refused: "EntryCount is 32769"},
		{name: "one completion", c: Config{EntryCount: 1, CompletionCount: 1}, refused: "CompletionCount is 1"},
		{name: "too many completions", c: Config{CompletionCount: 65537}, refused: "CompletionCount is 65537"},
		{name: "fewer completions than entries", c: Config{EntryCount: 64, CompletionCount: 63}, refused: "below EntryCount (64)"},
		{name: "negative completions", c: Config{CompletionCount: -5}, refused: "CompletionCount is -5"},
		{name: "unknown engine", c: Config{Engine: 9}, refused: "Engine is EngineKind(9)"},
		{name: "negative SQPoll", c: Config{SQPoll: -1}, refused: "SQPoll (-1ns)"},
		{name: "negative BusyPoll", c: Config{BusyPoll: -1}, refused: "BusyPoll (-1ns)"},
		{name: "SQPoll too short for the kernel's unit", c: Config{SQPoll: time.Microsecond}, refused: "at least 1ms"},
	}
	for _, tt := range tests {
		r, err := New(tt.c)
		if tt.refused != "" {
			if err == nil || !strings.Contains(err.Error(), tt.refused) || errors.Is(err, ErrNotSupported) {
				t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.refused)
			}
			if err == nil {
				_ = r.Close()
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.EntryCount() != tt.entries || r.CompletionCount() != tt.completions {
			t.Errorf("%s: %d entries and %d completions, want %d and %d", tt.name, r.EntryCount(), r.CompletionCount(), tt.entries, tt.completions)
		}
		if r.Engine() != Uring {
			t.Errorf("%s: engine %v", tt.name, r.Engine())
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEngineNamesGoBothWays(t *testing.T) {
	for _, k := range []EngineKind{Auto, Uring} {
		if got, err := ParseEngine(k.String()); got != k || err != nil {
			t.Errorf("%q is read as %v, %v", k, got, err)
		}
	}
	for _, name := range []string{"", "URING", "kqueue"} {
		if k, err := ParseEngine(name); err == nil || !strings.Contains(err.Error(), "auto") {
			t.Errorf("engine %q is read as %v, %v", name, k, err)
		}
	}
}

func TestUseBeforeEnableSaysSo(t *testing.T) {
	configs := []struct {
		name string
		Config
	}{{"a polling thread", Config{SQPoll: time.Millisecond}}}
	for _, m := range setupMasks {
		configs = append(configs, struct {
			name string
			Config
		}{m.name, Config{Mask: m.mask}})
	}
	for _, m := range configs {
		r, err := New(m.Config)
		if err != nil {
			t.Fatal(err)
		}
		r.Entry().PrepareNop()
		for name, err := range map[string]error{"Submit": r.Submit(), "Poll": r.Poll(), "Wait": r.Wait(1, 0)} {
			if !errors.Is(err, unix.EBADFD) || !strings.Contains(err.Error(), "call Enable first") {
				t.Errorf("%s: %s before Enable: %v", m.name, name, err)
			}
		}
		if r.Pending() != 1 || r.Counters().Submitted != 0 {
			t.Errorf("%s: %d pending and %d submitted, want 1 and 0", m.name, r.Pending(), r.Counters().Submitted)
		}
		runtime.LockOSThread()
		if err := r.Enable(); err != nil {
			t.Error(err)
		}
		if err := r.Enable(); err == nil {
			t.Errorf("%s: enabled twice", m.name)
		}
		// What was prepared before is not lost.
		if err := r.Wait(1, limit); err != nil || r.Ready() != 1 {
			t.Errorf("%s: after Enable %d ready, %v", m.name, r.Ready(), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}
}

// With the ring's descriptor registered the kernel finds the ring through a table
// of the thread, so that another thread is told EINVAL (it has no table), EBADF
// (its place is empty) or nothing at all (the place holds a ring of its own).
func TestUseFromAnotherThreadSaysLockOSThread(t *testing.T) {
	others := []struct {
		name string
		on   func(t *testing.T) // prepares the other thread
	}{
		{"without a ring", func(*testing.T) {}},
		{"whose ring is closed", func(t *testing.T) {
			r, err := New(Config{EntryCount: 1})
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = r.Enable(), r.Close()
		}},
		{"with a ring of its own", func(t *testing.T) {
			r, err := New(Config{EntryCount: 1})
			if err != nil {
				t.Error(err)
				return
			}
			if err := r.Enable(); err != nil {
				t.Error(err)
			}
			t.Cleanup(func() { _ = r.Close() })
		}},
	}
	for _, mask := range []Features{0, RegisteredRing} {
		for _, other := range others {
			name := "a thread " + other.name
			if mask != 0 {
				name += ", ring not registered"
			}
			t.Run(name, func(t *testing.T) {
				r := open(t, Config{Mask: mask})
				r.Entry().PrepareNop()
				done := make(chan struct{})
				go func() {
					defer close(done)
					runtime.LockOSThread() // for good: what it did to the thread ends with it
					other.on(t)
					for name, err := range map[string]error{"Submit": r.Submit(), "Poll": r.Poll(), "Wait": r.Wait(1, 0)} {
						if err == nil || !strings.Contains(err.Error(), "LockOSThread") || errors.Is(err, ErrBusy) {
							t.Errorf("%s on another thread: %v", name, err)
						}
					}
				}()
				<-done
				if r.Pending() != 1 {
					t.Errorf("%d entries are pending, want the one that could not be submitted", r.Pending())
				}
				r.gather(limit) // on its own thread it goes on as if nothing had been
				r.early = nil
				if r.Counters().Submitted != 1 || r.Counters().Completions != 1 {
					t.Errorf("counters %+v", r.Counters())
				}
			})
		}
	}
}

func TestWithManyIssuersAnyThreadMayUseTheRing(t *testing.T) {
	r := open(t, Config{Mask: SingleIssuer | RegisteredRing})
	r.Entry().PrepareNop()
	done := make(chan error)
	go func() { done <- r.Wait(1, limit) }()
	if err := <-done; err != nil || r.Ready() != 1 {
		t.Errorf("%d ready, %v", r.Ready(), err)
	}
	r.gather(0)
	r.early = nil
}

func TestWaitEndsWithItsTimeoutAndSaysNothing(t *testing.T) {
	r := open(t, Config{})
	for _, timeout := range []time.Duration{0, time.Microsecond, 30 * time.Millisecond} {
		start, interrupts := time.Now(), r.Counters().Interrupts
		if err := r.Wait(1, timeout); err != nil {
			t.Errorf("wait of %v: %v", timeout, err)
		}
		took := time.Since(start)
		if took > timeout+limit || took < timeout && r.Counters().Interrupts == interrupts {
			t.Errorf("a wait of %v took %v", timeout, took)
		}
		if r.Ready() != 0 {
			t.Error("something completed, and nothing was submitted")
		}
	}
	if c := r.Counters(); c.Waits < 3 || c.Enters < c.Waits {
		t.Errorf("counters %+v", c)
	}
}

func TestWaitForSeveralCompletionsEndsWhenTheyAreThere(t *testing.T) {
	r := open(t, Config{})
	fd := r.eventFd()
	r.start(func(e *Entry) { e.PrepareNop() })
	r.start(func(e *Entry) { e.PreparePoll(fd, unix.POLLIN) })
	if err := r.Wait(2, time.Millisecond); err != nil || r.Ready() != 1 {
		t.Errorf("%d of 2 are ready, %v", r.Ready(), err)
	}
	sys.SignalEventFd(fd)
	for end := time.Now().Add(limit); r.Ready() < 2; {
		if err := r.Wait(2, time.Until(end)); err != nil {
			t.Fatal(err)
		}
	}
	r.gather(0)
	r.early = nil
}

func TestPollFindsWhatTheKernelDeferred(t *testing.T) {
	r := open(t, Config{})
	fd := r.eventFd()
	waiting := r.start(func(e *Entry) { e.PreparePoll(fd, unix.POLLIN) })
	r.silent()
	sys.SignalEventFd(fd)
	if r.Have(DeferTaskrun) && (!r.NeedsEnter() || r.Ready() != 0) {
		t.Errorf("deferred work: announced %v, %d ready", r.NeedsEnter(), r.Ready())
	}
	if err := r.Poll(); err != nil || r.Ready() != 1 || r.NeedsEnter() {
		t.Errorf("after Poll: %d ready, more announced %v, %v", r.Ready(), r.NeedsEnter(), err)
	}
	r.await(waiting)
}

func TestEntrySubmitsByItselfWhenTheQueueIsFull(t *testing.T) {
	for _, entries := range []int{1, 4} {
		r := open(t, Config{EntryCount: entries, CompletionCount: 1024})
		const total = 500
		for i := range uint64(total) {
			e := r.Entry()
			if e == nil {
				t.Fatalf("no entry %d", i)
			}
			if *e != (Entry{}) {
				t.Fatalf("entry %d is not empty: %+v", i, *e)
			}
			e.PrepareNop()
			e.SetUserData(i)
			if free, pending := r.Free(), r.Pending(); free+pending != entries {
				t.Fatalf("%d free and %d pending of %d entries", free, pending, entries)
			}
		}
		if err := r.Submit(); err != nil || r.Pending() != 0 {
			t.Fatalf("%d pending, %v", r.Pending(), err)
		}
		if err := r.Submit(); err != nil { // of nothing: no call
			t.Error(err)
		}
		if c := r.Counters(); c.Submitted != total || c.Enters != total/uint64(entries) {
			t.Errorf("%d entries: counters %+v", entries, c)
		}
		wantInOrder(t, r, total)
	}
}

// wantInOrder reaps n completions, with the user data 0 to n-1.
func wantInOrder(t *testing.T, r *testRing, n uint64) {
	t.Helper()
	end := time.Now().Add(limit)
	var batch [7]Completion // fewer than there are: the rest waits
	for next := uint64(0); next < n; {
		got := r.Reap(batch[:])
		for _, c := range batch[:got] {
			if c.UserData != next || c.Res != 0 {
				t.Fatalf("completion %+v came where %d was due", c, next)
			}
			next++
		}
		if got == 0 {
			if time.Now().After(end) {
				t.Fatalf("%d of %d completed", next, n)
			}
			if err := r.Wait(1, 100*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.Ready() != 0 || r.Lost() != 0 {
		t.Errorf("at the end %d ready and %d lost", r.Ready(), r.Lost())
	}
	if c := r.Counters(); c.Completions != n || c.Submitted != n {
		t.Errorf("counters %+v, want %d submitted and completed", c, n)
	}
}

// The kernel keeps completions that find no place, and hands them out when the
// queue has been emptied.
func TestCompletionQueueOverflowLosesNothing(t *testing.T) {
	for _, m := range setupMasks {
		t.Run(m.name, func(t *testing.T) {
			r := open(t, Config{EntryCount: 2, CompletionCount: 2, Mask: m.mask})
			const total = 300
			for i := range uint64(total) {
				e := r.Entry()
				if e == nil {
					t.Fatalf("no entry %d", i)
				}
				e.PrepareNop()
				e.SetUserData(i)
			}
			if err := r.Submit(); err != nil {
				t.Fatal(err)
			}
			if !r.NeedsEnter() || r.Ready() != 2 {
				t.Errorf("%d ready in a queue of 2, enter needed %v", r.Ready(), r.NeedsEnter())
			}
			wantInOrder(t, r, total)
			if c := r.Counters(); c.Overflows == 0 {
				t.Errorf("counters %+v: no overflow was seen", c)
			}
			if r.NeedsEnter() {
				t.Error("an enter is still needed")
			}
		})
	}
}

// A multishot that finds the queue full ends, perhaps with a last completion that
// has no More but carries data.
func TestOverflowEndsAMultishotAndKeepsItsData(t *testing.T) {
	r := open(t, Config{EntryCount: 2, CompletionCount: 2})
	fd := r.eventFd()
	armed := r.start(func(e *Entry) { e.PreparePollMultishot(fd, unix.POLLIN) })
	r.silent()
	events := 0
	for range 8 {
		sys.SignalEventFd(fd)
		if err := r.Poll(); err != nil { // without reaping
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(limit); len(r.inFlight) > 0; {
		r.gather(100 * time.Millisecond)
		for _, c := range r.early {
			if c.UserData != armed || c.Res != unix.POLLIN {
				t.Fatalf("completion %+v (%v)", c, c.Err())
			}
			events++
		}
		r.early = nil
		if time.Now().After(end) {
			t.Fatalf("the multishot goes on after %d events in a queue of 2", events)
		}
	}
	if events < 3 {
		t.Errorf("%d events were told, want those of the queue and the last", events)
	}
	again := r.start(func(e *Entry) { e.PreparePollMultishot(fd, unix.POLLIN) })
	if c := r.await(again); c.Res != unix.POLLIN || !c.More() {
		t.Errorf("armed again: %+v (%v)", c, c.Err())
	}
}

// A signal ends a wait; it must not lose an entry or a completion.
func TestSignalsInterruptWaitsAndLoseNothing(t *testing.T) {
	for _, m := range setupMasks {
		t.Run(m.name, func(t *testing.T) {
			r := open(t, Config{EntryCount: 4, CompletionCount: 16, Mask: m.mask})
			thread := unix.Gettid()
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
						// Go's own preemption signal, which it ignores when it is not due.
						if err := unix.Tgkill(unix.Getpid(), thread, unix.SIGURG); err != nil {
							t.Error(err)
							return
						}
						runtime.Gosched()
					}
				}
			}()
			defer func() { close(stop); <-stopped }()
			fd := r.eventFd()
			end := time.Now().Add(limit)
			for rounds := 0; rounds < 200 || r.Counters().Interrupts < 3; rounds++ {
				if time.Now().After(end) {
					t.Fatalf("after %d rounds: %+v", rounds, r.Counters())
				}
				waiting := r.start(func(e *Entry) { e.PreparePoll(fd, unix.POLLIN) })
				quick := r.start(func(e *Entry) { e.PrepareNop() })
				r.await(quick)
				_ = r.Wait(1, time.Millisecond) // nothing can complete: only the time or a signal ends it
				sys.SignalEventFd(fd)
				if c := r.await(waiting); c.Res != unix.POLLIN {
					t.Fatalf("%+v (%v)", c, c.Err())
				}
				sys.DrainEventFd(fd)
			}
			c := r.Counters()
			if c.Submitted != c.Completions || c.Submitted == 0 || r.Pending() != 0 || r.Lost() != 0 {
				t.Errorf("counters %+v, %d pending, %d lost", c, r.Pending(), r.Lost())
			}
			t.Logf("%d interrupts in %d waits", c.Interrupts, c.Waits)
		})
	}
}

// reluctant is an engine that answers from a script before it does its work.
type reluctant struct {
	engine.Engine
	script []answer
}

type answer struct {
	errno syscall.Errno
	most  uint32 // take no more entries than this, 0: as many as there are
}

func (e *reluctant) enter(n uint32, do func(uint32) (int, syscall.Errno)) (int, syscall.Errno) {
	if len(e.script) == 0 {
		return do(n)
	}
	a := e.script[0]
	e.script = e.script[1:]
	if a.errno != 0 {
		return -1, a.errno
	}
	return do(min(n, a.most))
}

func (e *reluctant) Submit(n uint32) (int, syscall.Errno) { return e.enter(n, e.Engine.Submit) }
func (e *reluctant) Poll(n uint32) (int, syscall.Errno)   { return e.enter(n, e.Engine.Poll) }
func (e *reluctant) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	return e.enter(n, func(n uint32) (int, syscall.Errno) { return e.Engine.Wait(n, min, timeout) })
}

func TestErrnosOfAnEnterLoseNoEntry(t *testing.T) {
	tests := []struct {
		errno    syscall.Errno
		is       error // nil: an ordinary event
		says     string
		busy     uint64
		interupt uint64
	}{
		{errno: unix.ETIME},
		{errno: unix.EINTR, interupt: 1},
		{errno: unix.EBUSY, is: ErrBusy, busy: 1},
		{errno: unix.EAGAIN, is: ErrBusy, busy: 1},
		{errno: unix.EEXIST, is: unix.EEXIST, says: "runtime.LockOSThread"},
		{errno: unix.EBADFD, is: unix.EBADFD, says: "call Enable first"},
		{errno: unix.EBADR, is: unix.EBADR, says: "dropped completions"},
		{errno: unix.EFAULT, is: unix.EFAULT, says: "enter ring: bad address"},
	}
	for _, tt := range tests {
		for name, enter := range map[string]func(*Ring) error{
			"Submit": (*Ring).Submit,
			"Poll":   (*Ring).Poll,
			"Wait":   func(r *Ring) error { return r.Wait(1, 0) },
		} {
			r := open(t, Config{EntryCount: 2})
			r.eng = &reluctant{Engine: r.eng, script: []answer{{errno: tt.errno}}}
			first := r.start(func(e *Entry) { e.PrepareNop() })
			second := r.start(func(e *Entry) { e.PrepareNop() })
			err := enter(r.Ring)
			if tt.is == nil && err != nil || !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s ends with %v: %v, want %v: %q", name, tt.errno, err, tt.is, tt.says)
			}
			if c := r.Counters(); r.Pending() != 2 || c.Submitted != 0 || c.Busy != tt.busy || c.Interrupts != tt.interupt {
				t.Errorf("%s ends with %v: %d pending, %+v", name, tt.errno, r.Pending(), c)
			}
			r.await(first)
			r.await(second)
		}
	}
}

func TestEntryIsNilWhileTheEngineIsBusy(t *testing.T) {
	r := open(t, Config{EntryCount: 1})
	r.eng = &reluctant{Engine: r.eng, script: []answer{{errno: unix.EBUSY}, {errno: unix.EBUSY}}}
	first := r.start(func(e *Entry) { e.PrepareNop() })
	for range 2 {
		if r.Entry() != nil {
			t.Fatal("an entry came out of a full queue")
		}
	}
	if r.Pending() != 1 || r.Free() != 0 || r.Counters().Busy != 2 {
		t.Errorf("%d pending, %d free, %+v", r.Pending(), r.Free(), r.Counters())
	}
	second := r.start(func(e *Entry) { e.PrepareNop() })
	r.await(first)
	r.await(second)
}

func TestShortSubmitsLeaveTheRestPending(t *testing.T) {
	r := open(t, Config{EntryCount: 8})
	r.eng = &reluctant{Engine: r.eng, script: []answer{{most: 3}, {most: 1}, {most: 2}}}
	for i := range uint64(8) {
		e := r.Entry()
		e.PrepareNop()
		e.SetUserData(i)
	}
	for _, want := range []struct{ pending, submitted int }{{5, 3}, {4, 4}, {2, 6}, {0, 8}} {
		if err := r.Submit(); err != nil {
			t.Fatal(err)
		}
		if r.Pending() != want.pending || r.Counters().Submitted != uint64(want.submitted) {
			t.Errorf("%d pending and %d submitted, want %+v", r.Pending(), r.Counters().Submitted, want)
		}
	}
	wantInOrder(t, r, 8)
}

// The kernel itself submits short where one bad entry stops a batch. Rings ask it
// not to (SUBMIT_ALL), so a bad entry must cost only itself.
func TestABadEntryDoesNotStopTheOnesBehindIt(t *testing.T) {
	r := open(t, Config{})
	good := r.start(func(e *Entry) { e.PrepareNop() })
	bad := r.start(func(e *Entry) { e.Opcode = 250 })
	behind := r.start(func(e *Entry) { e.PrepareNop() })
	if err := r.Submit(); err != nil || r.Pending() != 0 {
		t.Errorf("%d pending, %v", r.Pending(), err)
	}
	if c := r.await(bad); c.Err() != unix.EINVAL {
		t.Errorf("an operation that does not exist: %+v (%v)", c, c.Err())
	}
	r.await(good)
	r.await(behind)
}

func TestAPollingKernelThreadTakesEntries(t *testing.T) {
	r := open(t, Config{EntryCount: 4, CompletionCount: 64, SQPoll: time.Millisecond})
	for range 50 {
		r.want(0, func(e *Entry) { e.PrepareNop() })
	}
	a, b := r.tcp()
	mem := r.memory(16)
	waiting := r.start(func(e *Entry) { e.PrepareRecv(a, mem, 0) })
	if err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	r.send(b, "polled")
	if c := r.await(waiting); c.Res != 6 || string(mem[:6]) != "polled" {
		t.Errorf("%+v (%v): %q", c, c.Err(), mem)
	}
	// The kernel's thread sleeps after a millisecond without work and must be woken.
	_ = r.Wait(1, 20*time.Millisecond)
	r.want(0, func(e *Entry) { e.PrepareNop() })
}

// The kernel's thread takes entries some time after they were handed over; until
// then a second submit must not count them again.
func TestAPollingKernelThreadsEntriesAreCountedOnce(t *testing.T) {
	r := open(t, Config{SQPoll: time.Millisecond})
	const total = 200
	for range total {
		userData := r.start(func(e *Entry) { e.PrepareNop() })
		for range 3 {
			if err := r.Submit(); err != nil {
				t.Fatal(err)
			}
		}
		r.await(userData)
	}
	if c := r.Counters(); c.Submitted != total || c.Completions != total {
		t.Errorf("counters %+v, want %d submitted and completed", c, total)
	}
}

// Completions that found no place come only through an enter, which a ring with a
// polling thread does without otherwise.
func TestAPollingKernelThreadsOverflowIsFetchedByPoll(t *testing.T) {
	r := open(t, Config{EntryCount: 8, CompletionCount: 8, SQPoll: time.Millisecond})
	const total = 16
	end := time.Now().Add(limit / 4)
	for prepared := 0; prepared < total || r.Pending() > 0; {
		if prepared < total {
			if e := r.Entry(); e != nil {
				e.PrepareNop()
				prepared++
			}
		} else if err := r.Submit(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("the kernel took %d of %d entries", prepared-r.Pending(), total)
		}
		runtime.Gosched()
	}
	var batch [total]Completion
	for reaped := 0; reaped < total; reaped += r.Reap(batch[:]) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d completed; %d pending, enter needed %v", reaped, total, r.Pending(), r.NeedsEnter())
		}
		if err := r.Poll(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBusyPollIsTakenOrRefusedClearly(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := New(Config{BusyPoll: 50 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Enable(); err != nil {
		if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "enable ring") {
			t.Error(err)
		}
		t.Skip("this kernel polls no devices (Linux 6.9)")
	}
	r.Entry().PrepareNop()
	if err := r.Wait(1, limit); err != nil || r.Ready() != 1 {
		t.Errorf("%d ready, %v", r.Ready(), err)
	}
}

// A ring of a kernel before 6.11 posts messages through task work, so any thread
// that is not the ring's must not be stopped by its flags either way.
func TestRingsOfManyThreadsDoNotDisturbEachOther(t *testing.T) {
	const rings, rounds = 8, 200
	done := make(chan error)
	for range rings {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, err := New(Config{EntryCount: 4, CompletionCount: 8})
			if err == nil {
				defer r.Close()
				err = r.Enable()
			}
			for i := uint64(0); i < rounds && err == nil; i++ {
				e := r.Entry()
				e.PrepareNop()
				e.SetUserData(i)
				var c [1]Completion
				for err == nil && r.Reap(c[:]) == 0 {
					err = r.Wait(1, limit)
				}
				if err == nil && c[0].UserData != i {
					err = errors.New("a completion of another ring")
				}
			}
			done <- err
		}()
	}
	for range rings {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestReapAndEntryDoNotAllocate(t *testing.T) {
	r := open(t, Config{})
	var batch [16]Completion
	mem := r.memory(16)
	m := r.message()
	a, b := r.tcp()
	if n := testing.AllocsPerRun(200, func() {
		r.Entry().PrepareNop()
		r.Entry().PrepareSend(a, mem[:1], 0)
		r.Entry().PrepareRecv(b, mem[1:2], 0)
		m.Reset()
		m.Append(mem[:1])
		r.Entry().PrepareSendmsg(a, m, 0)
		r.Entry().PrepareRecv(b, mem[1:2], 0)
		for got := 0; got < 5; {
			if err := r.Wait(1, limit); err != nil {
				t.Fatal(err)
			}
			got += r.Reap(batch[:])
		}
	}); n != 0 {
		t.Errorf("%v allocations a round, want none", n)
	}
}
