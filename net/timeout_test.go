//go:build linux

package net

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

// wantTimeout waits for an OnClose and holds its cause to that of a timeout.
func (s *server) wantTimeout(op string) {
	s.t.Helper()
	err := s.cause()
	var e *OpError
	if !errors.As(err, &e) || e.Op != op || !errors.Is(err, os.ErrDeadlineExceeded) || e.Addr == (Addr{}) {
		s.t.Errorf("OnClose was told %v, want a timeout of %s with the peer's address", err, op)
	}
	var timeout interface{ Timeout() bool }
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		s.t.Errorf("%v does not say by Timeout that it is one", err)
	}
}

// since is when something last happened, on the loop's goroutine, and that at least
// d has passed when it is looked at. A turn counts as one moment, its beginning.
type since struct{ at time.Time }

func (s *since) now() { s.at = time.Now() }

func (s *since) want(t testing.TB, c *Conn, d time.Duration) {
	t.Helper()
	if took := time.Since(s.at) + c.l.stats.LongestTurn; took < d {
		t.Errorf("the connection ends %v after what its time is counted from, want %v", took, d)
	}
}

func TestSilentPeerTimesOut(t *testing.T) {
	const d = 30 * time.Millisecond
	cases := []struct {
		name, op string
		set      func(c *Conn)
		Options
	}{
		{name: "read", op: "read", set: func(c *Conn) { c.SetReadTimeout(d) }},
		{name: "idle", op: "idle", set: func(c *Conn) { c.SetIdleTimeout(d) }},
		{name: "read of all", op: "read", Options: Options{ReadTimeout: d}},
		{name: "idle of all", op: "idle", Options: Options{IdleTimeout: d, WriteTimeout: time.Hour, ReadTimeout: time.Hour}},
		{name: "longer than that of all", op: "idle", Options: Options{IdleTimeout: time.Millisecond}, set: func(c *Conn) { c.SetIdleTimeout(d) }},
		{name: "deadline", op: "read", set: func(c *Conn) { c.SetReadDeadline(time.Now().Add(d)) }},
		{name: "both deadlines", op: "read", set: func(c *Conn) { c.SetDeadline(time.Now().Add(d)) }},
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, cs := range cases {
			t.Run(cs.name, func(t *testing.T) {
				o := v.Options
				o.ReadTimeout, o.WriteTimeout, o.IdleTimeout = cs.ReadTimeout, cs.WriteTimeout, cs.IdleTimeout
				var opened since
				srv := serve(t, o, script{
					open: func(c *Conn) {
						opened.now()
						if cs.set != nil {
							cs.set(c)
						}
					},
					close: func(c *Conn, _ error) { opened.want(t, c, d) },
				})
				c := srv.dial()
				wantRest(t, c, nil)
				srv.wantTimeout(cs.op)
				if st := srv.Stats(); st.Timeouts != 1 || st.TimersSet != 0 {
					t.Errorf("%d timeouts and %d timers, want one and none", st.Timeouts, st.TimersSet)
				}
			})
		}
	}, "default", "epoll", "no spin", "loops", "all small", "no recv multishot")
}

// A busy connection times out when it falls silent, and not before.
func TestBusyConnectionTimesOutWhenItFallsSilent(t *testing.T) {
	const d = 60 * time.Millisecond
	for _, m := range modes {
		for _, op := range []string{"read", "idle"} {
			t.Run(m.name+" "+op, func(t *testing.T) {
				var last since
				s := echoWrite(t)
				s.open = func(c *Conn) { last.now() }
				echo := s.data
				s.data = func(c *Conn, b []byte) int {
					last.now()
					return echo(c, b)
				}
				s.close = func(c *Conn, _ error) { last.want(t, c, d) }
				srv := serve(t, m.Options, s)
				c := srv.dial()
				wantEcho(t, c, payload(1, 100)) // it is open
				if m.bulk {
					srv.toBulk(c)
				}
				srv.onLoop(0, func(l *loop) {
					for _, c := range l.testConns() {
						if op == "read" {
							c.SetReadTimeout(d)
						} else {
							c.SetIdleTimeout(d)
						}
					}
				})
				// For several times d. A machine that does not get to run for that long
				// ends it sooner, rightly.
				for begin := time.Now(); time.Since(begin) < 4*d; {
					if err := exchange(c, payload(1, 3000)); err != nil {
						break
					}
				}
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Logf("the peer sees %v", err)
				}
				srv.wantTimeout(op)
			})
		}
	}
}

// What counts against the peer is only the time in which the server would have read.
func TestReadTimeoutRestsWhileReadingIsPaused(t *testing.T) {
	const d = 20 * time.Millisecond
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			var resumed since
			s := echoWrite(t)
			s.close = func(c *Conn, _ error) {
				if resumed.at.IsZero() {
					t.Error("the connection times out while reading is paused")
					return
				}
				resumed.want(t, c, d)
			}
			srv := serve(t, m.Options, s)
			c := srv.dial()
			wantEcho(t, c, payload(1, 100))
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(l *loop) {
				c := l.testConns()[0]
				c.SetReadTimeout(d)
				c.PauseRead()
				c.AfterFunc(5*d+d/2, func(c *Conn) {
					resumed.now()
					c.ResumeRead()
				})
			})
			srv.wantTimeout("read")
		})
	}
}

// The peer reads nothing, and output waits.
func TestStalledReaderTimesOut(t *testing.T) {
	const d = 40 * time.Millisecond
	cases := []struct {
		name, op string
		do       func(c *Conn)
	}{
		{name: "write", op: "write", do: func(c *Conn) { c.SetWriteTimeout(d) }},
		{name: "write set before", op: "write"},
		{name: "idle", op: "idle", do: func(c *Conn) { c.SetIdleTimeout(d) }},
		{name: "deadline", op: "write", do: func(c *Conn) { c.SetWriteDeadline(time.Now().Add(d)) }},
		{name: "both deadlines while paused", op: "write", do: func(c *Conn) { c.PauseRead(); c.SetDeadline(time.Now().Add(d)) }},
		{name: "while closing", op: "write", do: func(c *Conn) { c.SetWriteTimeout(d); c.Close() }},
		{name: "set while closing", op: "write", do: func(c *Conn) { c.Close(); c.SetWriteTimeout(d) }},
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, cs := range cases {
			t.Run(cs.name, func(t *testing.T) {
				var began since
				srv := serve(t, v.Options, script{
					open: func(c *Conn) {
						began.now()
						if cs.do == nil {
							c.SetWriteTimeout(d)
						}
						if _, err := c.Write(make([]byte, 16<<20)); err != nil {
							t.Errorf("write: %v", err)
						}
						if cs.do != nil {
							cs.do(c)
						}
					},
					close: func(c *Conn, _ error) { began.want(t, c, d) },
				})
				srv.dial()
				srv.wantTimeout(cs.op)
			})
		}
	}, "default", "epoll", "queues of 1 and 2")
}

// A reader that takes a little now and then is slow, and not stalled: also while
// what it takes is the kernel's, and we hear nothing of it.
func TestTimeoutsSpareASlowReader(t *testing.T) {
	const (
		size = 16 << 20
		d    = time.Second
	)
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.WriteTimeout, o.IdleTimeout, o.CloseTimeout = d, d, -1
		srv := serve(t, o, script{open: func(c *Conn) {
			_, _ = c.Write(payload(5, size))
			c.Close()
		}})
		c := srv.dial()
		want := payload(5, size)
		for begin := time.Now(); time.Since(begin) < 3*d && len(want) > 16<<10; {
			wantRead(t, c, want[:16<<10])
			want = want[16<<10:]
			time.Sleep(25 * time.Millisecond) // a slow reader
		}
		wantRest(t, c, want)
		srv.wantCause(nil)
	}, "default", "epoll")
}

// Bytes that came in time are before their deadline, though the loop could not look
// until long after it.
func TestBytesThatCameInTimeWinAfterAStall(t *testing.T) {
	const d = 400 * time.Millisecond
	for _, m := range modes {
		for _, o := range []Options{{ReadTimeout: d}, {IdleTimeout: d}} {
			o.Loops, o.NoBulk, o.Spin = 1, m.NoBulk, m.Spin
			name := m.name + " read"
			if o.IdleTimeout > 0 {
				name = m.name + " idle"
			}
			t.Run(name, func(t *testing.T) {
				srv := serve(t, o, echoWrite(t))
				c := srv.dial()
				if m.bulk {
					srv.toBulk(c)
				}
				wantEcho(t, c, payload(1, 100))
				release := srv.hold(0)
				write(t, c, payload(2, 100))
				time.Sleep(d + 50*time.Millisecond) // the stall
				release()
				wantRead(t, c, payload(2, 100))
				srv.wantTimeout(map[bool]string{true: "idle", false: "read"}[o.IdleTimeout > 0])
			})
		}
	}
}

func TestDeadlinesAreMovedAndTakenBack(t *testing.T) {
	over := make(chan struct{})
	srv := serve(t, Options{Loops: 1}, script{
		open: func(c *Conn) {
			// A deadline in the past, taken back in the same turn, is none.
			c.SetDeadline(time.Now().Add(-time.Second))
			c.SetDeadline(time.Time{})
			c.SetReadTimeout(1)
			c.SetReadTimeout(0)
			c.SetWriteTimeout(1)
			c.SetWriteTimeout(-1)
			c.SetIdleTimeout(1)
			c.SetIdleTimeout(0)
			c.SetReadDeadline(time.Now().Add(3 * time.Millisecond))
			c.SetReadDeadline(time.Now().Add(20 * time.Hour))
			c.SetReadDeadline(time.Now().Add(1<<63 - 1))
			c.AfterFunc(30*time.Millisecond, func(c *Conn) {
				over <- struct{}{}
				c.SetReadDeadline(time.Now().Add(-time.Hour))
			})
		},
		close: func(c *Conn, err error) {
			c.SetReadTimeout(1)
			c.SetDeadline(time.Now())
			c.SetIdleTimeout(1)
		},
	})
	srv.dial()
	await(t, over, "the time in which nothing happens")
	srv.wantTimeout("read")
}

// A deadline ends a peer that sends a byte now and then; a timeout does not.
func TestReadDeadlineEndsATrickle(t *testing.T) {
	const d = 50 * time.Millisecond
	var opened since
	srv := serve(t, Options{Loops: 1, ReadTimeout: 5 * time.Second}, script{
		open:  func(c *Conn) { opened.now(); c.SetReadDeadline(time.Now().Add(d)) },
		close: func(c *Conn, _ error) { opened.want(t, c, d) },
	})
	c := srv.dial()
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			break
		}
		time.Sleep(time.Millisecond) // a slow sender
	}
	srv.wantTimeout("read")
}

// A timeout is not an end for connections that the server itself keeps waiting.
func TestReadTimeoutSparesConnectionsThatWaitForBuffers(t *testing.T) {
	const d = 30 * time.Millisecond
	held := make(chan bufring.Lease, 1)
	s := script{data: func(c *Conn, b []byte) int {
		if lease, err := c.Detach(); err != nil {
			t.Errorf("detach: %v", err)
		} else if len(b) == 4 {
			held <- lease // the only buffer
		} else if err := c.Send(lease); err != nil {
			t.Errorf("send: %v", err)
		}
		return len(b)
	}}
	srv := serve(t, Options{Loops: 1, RecvBufs: 1, NoBulk: true, poison: true}, s)
	first, second := srv.dial(), srv.dial()
	write(t, first, []byte("take"))
	until(t, "the buffer to be taken", func() bool { return len(held) == 1 })
	write(t, second, []byte("waits"))
	until(t, "both to be parked", func() bool { return srv.Stats().Parked >= 1 })
	passed := make(chan struct{})
	srv.onLoop(0, func(l *loop) {
		for _, c := range l.testConns() {
			if c.state&isStarved != 0 {
				c.SetReadTimeout(d)
				c.SetIdleTimeout(d)
				c.LoopAfterFunc(4*d, func() { close(passed) })
			}
		}
	})
	await(t, passed, "several times the timeout")
	if st := srv.Stats(); st.Timeouts != 0 {
		t.Errorf("%d connections timed out while they waited for a buffer", st.Timeouts)
	}
	(<-held).Release()
	wantRead(t, second, []byte("waits"))
}

func TestKeepAliveOfTheServer(t *testing.T) {
	srv := serve(t, Options{Loops: 1, KeepAlive: 61 * time.Second, KeepAliveInterval: 7 * time.Second, KeepAliveCount: 4}, script{open: func(c *Conn) {
		for _, want := range []struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 61},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 7}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		} {
			if got, err := c.Option(want.level, want.name); got != want.value || err != nil {
				t.Errorf("option %d of level %d is %d (%v), want %d", want.name, want.level, got, err, want.value)
			}
		}
	}})
	srv.dial()
	until(t, "the connection to be open", func() bool { return srv.Stats().Connections == 1 })
}
