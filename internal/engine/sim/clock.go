//go:build linux

package sim

import "time"

// event is something that happens at its time.
type event struct {
	at  time.Duration
	seq uint64 // of two at the same time, the one that was made first comes first
	do  func()
}

// eventHeap has the next event first.
type eventHeap []event

func (h eventHeap) before(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *eventHeap) push(ev event) {
	*h = append(*h, ev)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.before(i, up) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *eventHeap) pop() event {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = event{}
	s = s[:last]
	*h = s
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < len(s) && s.before(down, least) {
				least = down
			}
		}
		if least == i {
			return top
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}

// After has f called, on the world's goroutine and within a call of the engine,
// when d has passed.
func (e *Engine) After(d time.Duration, f func()) {
	e.seq++
	e.events.push(event{at: e.now + max(0, d), seq: e.seq, do: f})
}

// Clock is the world's time; reading it costs none, unlike Now.
func (e *Engine) Clock() time.Duration { return e.now }

// next is when the next event is due.
func (e *Engine) next() (time.Duration, bool) {
	if len(e.events) == 0 {
		return 0, false
	}
	return e.events[0].at, true
}

// pass lets everything happen that is due until t, and makes it t.
func (e *Engine) pass(t time.Duration) {
	for len(e.events) > 0 && e.events[0].at <= t {
		ev := e.events.pop()
		e.now = max(e.now, ev.at)
		e.counts.Events++
		e.step()
		ev.do()
	}
	e.now = max(e.now, t)
}

// Finish lets everything happen that is still to come, after Close: what is on the
// wire arrives.
func (e *Engine) Finish() {
	for {
		next, ok := e.next()
		if !ok {
			return
		}
		e.pass(next)
	}
}

// chance draws true so many times in a thousand.
func (e *Engine) chance(perMille int) bool {
	return perMille > 0 && e.rng.IntN(1000) < perMille
}

func (e *Engine) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(e.rng.Int64N(int64(d)))
}
