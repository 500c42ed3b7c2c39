//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

func TestCloseSendsWhatWasWritten(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		type order struct {
			answer []byte
			pieces int
		}
		orders := make(chan order, 1)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			o := <-orders
			answer, pieces, n := o.answer, o.pieces, len(o.answer)
			for i := range pieces {
				if _, err := c.Write(answer[n*i/pieces : n*(i+1)/pieces]); err != nil {
					t.Errorf("write: %v", err)
				}
			}
			c.Close()
			c.Close() // harmless
			return len(b)
		}})
		for _, n := range []int{0, 1, 1000, 16384, 100000, few(8 << 20)} {
			for _, pieces := range []int{1, 7, 100} {
				answer := payload(uint64(n), n)
				orders <- order{answer, pieces}
				c := srv.dial()
				write(t, c, []byte("request"))
				wantRest(t, c, answer)
				srv.wantCause(nil)
			}
		}
	})
}

func TestConnCloseWhileSendInFlight(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		p := payload(1, 8<<20)
		var conn *Conn
		srv := serve(t, v.Options, script{open: func(c *Conn) {
			conn = c
			if _, err := c.Write(p); err != nil {
				t.Errorf("write: %v", err)
			}
		}})
		c := srv.dial()
		wantRead(t, c, p[:100])
		srv.onLoop(srv.loopOf(t), func(*loop) {
			if conn.Buffered() == 0 {
				t.Error("nothing waits: the test does not test what it should")
			}
			conn.Close()
		})
		wantRest(t, c, p[100:])
		srv.wantCause(nil)
	})
}

// loopOf is the loop that has connections.
func (s *server) loopOf(t testing.TB) int {
	t.Helper()
	for i, st := range s.LoopStats() {
		if st.Connections > 0 {
			return i
		}
	}
	t.Fatal("no loop has connections")
	return 0
}

var errTest = errors.New("the test's own error")

func TestAbortDropsWhatWasNotSent(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var conn *Conn
		const n = 16 << 20
		srv := serve(t, v.Options, script{open: func(c *Conn) {
			conn = c
			if _, err := c.Write(make([]byte, n)); err != nil {
				t.Errorf("write: %v", err)
			}
		}})
		c := srv.dial()
		wantRead(t, c, make([]byte, 100))
		srv.onLoop(srv.loopOf(t), func(*loop) {
			conn.Abort(errTest)
			conn.Abort(io.EOF) // the first cause stays
		})
		srv.wantCause(errTest) // although the peer has not read on
		got, err := io.ReadAll(c)
		if len(got) >= n-100 {
			t.Errorf("the peer got all of %d bytes", n)
		}
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the peer's read ended with %v", err)
		}
	})
}

// What goes wrong while a connection is ending is not why it ends.
func TestFirstCauseStays(t *testing.T) {
	ends := []struct {
		name string
		end  func(l *loop, c *Conn)
		want error
	}{
		{name: "shutdown", end: func(l *loop, c *Conn) { l.close(c, ErrServerClosed) }, want: ErrServerClosed},
		{name: "Abort", end: func(_ *loop, c *Conn) { c.Abort(errTest); c.Abort(io.EOF) }, want: errTest},
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range ends {
			t.Run(e.name, func(t *testing.T) {
				o := v.Options
				o.Loops = 1
				srv := serve(t, o, script{open: func(c *Conn) {
					if _, err := c.Write(make([]byte, 16<<20)); err != nil {
						t.Errorf("write: %v", err)
					}
				}})
				c := srv.dial()
				wantRead(t, c, make([]byte, 100))
				srv.onLoop(0, func(l *loop) { e.end(l, l.testConns()[0]) })
				_ = c.SetLinger(0) // a reset, on which what waits to be sent fails
				_ = c.Close()
				srv.wantCause(e.want)
			})
		}
	}, "default", "epoll", "no features", "queues of 1 and 2")
}

func TestCloseGivesUpAfterCloseTimeout(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			o := m.Options
			o.CloseTimeout = patience / 20 // enough for the one that reads, also on a slow machine
			srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
				if len(b) > 5 {
					_, _ = c.Write(b)
					return len(b)
				}
				if _, err := c.Write(make([]byte, 16<<20)); err != nil {
					t.Errorf("write: %v", err)
				}
				c.Close()
				return len(b)
			}})
			// Several, the later ones in time and out of it.
			const conns = 5
			start := time.Now()
			for range conns {
				c := srv.dial()
				if m.bulk {
					srv.toBulk(c)
				}
				write(t, c, []byte("go"))
			}
			takes := srv.dial()
			write(t, takes, []byte("go"))
			if n, err := io.Copy(io.Discard, takes); n != 16<<20 || err != nil {
				t.Errorf("a peer that reads got %d bytes: %v", n, err)
			}
			timeouts, ends := 0, 0
			for range conns + 1 {
				switch err := srv.cause(); {
				case errors.Is(err, ErrCloseTimeout):
					timeouts++
				case err == nil:
					ends++
				default:
					t.Errorf("OnClose was told %v", err)
				}
			}
			if timeouts != conns || ends != 1 {
				t.Errorf("%d connections timed out and %d ended: want %d and 1", timeouts, ends, conns)
			}
			if took := time.Since(start); took < o.CloseTimeout {
				t.Errorf("all was over after %v: the timeout is %v", took, o.CloseTimeout)
			}
		})
	}
}

func TestNegativeCloseTimeoutWaitsForEver(t *testing.T) {
	srv := serve(t, Options{Loops: 1, CloseTimeout: -1, poison: true}, script{open: func(c *Conn) {
		_, _ = c.Write(make([]byte, 16<<20))
		c.Close()
	}})
	c := srv.dial()
	wantRead(t, c, make([]byte, 1000))
	srv.onLoop(0, func(l *loop) {
		if d := l.untilExpiry(); d >= 0 {
			t.Errorf("the loop would wake after %v", d)
		}
	})
	wantRest(t, c, make([]byte, 16<<20-1000))
	srv.wantCause(nil)
}

// What a closed connection does and answers, in the callback that closed it and in
// OnClose, by each way to close.
func TestMethodsAfterClose(t *testing.T) {
	ends := []struct {
		name  string
		end   func(c *Conn)
		cause error
	}{
		{name: "Close", end: (*Conn).Close},
		{name: "Abort", end: func(c *Conn) { c.Abort(errTest) }, cause: errTest},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			refuses := func(c *Conn, where string) {
				if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, ErrClosed) {
					t.Errorf("%s: Write answers %d, %v", where, n, err)
				}
				if n, err := c.Write(nil); n != 0 || !errors.Is(err, ErrClosed) {
					t.Errorf("%s: Write of nothing answers %d, %v", where, n, err)
				}
				if err := c.CloseWrite(); !errors.Is(err, ErrClosed) {
					t.Errorf("%s: CloseWrite answers %v", where, err)
				}
				if !errors.Is(ErrClosed, stdnet.ErrClosed) {
					t.Error("ErrClosed is not std's")
				}
				c.PauseRead()
				c.ResumeRead()
				c.Close()
				c.Abort(nil)
			}
			var conn *Conn
			srv := serve(t, Options{Loops: 1, poison: true}, script{
				data: func(c *Conn, b []byte) int {
					conn = c
					c.SetContext("mine")
					lease, err := c.Detach()
					if err != nil {
						t.Errorf("detach: %v", err)
					}
					e.end(c)
					refuses(c, "in OnData")
					out := c.l.group.Leased()
					if err := c.Send(lease); !errors.Is(err, ErrClosed) {
						t.Errorf("in OnData: Send answers %v", err)
					}
					c.l.group.Reclaim()
					if left := c.l.group.Leased(); left != out-1 {
						t.Errorf("Send that was refused left the lease out: %d leases before, %d after", out, left)
					}
					return 0
				},
				close: func(c *Conn, err error) {
					refuses(c, "in OnClose")
					if !c.RemoteAddr().IsValid() || !c.LocalAddr().IsValid() {
						t.Errorf("in OnClose: addresses are %v and %v", c.RemoteAddr(), c.LocalAddr())
					}
					if c.Context() != "mine" {
						t.Errorf("in OnClose: context is %v", c.Context())
					}
				},
			})
			c := srv.dial()
			write(t, c, []byte("hello"))
			srv.wantCause(e.cause)
			srv.onLoop(0, func(*loop) {
				refuses(conn, "after OnClose")
				if addr := conn.LocalAddr(); addr.IsValid() {
					t.Errorf("after OnClose: LocalAddr is %v", addr)
				}
				if err := conn.SetNoDelay(true); !errors.Is(err, ErrClosed) {
					t.Errorf("after OnClose: SetNoDelay answers %v", err)
				}
				if err := conn.SetLinger(0); !errors.Is(err, ErrClosed) {
					t.Errorf("after OnClose: SetLinger answers %v", err)
				}
				if _, err := conn.Option(unix.SOL_SOCKET, unix.SO_RCVBUF); !errors.Is(err, ErrClosed) {
					t.Errorf("after OnClose: Option answers %v", err)
				}
				if conn.Context() != nil {
					t.Errorf("after OnClose: context is %v", conn.Context())
				}
				if n := conn.Buffered(); n != 0 {
					t.Errorf("after OnClose: %d bytes are buffered", n)
				}
			})
		})
	}
}

// callbacks are those in which a test can act, and how the peer brings them about.
var callbacks = []struct {
	name string
	of   func(act func(*Conn)) script
	peer func(t testing.TB, c peerConn)
}{
	{
		name: "OnOpen",
		of:   func(act func(*Conn)) script { return script{open: act} },
		peer: func(testing.TB, peerConn) {},
	},
	{
		name: "OnData",
		of: func(act func(*Conn)) script {
			return script{data: func(c *Conn, b []byte) int { act(c); return len(b) }}
		},
		peer: func(t testing.TB, c peerConn) { _, _ = c.Write([]byte("hello")) },
	},
	{
		name: "OnData with leftovers",
		of: func(act func(*Conn)) script {
			return script{data: func(c *Conn, b []byte) int {
				if len(b) > 5 {
					act(c)
				}
				return 0
			}}
		},
		peer: func(t testing.TB, c peerConn) { _, _ = c.Write([]byte("hello, world")) },
	},
	{
		name: "OnEOF",
		of:   func(act func(*Conn)) script { return script{eof: act} },
		peer: func(t testing.TB, c peerConn) { _ = c.CloseWrite() },
	},
	{
		name: "OnWritable",
		of: func(act func(*Conn)) script {
			return script{
				open: func(c *Conn) {
					// In pieces that are not offered to the kernel one by one, so that
					// all of it waits when this returns.
					for range 50 {
						_, _ = c.Write(make([]byte, 10000))
					}
				},
				writable: act,
			}
		},
		peer: func(testing.TB, peerConn) {}, // it reads
	},
}

func TestEndFromWithinACallback(t *testing.T) {
	acts := []struct {
		name  string
		act   func(c *Conn)
		cause error
		bye   bool // the peer is sent it
	}{
		{name: "Close", act: (*Conn).Close},
		{name: "Abort", act: func(c *Conn) { c.Abort(errTest) }, cause: errTest},
		{name: "Write, Close", act: func(c *Conn) { _, _ = c.Write([]byte("bye")); c.Close() }, bye: true},
		{name: "Write, CloseWrite, Close", act: func(c *Conn) { _, _ = c.Write([]byte("bye")); _ = c.CloseWrite(); c.Close() }, bye: true},
		{name: "CloseWrite, Abort", act: func(c *Conn) { _ = c.CloseWrite(); c.Abort(errTest) }, cause: errTest},
		{name: "PauseRead, Close", act: func(c *Conn) { c.PauseRead(); c.Close() }},
		{name: "PauseRead, Write, Close", act: func(c *Conn) { c.PauseRead(); _, _ = c.Write([]byte("bye")); c.Close() }, bye: true},
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, cb := range callbacks {
			for _, a := range acts {
				t.Run(cb.name+": "+a.name, func(t *testing.T) {
					acted := false
					srv := serve(t, v.Options, cb.of(func(c *Conn) {
						if !acted {
							acted = true
							a.act(c)
						}
					}))
					c := srv.dial()
					cb.peer(t, c)
					got, err := io.ReadAll(c)
					if a.bye && (!strings.HasSuffix(string(got), "bye") || err != nil) {
						t.Errorf("the peer got %d bytes, %v: want \"bye\" at their end", len(got), err)
					}
					want := a.cause
					if cb.name == "OnEOF" && want == nil {
						want = io.EOF // the peer's end came first
					}
					srv.wantCause(want)
				})
			}
		}
	}, "default", "no features", "queues of 1 and 2")
}

func TestCloseOfAnotherConnectionFromACallback(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.Loops = 1
		var first *Conn
		srv := serve(t, o, script{
			open: func(c *Conn) {
				if first == nil {
					first = c
				}
			},
			data: func(c *Conn, b []byte) int {
				if c != first {
					_, _ = first.Write([]byte("bye"))
					first.Close()
				}
				_, _ = c.Write(b)
				return len(b)
			},
		})
		a := srv.dial()
		wantEcho(t, a, []byte("one"))
		b := srv.dial()
		wantEcho(t, b, []byte("two"))
		wantRest(t, a, []byte("bye"))
		srv.wantCause(nil)
		wantEcho(t, b, []byte("three"))
	})
}

func TestPanicInACallbackEndsThatConnectionOnly(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, cb := range callbacks {
			t.Run(cb.name, func(t *testing.T) {
				// The second connection is the one that panics.
				var bad *Conn
				opened := 0
				s := cb.of(func(c *Conn) {
					if c == bad {
						panic(errTest)
					}
				})
				act := s.open
				s.open = func(c *Conn) {
					if opened++; opened == 2 {
						bad = c
					}
					if act != nil && (c == bad || cb.name != "OnWritable") {
						act(c)
					}
				}
				if data := s.data; data != nil {
					s.data = func(c *Conn, b []byte) int {
						if c != bad {
							_, _ = c.Write(b)
							return len(b)
						}
						return data(c, b)
					}
				} else {
					s.data = echoWrite(t).data
				}
				o := v.Options
				o.Loops = 1
				srv := serve(t, o, s)
				before := srv.dial()
				wantEcho(t, before, []byte("before"))
				c := srv.dial()
				cb.peer(t, c)
				go func() { _, _ = io.Copy(io.Discard, c) }()
				err := srv.cause()
				var pe *PanicError
				if !errors.As(err, &pe) {
					t.Errorf("OnClose was told %v (%T), want a *PanicError", err, err)
				} else if pe.Value != any(errTest) || !strings.Contains(string(pe.Stack), "TestPanicInACallback") || !strings.Contains(pe.Error(), errTest.Error()) {
					t.Errorf("the panic's value is %v, its text %q, its stack %s", pe.Value, pe, pe.Stack)
				}
				wantEcho(t, before, []byte("after"))
				wantEcho(t, srv.dial(), []byte("new"))
				wantEcho(t, srv.dial(), []byte("newer"))
				if st := srv.Stats(); st.Panics != 1 {
					t.Errorf("stats count %d panics", st.Panics)
				}
				if log := srv.log.String(); !strings.Contains(log, "panicked") || !strings.Contains(log, errTest.Error()) {
					t.Errorf("the log does not tell: %s", log)
				}
			})
		}
	}, "default", "no accept multishot", "no recv multishot", "no features", "low water marks", "small buffers no bulk", "queues of 1 and 2")
}

func TestPanicInOnCloseLeaksNothing(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		ends := []struct {
			name string
			end  func(c peerConn)
		}{
			{name: "peer ends", end: func(c peerConn) { _ = c.Close() }},
			{name: "peer resets", end: func(c peerConn) { _ = c.SetLinger(0); _ = c.Close() }},
			{name: "we end", end: func(c peerConn) { _, _ = c.Write([]byte("x")) }},
		}
		for _, e := range ends {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, script{
					data: func(c *Conn, b []byte) int {
						if b[0] == 'x' {
							c.Close()
						}
						_, _ = c.Write(b)
						return len(b)
					},
					close: func(*Conn, error) { panic("in OnClose") },
				})
				for i := range uint64(10) {
					c := srv.dial()
					wantEcho(t, c, payload(2*i, 50)) // none begins with an x
					e.end(c)
					srv.cause()
				}
				if st := srv.Stats(); st.Panics != 10 || st.Closed != 10 {
					t.Errorf("stats count %d panics and %d closed: want 10 of each", st.Panics, st.Closed)
				}
			})
		}
	}, "default", "no features", "small buffers no bulk", "queues of 1 and 2")
}

// All at once, so that panics leave lists half worked off.
func TestPanicsAmongManyBusyConnections(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, script{
			data: func(c *Conn, b []byte) int {
				lease, err := c.Detach()
				if err != nil {
					t.Errorf("detach: %v", err)
				}
				bad := lease.Bytes()[0] == 0xee
				_ = c.Send(lease)
				if bad {
					panic("on demand")
				}
				return 0
			},
			close: func(_ *Conn, err error) {
				if errors.As(err, new(*PanicError)) {
					panic("again")
				}
			},
		})
		err := crowd(40, func(i int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			p := payload(uint64(i), 2000)
			for j := range p {
				p[j] &= 0x7f
			}
			for round := range few(20) {
				if err := exchange(c, p[:1+round*99]); err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
			}
			if i%2 == 0 {
				_, err = c.Write([]byte{0xee})
				_, _ = io.ReadAll(c)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			srv.cause()
		}
		if st := srv.Stats(); st.Panics != 40 {
			t.Errorf("stats count %d panics, want 20 in OnData and 20 in OnClose", st.Panics)
		}
	})
}

// Two connections have more waiting than one turn lets them receive. The first
// panics when it has its second go, and the second must still have its own.
func TestPanicOfOneBulkConnectionDoesNotForgetAnother(t *testing.T) {
	const backlog = 3 << 20
	needSocketBuffers(t, backlog)
	var bad *Conn
	paused := true
	var got [2]int
	done := make(chan struct{})
	index := map[*Conn]int{}
	srv := serve(t, Options{Loops: 1, poison: true}, script{
		open: func(c *Conn) {
			index[c] = len(index)
			if err := c.SetReadBuffer(backlog); err != nil {
				t.Error(err)
			}
		},
		data: func(c *Conn, b []byte) int {
			if paused {
				_, _ = c.Write(b)
				return len(b)
			}
			i := index[c]
			if got[i] += len(b); c == bad && got[i] > bulkBudget+1 {
				panic("on demand")
			}
			if i == 1 && got[i] == backlog {
				close(done)
			}
			return len(b)
		},
	})
	var clients [2]peerConn
	for i := range clients {
		clients[i] = srv.dial()
		_ = clients[i].SetWriteBuffer(backlog)
		srv.toBulk(clients[i])
	}
	var conns []*Conn
	srv.onLoop(0, func(l *loop) {
		conns = l.testConns()
		for _, c := range conns {
			c.PauseRead()
			if index[c] == 0 {
				bad = c
			}
		}
	})
	for _, c := range clients {
		write(t, c, make([]byte, backlog))
	}
	// All of it has arrived, so that no more events will come for it.
	until(t, "the sockets to hold what was sent", func() bool {
		return srv.inSocket(conns[0]) == backlog && srv.inSocket(conns[1]) == backlog
	})
	srv.onLoop(0, func(*loop) {
		paused = false
		for _, i := range []int{0, 1} {
			for _, c := range conns {
				if index[c] == i {
					c.ResumeRead()
				}
			}
		}
	})
	await(t, done, "the other connection to receive everything")
	if err := srv.cause(); !errors.As(err, new(*PanicError)) {
		t.Errorf("OnClose was told %v, want a *PanicError", err)
	}
}

// A connection that is parked for want of a receive buffer has nothing in flight,
// so it ends at once, and is still in the list when the buffers come back.
func TestParkedConnectionEndsOnce(t *testing.T) {
	ends := []struct {
		name  string
		end   func(c *Conn)
		cause error
	}{
		{name: "Close", end: (*Conn).Close},
		{name: "Abort", end: func(c *Conn) { c.Abort(errTest) }, cause: errTest},
		{name: "CloseWrite, Abort", end: func(c *Conn) { _ = c.CloseWrite(); c.Abort(errTest) }, cause: errTest},
		{name: "a panic", end: func(c *Conn) { c.l.call(c, func() { panic(errTest) }) }},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			const bufs, conns = 4, 12
			var held []bufring.Lease
			hold := true
			srv := serve(t, Options{Loops: 1, RecvBufs: bufs, RecvBufBytes: 64, NoBulk: true, poison: true}, script{
				data: func(c *Conn, b []byte) int {
					_, _ = c.Write(b)
					if hold {
						lease, err := c.Detach()
						if err != nil {
							t.Errorf("detach: %v", err)
						}
						held = append(held, lease)
					}
					return len(b)
				}})
			for range conns {
				write(t, srv.dial(), []byte("hello"))
			}
			until(t, "the others to be parked", func() bool { return srv.Stats().Starved >= conns-bufs })
			ended := 0
			srv.onLoop(0, func(l *loop) {
				for _, c := range slices.Clone(l.starved) {
					ended++
					l.guard(func() { e.end(c) })
				}
			})
			for range ended {
				if err := srv.cause(); e.cause != nil && err != e.cause {
					t.Errorf("OnClose was told %v, want %v", err, e.cause)
				}
			}
			if ended < conns-bufs {
				t.Errorf("%d connections were parked, want %d", ended, conns-bufs)
			}
			srv.onLoop(0, func(*loop) {
				hold = false
				for _, lease := range held {
					lease.Release()
				}
			})
			wantEcho(t, srv.dial(), []byte("still there"))
			if st := srv.Stats(); st.Closed != uint64(ended) || st.Connections != uint64(conns-ended+1) {
				t.Errorf("stats count %d closed and %d open, want %d and %d", st.Closed, st.Connections, ended, conns-ended+1)
			}
		})
	}
}

func TestHandlerThatRecoversItsOwnPanicGoesOn(t *testing.T) {
	// That is its own affair.
	srv := serve(t, Options{Loops: 1, poison: true}, script{data: func(c *Conn, b []byte) int {
		func() {
			defer func() { _ = recover() }()
			panic("the handler's own")
		}()
		_, _ = c.Write(b)
		return len(b)
	}})
	wantEcho(t, srv.dial(), []byte("hello"))
	if st := srv.Stats(); st.Panics != 0 {
		t.Errorf("stats count %d panics", st.Panics)
	}
}

// A peer that takes its time, but takes bytes, gets all of them.
func TestCloseWaitsForAPeerThatReadsSlowly(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			o := m.Options
			o.CloseTimeout = 300 * time.Millisecond
			content := payload(3, few(2<<20)) // several times what the sockets hold
			srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
				_ = c.SetWriteBuffer(16 << 10)
				_, _ = c.Write(content)
				c.Close()
				return len(b)
			}})
			// Before it connects: a window that has been offered is not kept to when
			// the buffer is made smaller, and TCP then sends what was dropped again
			// after ever longer pauses, in which the peer takes nothing.
			small := stdnet.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
				_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
				return err
			}}
			c, err := small.Dial("tcp", srv.addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			write(t, c, []byte{1})
			begin := time.Now()
			for at := 0; at < len(content); {
				n := min(len(content)/16, len(content)-at)
				wantRead(t, c, content[at:at+n])
				at += n
				time.Sleep(o.CloseTimeout / 6) // what is tested is that time passes
			}
			if took := time.Since(begin); took < 2*o.CloseTimeout {
				t.Errorf("all was read after %v, and nothing was tested", took)
			}
			srv.wantCause(nil)
		})
	}
}
