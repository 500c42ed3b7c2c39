package main

import "time"

// schedule is an open loop: requests are due at fixed times, over the connections
// in turn, whether or not the server keeps up. Latency counts from when they
// were due, so a stall is felt by all that were due in it.
type schedule struct {
	interval float64 // nanoseconds
	begin    int64
	issued   uint64
	next     int64 // when the next request is due
	turn     int   // whose it is
}

func newSchedule(rate float64, now int64) *schedule {
	return &schedule{interval: float64(time.Second) / rate, begin: now, next: now}
}

// issue begins every request that is due.
func (s *schedule) issue(l *load) error {
	l.tick()
	for s.next <= l.now {
		c := &l.conns[s.turn]
		if s.turn++; s.turn == len(l.conns) {
			s.turn = 0
		}
		if c.inFlight() < maxInFlight {
			l.begin(c, s.next)
			if err := l.driver.flush(c); err != nil {
				return err
			}
		} else {
			l.missed++
		}
		s.issued++
		s.next = s.begin + int64(float64(s.issued)*s.interval)
	}
	return nil
}
