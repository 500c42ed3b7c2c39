//go:build linux

package net

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// timerSet is a timer as a test knows it: n is its place in the order of setting. When
// it is due is known up to how long setting took, which on a slow machine is longer
// than the delays differ.
type timerSet struct {
	n        int
	delay    time.Duration
	from, to int64 // ticks between which it is due
}

// before reports that t has to fire before o: it is due earlier, however long setting
// them took, or it was set first and for no longer.
func (t timerSet) before(o timerSet) bool {
	return t.to < o.from || t.n < o.n && t.delay <= o.delay
}

func TestTimersFireInOrderAndNeverEarly(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		delays := []time.Duration{25 * time.Millisecond, 3 * time.Millisecond, 0, -time.Hour, 8 * time.Millisecond, 70 * time.Millisecond,
			8 * time.Millisecond, 1, 66 * time.Millisecond}
		fired := make(chan timerSet, len(delays))
		srv := serve(t, v.Options, script{open: func(c *Conn) {
			for i, d := range delays {
				set := timerSet{n: i, delay: max(0, d)}
				due := time.Now().Add(d)
				earliest := c.l.clock() + int64(set.delay)
				c.AfterFunc(d, func(same *Conn) {
					if same != c {
						t.Error("another connection's timer")
					}
					if late := time.Since(due); late < 0 {
						t.Errorf("timer %d fired %v early", i, -late)
					}
					fired <- set
				})
				latest := c.l.clock()
				// What is due at once fires in the next tick.
				set.from, set.to = tickAfter(earliest), max(tickAfter(latest+int64(set.delay)), tickAt(latest)+1)
			}
		}})
		srv.dial()
		var order []timerSet
		for range delays {
			order = append(order, await(t, fired, "a timer"))
		}
		for i, late := range order {
			for _, early := range order[:i] {
				if late.before(early) {
					t.Errorf("timer %d fired before timer %d: %+v", early.n, late.n, order)
				}
			}
		}
		if st := srv.Stats(); st.TimersFired != uint64(len(delays)) || st.TimersSet != 0 {
			t.Errorf("%d timers fired and %d are set: want %d and none", st.TimersFired, st.TimersSet, len(delays))
		}
	})
}

func TestStoppedTimerNeverFires(t *testing.T) {
	done := make(chan struct{})
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		never := c.AfterFunc(5*time.Millisecond, func(*Conn) { t.Error("a timer fired that was stopped") })
		if !never.Stop() {
			t.Error("Stop of a timer that is set reports false")
		}
		if never.Stop() || never.Reset(time.Millisecond) {
			t.Error("a timer that was stopped can be stopped or set again")
		}
		// Its memory serves the next one; the old handle must not mean that.
		next := c.AfterFunc(10*time.Millisecond, func(*Conn) { close(done) })
		if next == never || never.Stop() || never.Reset(time.Hour) {
			t.Error("the handle of a timer that was stopped means the next one")
		}
		// One stops another that is due at the same time.
		var second Timer
		c.AfterFunc(2*time.Millisecond, func(*Conn) {
			if !second.Stop() {
				t.Error("a timer cannot stop the next")
			}
		})
		second = c.AfterFunc(2*time.Millisecond, func(*Conn) { t.Error("a timer fired that the one before it stopped") })
		if (Timer{}).Stop() || (Timer{}).Reset(1) {
			t.Error("the zero Timer can be stopped or set")
		}
	}})
	srv.dial()
	await(t, done, "the last timer")
}

func TestResetMovesATimer(t *testing.T) {
	type outcome struct {
		took time.Duration
		n    int
	}
	ends := make(chan outcome)
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		begin, n := time.Now(), 0
		var again, later Timer
		again = c.AfterFunc(time.Millisecond, func(*Conn) {
			if again.Stop() {
				t.Error("a timer that is running can be stopped")
			}
			if n++; n < 5 {
				if !again.Reset(2*time.Millisecond) || !again.Reset(3*time.Millisecond) {
					t.Error("a timer that is running cannot be set again")
				}
				return
			}
			c.AfterFunc(0, func(*Conn) {
				if again.Reset(0) || again.Stop() {
					t.Error("a timer that is over can be set again")
				}
				ends <- outcome{time.Since(begin), n}
			})
		})
		later = c.AfterFunc(time.Hour, func(*Conn) { ends <- outcome{time.Since(begin), -1} })
		later.Reset(2 * time.Hour)
		if !later.Reset(time.Millisecond) {
			t.Error("a timer cannot be moved nearer")
		}
	}})
	srv.dial()
	first, second := await(t, ends, "the timer that was moved"), await(t, ends, "the timer that sets itself again")
	if first.n != -1 || second.n != 5 || second.took < 13*time.Millisecond {
		t.Errorf("the timers fired %+v and %+v", first, second)
	}
}

// Whatever ends a connection, its timers end with it.
func TestTimersEndWithTheirConnection(t *testing.T) {
	ends := []struct {
		name string
		data func(c *Conn)
		peer bool
	}{
		{name: "Close", data: (*Conn).Close},
		{name: "Abort", data: func(c *Conn) { c.Abort(errTest) }},
		{name: "panic", data: func(*Conn) { panic(errTest) }},
		{name: "both directions", data: func(c *Conn) { _ = c.CloseWrite() }, peer: true},
		{name: "peer", data: func(*Conn) {}, peer: true},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			var old Timer
			loopFired := make(chan struct{})
			srv := serve(t, Options{Loops: 1, poison: true}, script{
				open: func(c *Conn) {
					for range 3 {
						c.AfterFunc(100*time.Millisecond, func(*Conn) { t.Error("a timer fired after its connection's end") })
					}
					old = c.AfterFunc(time.Hour, func(*Conn) {})
				},
				data: func(c *Conn, b []byte) int {
					e.data(c)
					if e.name == "Close" || e.name == "Abort" {
						if old.Stop() || old.Reset(0) || c.AfterFunc(0, func(*Conn) { t.Error("set after the end") }) != (Timer{}) {
							t.Error("timers are alive after the end")
						}
					}
					return len(b)
				},
				close: func(c *Conn, err error) {
					if old.Stop() && !e.peer || c.AfterFunc(0, func(*Conn) { t.Error("set in OnClose") }) != (Timer{}) {
						t.Error("timers are alive in OnClose")
					}
					// What belongs to the loop goes on: long enough for those of the
					// connection to have come and gone.
					c.LoopAfterFunc(110*time.Millisecond, func() { close(loopFired) })
				},
			})
			c := srv.dial()
			write(t, c, []byte("x"))
			if e.peer {
				_ = c.CloseWrite()
			}
			srv.cause()
			await(t, loopFired, "the loop's timer")
			if st := srv.Stats(); st.TimersSet != 0 || st.TimersFired != 1 {
				t.Errorf("%d timers are set and %d have fired: want none and the loop's", st.TimersSet, st.TimersFired)
			}
		})
	}
}

func TestPanicInATimerIsContained(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		fired := make(chan struct{}, 10)
		srv := serve(t, v.Options, script{
			open: func(c *Conn) {
				c.AfterFunc(0, func(*Conn) { panic(errTest) })
				// One that is due together with it, of the same connection and of
				// the loop.
				c.AfterFunc(0, func(*Conn) { t.Error("a timer fired after its connection's end") })
				c.LoopAfterFunc(0, func() { fired <- struct{}{}; panic(errTest) })
				c.LoopAfterFunc(0, func() { fired <- struct{}{} })
			},
			data: echoWrite(t).data,
		})
		srv.dial()
		var panicked *PanicError
		if err := srv.cause(); !errors.As(err, &panicked) || panicked.Value != errTest {
			t.Errorf("OnClose was told %v", err)
		}
		await(t, fired, "the loop's timer that panics")
		await(t, fired, "the loop's timer behind it")
		if st := srv.Stats(); st.Panics != 2 {
			t.Errorf("%d panics were counted, want 2", st.Panics)
		}
		if !strings.Contains(srv.log.String(), "a function on a loop panicked") {
			t.Error("the panic of the loop's function was not told")
		}
	}, "default", "epoll", "all small")
}

// A loop timer that is set at the end does not keep the loop.
func TestLoopTimersEndWithTheirLoop(t *testing.T) {
	srv := serve(t, Options{Loops: 1}, script{close: func(c *Conn, err error) {
		c.LoopAfterFunc(time.Hour, func() { t.Error("fired") })
	}})
	srv.dial()
	until(t, "the connection to be open", func() bool { return srv.Stats().Connections == 1 })
}

// More timers than a turn fires are due at once, and set more of their kind, while
// connections are busy.
func TestManyTimersDueAtOnce(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const n = 3*timersMax + 17
		fired, all := 0, make(chan struct{})
		srv := serve(t, v.Options, script{
			open: func(c *Conn) {
				for i := range n {
					c.LoopAfterFunc(5*time.Millisecond, func() {
						if fired++; fired == 2*n {
							close(all)
						} else if i%2 == 0 {
							c.LoopAfterFunc(0, func() {
								if fired++; fired == 2*n {
									close(all)
								}
							})
							c.LoopAfterFunc(0, func() {}).Stop()
						} else {
							fired++
						}
					})
				}
			},
			data: echoWrite(t).data,
		})
		c := srv.dial()
		for range 20 {
			wantEcho(t, c, payload(1, 1000))
		}
		await(t, all, "the last timer")
	}, "default", "epoll", "queues of 1 and 2")
}

func TestTimersAndTimeoutsAllocateNothing(t *testing.T) {
	for _, cs := range []struct {
		name string
		Options
	}{
		{name: "io_uring"},
		{name: "timeouts", Options: Options{ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second}},
	} {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.Loops = 1
			h := &timerCost{}
			h.fire = func(*Conn) {}
			srv := serveHandler(t, o, h)
			c := srv.dial()
			wantEcho(t, c, payload(1, 64))
			if n := await(t, measure(srv, h), "the measurement"); n > 0 {
				t.Errorf("%v allocations per request", n)
			}
		})
	}
}

// timerCost is an echo that uses what timers there are.
type timerCost struct {
	Events
	fire func(*Conn)
	conn *Conn
}

func (h *timerCost) OnData(c *Conn, b []byte) int {
	h.conn = c
	_, _ = c.Write(b)
	return len(b)
}

// measure counts on the loop what a request's worth of timers allocates.
func measure(srv *server, h *timerCost) <-chan float64 {
	answer := make(chan float64, 1)
	_ = srv.loops[0].mail.post(func() {
		c, by := h.conn, time.Now().Add(time.Minute)
		answer <- testing.AllocsPerRun(500, func() {
			t := c.AfterFunc(time.Hour, h.fire)
			t.Reset(time.Minute)
			c.AfterFunc(time.Second, h.fire).Stop()
			c.SetReadDeadline(by)
			c.SetReadTimeout(time.Second)
			c.SetWriteTimeout(time.Second)
			c.SetIdleTimeout(time.Minute)
			c.SetReadDeadline(time.Time{})
			t.Stop()
			soon := c.AfterFunc(-1, h.fire)
			c.l.now = soon.t.at * int64(tick)
			c.l.expireTimers()
			if soon.Stop() {
				panic("it did not fire")
			}
		})
	})
	return answer
}
