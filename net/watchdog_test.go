//go:build linux

package net

import (
	"strings"
	"testing"
	"time"
)

// stallingCallback blocks until it is let go; its name is to be found in the warning.
func stallingCallback(entered chan<- struct{}, free <-chan struct{}) {
	entered <- struct{}{}
	<-free
}

func TestWatchdogTellsOfAStallOnceWithItsStack(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.StallAfter = 20 * time.Millisecond
		entered, free := make(chan struct{}), make(chan struct{})
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			// A goroutine that the callback starts has its label, and is not it.
			go func() { <-free }()
			stallingCallback(entered, free)
			return len(b)
		}})
		// Not before, in spite of what other tests do to this machine.
		const warning = "a callback stalls its loop"
		c := srv.dial()
		before := strings.Count(srv.log.String(), warning)
		write(t, c, []byte("x"))
		await(t, entered, "the callback")
		until(t, "the warning", func() bool { return strings.Count(srv.log.String(), warning) == before+1 })
		time.Sleep(3 * o.StallAfter) // in which it must not be told again
		log := srv.log.String()
		if n := strings.Count(log, warning) - before; n != 1 {
			t.Errorf("the stall was told %d times", n)
		}
		if !strings.Contains(log, "net.stallingCallback") || !strings.Contains(log, "(*loop).run") || !strings.Contains(log, "watchdog_test.go:") {
			t.Errorf("the warning does not show where the callback is:\n%s", log)
		}
		close(free)
		until(t, "the stall to be counted", func() bool { return srv.Stats().Stalls > 0 })
		if st := srv.Stats(); st.LongestTurn < 3*o.StallAfter {
			t.Errorf("the longest turn was %v, a callback in it took %v", st.LongestTurn, 3*o.StallAfter)
		}
	}, "default", "epoll", "loops", "no spin")
}

// Of a fiber that stalls its loop it is the fiber's stack that helps, and not that of one
// that waits.
func TestWatchdogShowsTheFiberThatStalls(t *testing.T) {
	entered, free := make(chan struct{}), make(chan struct{})
	srv := serveBlocking(t, Options{Loops: 1, StallAfter: 20 * time.Millisecond}, func(s *Stream) error {
		b := make([]byte, 1)
		for {
			if _, err := s.Read(b); err != nil {
				return err
			}
			if b[0] == 's' {
				stallingCallback(entered, free)
			}
		}
	})
	write(t, srv.dial(), []byte("w"))
	write(t, srv.dial(), []byte("s"))
	await(t, entered, "the fiber")
	until(t, "the warning", func() bool { return strings.Contains(srv.log.String(), "stalls its loop") })
	close(free)
	if log := srv.log.String(); !strings.Contains(log, "net.stallingCallback") || strings.Contains(log, "Stream).Read") {
		t.Errorf("the warning does not show where the fiber is:\n%s", log)
	}
}

// While nothing happens it has no timer that would wake the process up.
func TestWatchdogParksWhileAllLoopsSleep(t *testing.T) {
	srv := serve(t, Options{Loops: 2, StallAfter: 10 * time.Millisecond}, echoWrite(t))
	dog := srv.loops[0].watched.dog
	for i := range 3 {
		until(t, "the watchdog to park", dog.parked.Load)
		c := srv.dial()
		wantEcho(t, c, payload(uint64(i), 100))
		// It was called, or has parked again since.
		release := srv.hold(i % 2)
		if dog.parked.Load() {
			t.Error("the watchdog is parked although a loop works")
		}
		release()
	}
}

// One that is parked sees the stall of the turn that it was called for.
func TestWatchdogSeesTheFirstTurnAfterItParked(t *testing.T) {
	srv := serve(t, Options{Loops: 1, StallAfter: 10 * time.Millisecond}, script{})
	until(t, "the watchdog to park", srv.loops[0].watched.dog.parked.Load)
	release := srv.hold(0)
	until(t, "the warning", func() bool { return strings.Contains(srv.log.String(), "stalls its loop") })
	release()
}

func TestWatchdogCanBeSwitchedOff(t *testing.T) {
	srv := serve(t, Options{Loops: 1, StallAfter: -1}, script{})
	if srv.loops[0].watched.dog != nil {
		t.Error("there is a watchdog")
	}
	release := srv.hold(0)
	time.Sleep(120 * time.Millisecond) // longer than the default
	release()
	if st := srv.Stats(); st.Stalls != 0 || strings.Contains(srv.log.String(), "stalls") {
		t.Errorf("%d stalls are counted", st.Stalls)
	}
}

// No loop is started here: the watchdog's own protocol, with beats that the test
// makes. A loop that works is never left alone by a watchdog that parks.
func TestWatchdogNeverParksOnAWorkingLoop(t *testing.T) {
	o, err := Options{StallAfter: time.Millisecond, Logger: quiet()}.check()
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{o: &o}
	dog := newWatchdog([]*loop{l}, &o)
	go dog.run()
	defer dog.end()
	for range few(2000) {
		l.watched.asleep()
		l.watched.working()
		l.watched.awake()
		for range 3 {
			if dog.parked.Load() {
				// It may be about to look, and must then find the beat.
				until(t, "the watchdog to see a loop that works", func() bool { return !dog.parked.Load() })
			}
		}
		l.watched.asleep()
		if n := len(dog.call); n > 1 {
			t.Fatalf("%d calls wait", n)
		}
		time.Sleep(time.Microsecond)
	}
}
