//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/ring"
)

// calmSpinner is a spinner that never finds other goroutines waiting.
func calmSpinner(window time.Duration) spinner {
	s := newSpinner(window)
	s.askAt = 1 << 62
	return s
}

func TestSpinnerLooksOnlyWhileWaitsAreShort(t *testing.T) {
	const (
		window = 50 * time.Microsecond
		short  = window / 2
		long   = window + sleepLatency
	)
	slept := func(d time.Duration, times int) func(*spinner) {
		return func(s *spinner) {
			for range times {
				s.slept(d)
			}
		}
	}
	cases := []struct {
		name   string
		window time.Duration
		before []func(*spinner)
		worth  bool
	}{
		{name: "new", window: window},
		{name: "three short waits", window: window, before: []func(*spinner){slept(short, spinStreak-1)}},
		{name: "four short waits", window: window, before: []func(*spinner){slept(short, spinStreak)}, worth: true},
		{name: "waits that only the sleep made long", window: window, before: []func(*spinner){slept(long-1, spinStreak)}, worth: true},
		{name: "long waits", window: window, before: []func(*spinner){slept(long, 100)}},
		{name: "a long wait after many short ones", window: window, before: []func(*spinner){slept(short, 100), slept(long, 1)}},
		{name: "a long wait between short ones", window: window, before: []func(*spinner){slept(short, 3), slept(long, 1), slept(short, 3)}},
		{name: "found once begun", window: window, before: []func(*spinner){slept(short, spinStreak), (*spinner).found}, worth: true},
		{name: "missed once begun", window: window, before: []func(*spinner){slept(short, spinStreak), (*spinner).missed}},
		{name: "missed without end", window: window, before: []func(*spinner){slept(short, 1000), (*spinner).missed, (*spinner).missed, (*spinner).missed, (*spinner).missed}},
		{name: "a few short waits after a miss", window: window, before: []func(*spinner){slept(short, spinStreak), (*spinner).missed, slept(short, spinStreak)}},
		{name: "short waits after a miss", window: window, before: []func(*spinner){slept(short, spinStreak), (*spinner).missed, slept(short, 2*spinStreak)}, worth: true},
		{name: "finding again after a miss", window: window, before: []func(*spinner){slept(short, spinTrust), (*spinner).missed, slept(short, 1), (*spinner).found}, worth: true},
		{name: "one vain look among many that find", window: window, before: []func(*spinner){slept(short, spinStreak), (*spinner).found, (*spinner).found,
			(*spinner).found, (*spinner).found, (*spinner).found, (*spinner).found, (*spinner).found, (*spinner).found, (*spinner).missed, slept(short, 3)}, worth: true},
		{name: "off", window: 0, before: []func(*spinner){slept(time.Nanosecond, 100)}},
		{name: "negative", window: -1, before: []func(*spinner){slept(time.Nanosecond, 100)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := calmSpinner(c.window)
			for _, f := range c.before {
				f(&s)
			}
			if s.worth(0) != c.worth {
				t.Errorf("worth is %v, want %v", !c.worth, c.worth)
			}
		})
	}
}

// Waits of 90 µs look short while sleeping, and are too long for looking.
func TestSpinnerSeldomLooksForWhatAlwaysComesTooLate(t *testing.T) {
	const waits = 10000
	s := calmSpinner(50 * time.Microsecond)
	vain := 0
	for range waits {
		if s.worth(0) {
			s.missed()
			vain++
		} else {
			s.slept(90 * time.Microsecond)
		}
	}
	if vain > waits/spinDoubt+8 {
		t.Errorf("%d of %d waits were looked for in vain", vain, waits)
	}
}

// However long it has paid, a few vain looks in a row end it.
func TestSpinnerGivesUpSoonAfterTrafficStops(t *testing.T) {
	s := calmSpinner(50 * time.Microsecond)
	for range 100000 {
		s.found()
	}
	misses := 0
	for s.worth(0) {
		s.missed()
		if misses++; misses > 4 {
			t.Fatal("it still looks after 4 vain looks")
		}
	}
}

func TestSpinnerDoesNotLookWhileOthersWaitForItsProcessor(t *testing.T) {
	s := calmSpinner(50 * time.Microsecond)
	for range spinStreak {
		s.slept(0)
	}
	s.busy = true
	if s.worth(0) {
		t.Error("it looks although other goroutines wait")
	}
	// Whether they do is asked again after a while, and not each time.
	s.askAt = 1000
	if s.worth(999) || s.askAt != 1000 {
		t.Errorf("asked before its time: the next is at %d", s.askAt)
	}
	s.worth(1000)
	if s.askAt != 1000+int64(busyEvery) {
		t.Errorf("asked at 1000, and again at %d: want at %d", s.askAt, 1000+int64(busyEvery))
	}
}

func TestGathererPausesOnlyWithManyBusyConnectionsAndSmallBatches(t *testing.T) {
	cases := []struct {
		name            string
		busy, inBatch   int
		pause           bool
		lateByOneEpoch  bool
		lateByTwoEpochs bool
	}{
		{name: "idle"},
		{name: "one connection", busy: 1, inBatch: 1},
		{name: "few connections", busy: gatherFrom - 1, inBatch: 1},
		{name: "many, small batches", busy: gatherFrom, inBatch: 1, pause: true},
		{name: "many, large batches", busy: gatherFrom, inBatch: gatherBatch},
		{name: "many, once", busy: gatherFrom, inBatch: 1, lateByTwoEpochs: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var g gatherer
			g.pause(0) // the first epoch begins
			conns := make([]Conn, c.busy)
			for i := range conns {
				g.note(&conns[i])
				g.note(&conns[i]) // counts once
			}
			now := int64(gatherEpoch)
			if g.pause(now) > 0 && g.received > 0 {
				t.Error("what was received in the last batch is not forgotten")
			}
			if g.busy != c.busy {
				t.Errorf("%d busy connections were counted, want %d", g.busy, c.busy)
			}
			if c.lateByTwoEpochs {
				now += int64(gatherEpoch)
				g.pause(now)
			}
			for i := range c.inBatch {
				g.note(&conns[i%max(1, c.busy)])
			}
			if paused := g.pause(now+1) > 0; paused != c.pause {
				t.Errorf("it pauses: %v, want %v", paused, c.pause)
			}
		})
	}
}

// However waits turn out, a spinner's counts stay in their bounds, it looks in vain
// but seldom, and never when it is told not to.
func FuzzSpinner(f *testing.F) {
	f.Add(int64(50*time.Microsecond), []byte{0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 1, 2, 2})
	f.Add(int64(0), []byte{0, 0, 0, 0, 0, 0, 1, 2})
	f.Add(int64(-1), []byte{0, 0, 0, 0, 0, 0, 1, 2})
	f.Add(int64(time.Millisecond), []byte{0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 3, 0, 5, 5})
	f.Fuzz(func(t *testing.T, window int64, ops []byte) {
		s := calmSpinner(time.Duration(window))
		vain, waits := 0, 0
		for _, op := range ops {
			waits++
			switch op % 6 {
			case 0:
				s.slept(s.window / 2)
			case 1: // something is found, if it looks
				if s.worth(0) {
					s.found()
				}
			case 2, 4: // nothing is
				if s.worth(0) {
					s.missed()
					vain++
				} else {
					s.slept(s.window + sleepLatency - 1)
				}
			case 3:
				s.slept(s.window + sleepLatency)
				if s.worth(0) {
					t.Fatal("it looks after a long sleep")
				}
			case 5:
				s.slept(time.Duration(window) * time.Duration(op)) // also what no clock says
			}
			if s.credit < 0 || s.credit > max(spinTrust, s.need) || s.need < spinStreak || s.need > spinDoubt || s.window < 0 {
				t.Fatalf("after %d waits: %+v", waits, s)
			}
			if s.window == 0 && s.worth(0) {
				t.Fatal("it looks although it is off")
			}
		}
		for misses := 0; s.worth(0); misses++ {
			if s.missed(); misses > 4 {
				t.Fatal("it looks in vain without end")
			}
		}
	})
}

// A gatherer counts no connection twice in an epoch, and pauses only when many have
// received and the last batch was small.
func FuzzGatherer(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 1, 2, 3, 255, 1, 200})
	f.Add(append(bytes.Repeat([]byte{7, 200}, 600), 1, 2, 3, 4, 5, 6, 7, 8, 200))
	many := make([]byte, 180)
	for i := range many {
		many[i] = byte(i)
	}
	f.Add(slices.Concat(many, []byte{255}, many[:3], []byte{200}, many, []byte{255, 200, 255, 255}))
	f.Fuzz(func(t *testing.T, ops []byte) {
		var g gatherer
		var conns [192]Conn
		now := int64(0)
		seen := map[*Conn]bool{}
		last := 0 // connections that received in the last whole epoch
		inBatch := 0
		for _, op := range ops {
			if int(op) < len(conns) {
				c := &conns[op]
				g.note(c)
				seen[c] = true
				inBatch++
				continue
			}
			now += int64(gatherEpoch) * int64(op-192) / 30 // up to two epochs
			if now >= g.nextAt {
				last = len(seen)
				clear(seen)
			}
			pause := g.pause(now)
			if g.busy > last || g.busy < 0 || g.count < 0 || g.count > len(conns) {
				t.Fatalf("%d busy connections of %d: %+v", g.busy, last, g)
			}
			if pause != 0 && pause != gatherPause {
				t.Fatalf("it pauses for %v", pause)
			}
			if pause > 0 && (last < gatherFrom || inBatch >= gatherBatch) {
				t.Fatalf("it pauses with %d busy connections and %d receives in a batch", last, inBatch)
			}
			inBatch = 0
		}
	})
}

func TestUserDataNamesWhatItWasMadeOf(t *testing.T) {
	for _, k := range []kind{kindAccept, kindRecv, kindSend, kindPoll, kindCancel, kindWake, kindCancelAccept, 0, 255} {
		for _, gen := range []uint32{0, 1, 0x123456, generationMask} {
			for _, slot := range []uint32{0, 1, 65536, 1<<32 - 1} {
				k2, gen2, slot2 := splitUserData(userData(k, gen, slot))
				if k2 != k || gen2 != gen || slot2 != slot {
					t.Errorf("%d, %#x, %#x came back as %d, %#x, %#x", k, gen, slot, k2, gen2, slot2)
				}
			}
		}
	}
	// A generation that is too large must not spill into the kind.
	if k, gen, _ := splitUserData(userData(kindRecv, generationMask+5, 0)); k != kindRecv || gen != 4 {
		t.Errorf("a large generation made kind %d, generation %d", k, gen)
	}
}

func TestTableForgetsWhatWasRemoved(t *testing.T) {
	var tb table
	conns := make([]*Conn, 100)
	for i := range conns {
		conns[i] = &Conn{}
		tb.insert(conns[i])
	}
	old := *conns[7]
	for i, c := range conns {
		if got := tb.find(c.gen, c.slot); got != c {
			t.Fatalf("connection %d is not found", i)
		}
		if tb.find(c.gen+1, c.slot) != nil || tb.find(c.gen-1, c.slot) != nil {
			t.Fatalf("connection %d is found under another generation", i)
		}
	}
	if tb.find(1, 100) != nil || tb.find(1, 1<<32-1) != nil {
		t.Error("a slot beyond the table is found")
	}
	// f may remove what it is called with.
	seen := 0
	tb.each(func(c *Conn) { seen++; tb.remove(c) })
	if seen != len(conns) || tb.used != 0 {
		t.Errorf("%d of %d connections were seen, %d are left", seen, len(conns), tb.used)
	}
	for range conns {
		tb.insert(&Conn{})
	}
	if len(tb.slots) != len(conns) {
		t.Errorf("%d slots for %d connections: free ones were not used again", len(tb.slots), len(conns))
	}
	if tb.find(old.gen, old.slot) != nil {
		t.Error("a connection that was removed is found")
	}
	// Generations wrap within their bits.
	c := &Conn{}
	for range 5 {
		tb.slots[0].gen = generationMask
		tb.slots[0].conn = nil
		tb.free = append(tb.free[:0], 0)
		tb.insert(c)
		if c.slot != 0 || c.gen > generationMask || tb.find(c.gen, 0) != c {
			t.Fatalf("after the last generation comes %#x", c.gen)
		}
	}
}

// A post to a sleeping, waking or busy loop must always be run: a wake-up that is
// lost once in a million would stop a server for good.
func TestNoPostIsLost(t *testing.T) {
	cases := []struct {
		name string
		Options
	}{
		{name: "message", Options: Options{Spin: -1}},
		{name: "message, spinning", Options: Options{Spin: time.Millisecond}},
		{name: "eventfd", Options: Options{Spin: -1, Mask: ring.SyncMessage}},
		{name: "eventfd, single poll", Options: Options{Spin: -1, Mask: ring.SyncMessage | ring.PollMultishot}},
		{name: "eventfd, spinning", Options: Options{Spin: time.Millisecond, Mask: ring.SyncMessage}},
		{name: "smallest queues", Options: Options{EntryCount: 1, CompletionCount: 2}},
		{name: "eventfd, smallest queues", Options: Options{EntryCount: 1, CompletionCount: 2, Mask: maskAll}},
		{name: "no defer taskrun", Options: Options{Spin: -1, Mask: ring.DeferTaskrun}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := c.Options
			o.Loops = 1
			srv := serve(t, o, echoWrite(t))
			l := srv.loops[0]
			// Some wait for each of their posts, so that the loop falls asleep in
			// between, and some do not.
			const patient, hasty = 4, 2
			each := few(1500)
			var ran atomic.Int64
			err := crowd(patient+hasty, func(i int) error {
				done := make(chan struct{}, each)
				for n := range each {
					if err := l.mail.post(func() { ran.Add(1); done <- struct{}{} }); err != nil {
						return err
					}
					if i >= patient && n < each-1 {
						continue
					}
					select {
					case <-done:
					case <-time.After(patience):
						return fmt.Errorf("post %d was not run within %v", n, patience)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if n := int(ran.Load()); n != (patient+hasty)*each {
				t.Errorf("%d of %d posts were run", n, (patient+hasty)*each)
			}
			wantEcho(t, srv.dial(), []byte("still there"))
		})
	}
}

// A poster that finds the latch set leaves without waking anybody, so from the
// moment on at which the loop looks at the queue it must not find it set.
func TestMailboxClearsItsLatchBeforeItLooks(t *testing.T) {
	m := mailbox{wake: func() {}, maxLetters: 10}
	if err := m.post(func() {}); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock() // the loop cannot look at the queue yet
	taken := make(chan bool)
	go func() { taken <- m.take() }()
	deadline := time.Now().Add(time.Second)
	for m.state.Load() == mailRoused && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if m.state.Load() == mailRoused {
		t.Error("the loop looks at the queue while posters believe that it will")
	}
	m.mu.Unlock()
	if !await(t, taken, "the loop to look") {
		t.Error("the post is not there")
	}
}

func TestPostsRunInOrder(t *testing.T) {
	srv := serve(t, Options{Loops: 1, poison: true}, script{})
	l := srv.loops[0]
	var order []int
	for i := range 10000 {
		if err := l.mail.post(func() { order = append(order, i) }); err != nil {
			t.Fatal(err)
		}
	}
	srv.onLoop(0, func(*loop) {
		for i, n := range order {
			if n != i {
				t.Fatalf("post %d ran in place of %d", n, i)
			}
		}
		if len(order) != 10000 {
			t.Errorf("%d of 10000 posts ran", len(order))
		}
	})
}

func TestMailboxIsBoundedAndSaysSo(t *testing.T) {
	const most = 1000
	srv := serve(t, Options{Loops: 1, MaxPosted: most, poison: true}, script{})
	l := srv.loops[0]
	release := srv.hold(0)
	var ran atomic.Int64
	for i := range most {
		if err := l.mail.post(func() { ran.Add(1) }); err != nil {
			t.Fatalf("post %d: %v", i, err)
		}
	}
	if err := l.mail.post(func() { t.Error("a post that was refused was run") }); !errors.Is(err, ErrBusy) {
		t.Errorf("post %d: %v, want %v", most, err, ErrBusy)
	}
	// A shutdown is not refused, and neither is the question how the loop is.
	ended := make(chan error, 1)
	stats := make(chan Stats, 1)
	go func() {
		stats <- srv.Stats()
		ended <- srv.shutdown()
	}()
	release()
	await(t, stats, "the counters")
	if err := await(t, ended, "shutdown"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if n := ran.Load(); n != most {
		t.Errorf("%d of %d posts were run", n, most)
	}
	if err := l.mail.post(func() {}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("post after the end: %v, want %v", err, ErrServerClosed)
	}
}

// Every post that was taken is run, also when the loop ends meanwhile: somebody may
// wait for its answer.
func TestPostsAreRunAlthoughTheLoopEnds(t *testing.T) {
	for range 20 {
		srv := serve(t, Options{Loops: 1, poison: true}, script{})
		l := srv.loops[0]
		var taken, ran atomic.Int64
		var posting sync.WaitGroup
		for range 4 {
			posting.Go(func() {
				for {
					err := l.mail.post(func() { ran.Add(1) })
					if errors.Is(err, ErrServerClosed) {
						return
					} else if err == nil {
						taken.Add(1)
					}
					runtime.Gosched() // the loop needs a processor as well
				}
			})
		}
		if err := srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		posting.Wait()
		if taken.Load() != ran.Load() {
			t.Fatalf("%d posts were taken, %d were run", taken.Load(), ran.Load())
		}
		srv.stop()
	}
}
