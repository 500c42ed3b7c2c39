//go:build linux

package net

import (
	"runtime/metrics"
	"time"
)

// spinner decides whether a loop looks for completions in shared memory before it
// sleeps. Looking costs the time until something comes; sleeping costs two context
// switches and the time to wake, some 10 to 40 µs, and on a virtual machine up to
// 100. So looking pays while waits are short, and only then. credit counts for it:
// a short wait adds one, a long sleep takes all, and a look in vain more than half.
//
// Waits that are a little too long for looking seem short while sleeping, since
// a sleep is late itself. They would bring the loop back to a look in vain again
// and again, so each of these doubles the credit that is needed, and each that
// finds something halves it.
type spinner struct {
	window time.Duration // how long to look; 0: never
	credit int           // 0 to spinTrust, or to need
	need   int           // credit from which to look: spinStreak to spinDoubt

	// Other goroutines may wait for this loop's processor. They are looked for
	// once per busyEvery, not at each wait, since asking takes a microsecond.
	busy   bool
	askAt  int64
	sample [1]metrics.Sample
}

const (
	spinStreak = 4
	spinTrust  = 16
	spinDoubt  = 64 // then at most one in so many waits is looked for in vain
	// sleepLatency is what a sleep adds to a wait: to be woken takes that long,
	// and the peer, having slept as well, needs as much. A wait that took less
	// than the window and this would have been short had we looked.
	sleepLatency = 60 * time.Microsecond
	busyEvery    = time.Millisecond
)

func newSpinner(window time.Duration) spinner {
	s := spinner{window: max(0, window), need: spinStreak}
	s.sample[0].Name = "/sched/goroutines/runnable:goroutines"
	return s
}

// worth reports whether to look before sleeping.
func (s *spinner) worth(now int64) bool {
	if s.credit < s.need || s.window == 0 {
		return false
	}
	if now >= s.askAt {
		s.askAt = now + int64(busyEvery)
		metrics.Read(s.sample[:])
		s.busy = s.sample[0].Value.Kind() == metrics.KindUint64 && s.sample[0].Value.Uint64() > 0
	}
	return !s.busy
}

// found notes that something came while looking.
func (s *spinner) found() {
	s.need = max(spinStreak, s.need/2)
	s.short()
}

func (s *spinner) short() { s.credit = min(s.credit+1, max(spinTrust, s.need)) }

// missed notes that nothing came while looking.
func (s *spinner) missed() {
	if s.credit <= s.need {
		s.credit = 0 // it had just begun
	}
	s.credit = max(0, s.credit/2-1)
	s.need = min(2*s.need, spinDoubt)
}

// slept notes how long a sleep took.
func (s *spinner) slept(d time.Duration) {
	if d < s.window+sleepLatency {
		s.short()
	} else {
		s.credit = 0
	}
}

// gatherer decides whether a turn that finds little to do waits a moment for more.
//
// A batch is as large as what came while the one before was worked on. When many
// connections are busy and the loop is just a little faster than its peers,
// batches shrink to a few completions, and each has the whole price of an enter.
// A pause of a few microseconds, which the loop has to spare, makes them large
// again; next to the time that a request spends waiting for its turn among so
// many it does not count. With few busy connections it would only be a delay, so
// busy ones are counted.
type gatherer struct {
	epoch    uint8 // of counting, see Conn.epoch
	count    int   // connections that have received in this epoch
	busy     int   // in the last whole one
	nextAt   int64 // when the next epoch begins
	received int   // receives in the last batch
}

const (
	gatherEpoch = time.Millisecond
	gatherFrom  = 32 // busy connections
	gatherBatch = 24 // receives; with more, an enter's price is spread thin
	gatherPause = 6 * time.Microsecond
)

// note counts a receive of c.
func (g *gatherer) note(c *Conn) {
	g.received++
	if c.epoch != g.epoch {
		c.epoch = g.epoch
		g.count++
	}
}

// pause is how long this turn should wait for more.
func (g *gatherer) pause(now int64) time.Duration {
	if now >= g.nextAt {
		g.nextAt = now + int64(gatherEpoch)
		g.busy, g.count = g.count, 0
		g.epoch++
	}
	few := g.received < gatherBatch
	g.received = 0
	if few && g.busy >= gatherFrom {
		return gatherPause
	}
	return 0
}

// wait is the first step of a turn: hand over what was prepared, and have
// completions in the batch, unless others have work for the loop.
func (l *loop) wait() {
	if len(l.udp.dirty) > 0 {
		l.settleSockets()
	}
	l.group.Refill()
	if l.udp.group != nil {
		l.udp.group.Refill()
	}
	l.reset()
	start := l.clock()
	l.turned(start)
	if pause := l.gather.pause(start); pause > 0 && l.spin.window > 0 {
		for end := start + int64(pause); start < end; start = l.clock() {
		}
	}
	l.now = start
	if l.r.Pending() > 0 || l.r.NeedsEnter() || l.pressing() {
		l.entered(l.r.Poll())
		if l.reap() || l.pressing() {
			return
		}
	} else if l.reap() {
		return
	}
	if len(l.untold.list) > 0 {
		l.untold.now = true // there is nothing else to do
		return
	}
	start = l.clock()
	if l.spin.worth(start) {
		end, found := l.look(start)
		l.now = end
		if found {
			l.spin.found()
			l.stats.SpinsFound++
			if l.r.NeedsEnter() {
				l.entered(l.r.Poll())
			}
			l.reap()
			return
		}
		l.spin.missed()
		l.stats.SpinsMissed++
		l.sleep(end, false)
	} else {
		l.sleep(start, true)
	}
	l.reap()
}

// look watches shared memory until something is there or the window is over, and
// tells when it last looked at the clock.
func (l *loop) look(start int64) (now int64, found bool) {
	end := start + int64(l.spin.window)
	for now = start; ; {
		for range l.glances {
			if l.r.Glance() || l.mail.roused() {
				return now, true
			}
		}
		if now = l.clock(); now >= end {
			return now, false
		}
	}
}

// sleep blocks until there is something to do.
func (l *loop) sleep(start int64, note bool) {
	if !l.mail.doze() {
		return
	}
	timeout := l.untilExpiry()
	l.watched.asleep()
	l.entered(l.r.Wait(1, timeout))
	l.mail.awoke()
	l.now = l.clock()
	l.watched.awake()
	d := time.Duration(l.now - start)
	l.stats.Asleep += d
	if note && l.spin.window > 0 {
		l.spin.slept(d)
	}
}

// pressing reports work that does not come through the completion queue.
func (l *loop) pressing() bool {
	if len(l.udp.dirty) > 0 || len(l.udp.starved) > 0 && l.udp.group.Available() >= l.udp.enough() {
		return true
	}
	if len(l.readyList) > 0 || len(l.sending) > 0 || len(l.chunkless) > 0 && l.chunks.Free() > 0 || len(l.retry) > 0 ||
		len(l.dials.retry) > 0 || len(l.dirty) > 0 || !l.woken.empty() || len(l.owing) > 0 || l.armLater || l.acceptMore || len(l.arrivals) > 0 || l.mail.roused() {
		return true
	}
	// Some that feed has let go on may not read at all, or have nothing to read;
	// then no completion would bring the turn in which the next have theirs.
	return len(l.starved) > 0 && l.group.Available() >= l.enough()
}
