//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// stall writes to an echo without reading from it until nothing more is taken, and
// returns how much of p was. It is the only peer of the server that does anything
// meanwhile.
func stall(t testing.TB, srv *server, c peerConn, p []byte) int {
	t.Helper()
	n, err := fill(c, p, func() uint64 { return srv.Stats().BytesReceived })
	if err != nil {
		t.Fatal(err)
	}
	if n == len(p) {
		t.Fatalf("a connection that is not read from took %d bytes", n)
	}
	return n
}

// fill writes p until the other side takes nothing more, which shows when neither
// a write nor received grows from one look to the next, and returns how much of it
// was taken.
func fill(c peerConn, p []byte, received func() uint64) (int, error) {
	n := 0
	last := uint64(0)
	for n < len(p) {
		// A write that cannot go on ends by its deadline: there is no other way to
		// learn that a peer takes nothing.
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		k, err := c.Write(p[n:])
		n += k
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := received()
		if k == 0 && now == last {
			break
		}
		last = now
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return n, nil
}

// buffered is the largest output that waits on any connection of a loop.
func (s *server) buffered(i int) int {
	most := 0
	s.onLoop(i, func(l *loop) {
		for _, c := range l.testConns() {
			most = max(most, c.Buffered())
		}
	})
	return most
}

// receivesWithoutEnd reports that a multishot receive goes on until the socket or
// the group is empty. Newer kernels stop for others after 32 buffers (io_uring/net:
// limit inline multishot retries, Linux 6.8).
var receivesWithoutEnd = sync.OnceValue(func() bool {
	const bufs, bufBytes = 1024, 16
	received := make(chan int)
	go func() { // a ring belongs to a thread
		runtime.LockOSThread() // and this one ends with it
		ready, err := 0, error(nil)
		defer func() {
			if err != nil {
				panic(err)
			}
			received <- ready
		}()
		var r *ring.Ring
		if r, err = ring.New(ring.Config{}); err != nil {
			return
		}
		if r.Engine() != ring.Uring {
			_ = r.Close()
			return
		}
		defer r.Close()
		if err = r.Enable(); err != nil {
			return
		}
		var g *bufring.Group
		if g, err = bufring.NewGroup(r, bufring.GroupOptions{BufBytes: bufBytes, Count: bufs, Window: bufs}); err != nil {
			return
		}
		var pair [2]int
		if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
		if _, err = unix.Write(pair[1], make([]byte, bufs*bufBytes)); err != nil {
			return
		}
		r.Entry().PrepareRecvMultishot(pair[0], g.ID())
		if err = r.Wait(1, patience); err == nil {
			ready = r.Ready()
		}
	}()
	return <-received >= bufs/2
})

func TestStalledReaderStallsOnlyItself(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				stream := payload(1, 32<<20)
				o := v.Options
				if o.RecvBufs == 0 && receivesWithoutEnd() {
					o.RecvBufs = 128 // all of them come at once
				}
				srv := serve(t, o, e.of(t))
				c := srv.dial()
				sent := stall(t, srv, c, stream)

				// Others are served meanwhile, and promptly.
				var slowest [4]time.Duration
				err := crowd(len(slowest), func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					for round := range few(100) {
						start := time.Now()
						if err := exchange(c, payload(uint64(i*100+round), 1+(round*997)%5000)); err != nil {
							return fmt.Errorf("round %d: %w", round, err)
						}
						slowest[i] = max(slowest[i], time.Since(start))
					}
					return nil
				})
				if err != nil {
					t.Fatalf("beside a connection that stalls: %v\nstats: %+v", err, srv.Stats())
				}
				// A machine that is busy with something else must not fail this.
				if d := slices.Max(slowest[:]); d > 3*patience/10 {
					t.Errorf("an exchange beside a connection that stalls took %v", d)
				}

				// What waits is bounded by the mark and what was on its way when it
				// was passed.
				checked, err := o.check()
				if err != nil {
					t.Fatal(err)
				}
				limit := checked.HighWater + bulkBudget + checked.BulkBufBytes
				if receivesWithoutEnd() {
					limit += 2 * checked.RecvBufs * checked.RecvBufBytes // before and behind the cancel
				}
				if n := srv.buffered(0); o.Loops == 1 && n > limit {
					t.Errorf("%d bytes of output wait: want at most %d", n, limit)
				}
				if st := srv.Stats(); v.RecvBufs == 0 && st.LeasesOut > 3*checked.RecvBufs/4 {
					t.Errorf("%d of %d receive buffers wait with the stalled connection", st.LeasesOut, checked.RecvBufs)
				}

				// And nothing of it is lost.
				_ = c.CloseWrite()
				wantRest(t, c, stream[:sent])
			})
		}
	}, "default", "loops", "no recv multishot", "no poll multishot", "no features", "no bulk", "one large buffer", "low water marks",
		"small buffers", "queues of 1 and 2")
}

func TestManyStalledReadersAtOnce(t *testing.T) {
	cases := []struct {
		name string
		Options
		stalled int
	}{
		{name: "default", Options: Options{Loops: 1, poison: true}, stalled: few(50)},
		{name: "no bulk", Options: Options{Loops: 1, NoBulk: true, poison: true}, stalled: few(50)},
		// More connections stall than there are receive buffers: those that do not
		// stall must be served all the same.
		{name: "more than buffers", Options: Options{Loops: 1, NoBulk: true, RecvBufs: 32, RecvBufBytes: 512, poison: true}, stalled: 50},
		{name: "more than four buffers", Options: Options{Loops: 1, NoBulk: true, RecvBufs: 4, RecvBufBytes: 64, poison: true}, stalled: 10},
	}
	for _, cs := range cases {
		for _, e := range echoes {
			t.Run(cs.name+" "+e.name, func(t *testing.T) {
				// Small socket buffers let them stall early.
				s := e.of(t)
				s.open = func(c *Conn) {
					if err := errors.Join(c.SetWriteBuffer(16<<10), c.SetReadBuffer(16<<10)); err != nil {
						t.Error(err)
					}
				}
				srv := serve(t, cs.Options, s)
				stream := payload(1, 8<<20)
				clients := make([]peerConn, cs.stalled)
				sent := make([]int, cs.stalled)
				err := crowd(cs.stalled, func(i int) (err error) {
					if clients[i], err = connect(srv.addr()); err != nil {
						return err
					}
					_ = clients[i].SetReadBuffer(16 << 10)
					_ = clients[i].SetWriteBuffer(16 << 10)
					sent[i], err = fill(clients[i], stream, func() uint64 { return srv.Stats().BytesReceived })
					return err
				})
				defer func() {
					for _, c := range clients {
						if c != nil {
							_ = c.Close()
						}
					}
				}()
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(sent, len(stream)) {
					t.Fatal("a connection that is not read from takes everything")
				}
				other := srv.dial()
				for i := range uint64(100) {
					if err := exchange(other, payload(i, 1+int(i)*31)); err != nil {
						st := srv.Stats()
						t.Fatalf("exchange %d beside %d connections that stall: %v\n%d receive buffers are out, parked %d times", i, cs.stalled, err, st.LeasesOut, st.Starved)
					}
				}
				err = crowd(cs.stalled, func(i int) error {
					_ = clients[i].CloseWrite()
					_ = clients[i].SetReadBuffer(1 << 20) // else it takes small sips
					got, err := io.ReadAll(clients[i])
					return errors.Join(err, differ(got, stream[:sent[i]]))
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// A lease that is sent, and finds the socket full, has to wait for as long as the
// peer likes. When receive buffers are scarce it does not wait in one.
func TestScarceBufferIsNotKeptBySendThatWaits(t *testing.T) {
	const bufs = 4
	overVariants(t, func(t *testing.T, v variant) {
		type message struct {
			c *Conn
			bufring.Lease
		}
		messages := make(chan message, bufs)
		o := v.Options
		o.Loops, o.RecvBufs, o.RecvBufBytes, o.NoBulk = 1, bufs, 64, true
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			lease, err := c.Detach()
			if err != nil {
				t.Errorf("detach: %v", err)
			}
			messages <- message{c, lease}
			return 0
		}})
		var held []message
		var first peerConn
		for i := range bufs - 1 {
			c := srv.dial()
			if i == 0 {
				first = c
			}
			write(t, c, payload(uint64(i), 50))
			held = append(held, await(t, messages, "a message"))
		}
		filling := 0
		srv.onLoop(0, func(l *loop) {
			fd := int(held[0].c.fd)
			for {
				n, errno := l.r.Send(fd, make([]byte, 1<<16), 0)
				if errno == unix.EAGAIN {
					break
				} else if errno != 0 {
					t.Error(errno)
					break
				}
				filling += n
			}
			if !l.scarce() {
				t.Error("buffers are not scarce: the test does not test what it should")
			}
			if err := held[0].c.Send(held[0].Lease); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		until(t, "the buffer of the send that waits to be given back", func() bool { return srv.Stats().LeasesOut == bufs-2 })
		if n := srv.buffered(0); n != 50 {
			t.Errorf("%d bytes wait to be sent, want 50", n)
		}
		if _, err := io.CopyN(io.Discard, first, int64(filling)); err != nil {
			t.Fatal(err)
		}
		wantRead(t, first, payload(0, 50))
		for _, m := range held[1:] {
			m.Release()
		}
	}, "default", "poisoned", "epoll", "queues of 1 and 2")
}

func TestWritesAboveTheHighWaterMarkStopReading(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		// Each receive is answered with a block, which is far more than it brought.
		const requests = 2000
		block := payload(1, 10000)
		o := v.Options
		o.HighWater, o.LowWater = 100<<10, 20<<10
		o.RecvBufBytes, o.NoBulk = 64, true
		atOnce := 256
		if receivesWithoutEnd() {
			o.RecvBufs = atOnce
			atOnce *= 2 // before and behind the cancel
		}
		answers, most := 0, 0
		srv := serve(t, o, script{
			open: func(c *Conn) {
				if err := c.SetWriteBuffer(64 << 10); err != nil {
					t.Error(err)
				}
			},
			data: func(c *Conn, b []byte) int {
				if _, err := c.Write(block); err != nil {
					t.Errorf("write: %v", err)
				}
				answers++
				most = max(most, c.Buffered())
				return len(b)
			},
		})
		c := srv.dial()
		_ = c.SetReadBuffer(64 << 10)
		write(t, c, payload(2, 64*requests))
		_ = c.CloseWrite()
		until(t, "the connection to be over its high-water mark", func() bool { return srv.Stats().HighWater > 0 })
		if st := srv.Stats(); st.BytesReceived == 64*requests {
			t.Error("everything was read, although nobody takes the answers")
		}
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		srv.wantCause(io.EOF)
		if err := differ(got, bytes.Repeat(block, answers)); err != nil {
			t.Errorf("%d answers: %v", answers, err)
		}
		// What had been received when the mark was passed is still answered.
		if most > o.HighWater+atOnce*len(block) {
			t.Errorf("%d bytes waited on the connection, the mark is %d", most, o.HighWater)
		}
	}, "default", "no recv multishot", "no features", "queues of 1 and 2")
}

// streamer writes n bytes of its own accord, as much as the marks allow at a time.
func streamer(t testing.TB, stream []byte, piece int) script {
	push := func(c *Conn) {
		rest := c.Context().([]byte)
		for len(rest) > 0 && c.Buffered() <= c.l.o.HighWater {
			n := min(piece, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				t.Errorf("write: %v", err)
			}
			rest = rest[n:]
		}
		c.SetContext(rest)
		if len(rest) == 0 {
			c.Close()
		}
	}
	return script{
		open:     func(c *Conn) { c.SetContext(stream); push(c) },
		writable: push,
	}
}

func TestOnWritableKeepsAStreamGoing(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		// Pieces that go to the ring, and pieces that are offered to the kernel at
		// once, all of which it may take.
		for _, piece := range []int{100, 3000, 15000, 16384, 200000} {
			t.Run(fmt.Sprint(piece), func(t *testing.T) {
				conns := few(3)
				stream := payload(1, max(1<<20, few(3<<20))) // more than the marks and a socket hold
				if piece == 100 {
					stream = stream[:few(300000)]
				}
				srv := serve(t, v.Options, streamer(t, stream, piece))
				err := crowd(conns, func(int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					got, err := io.ReadAll(c)
					return errors.Join(err, differ(got, stream))
				})
				if err != nil {
					t.Fatalf("%v\nstats: %+v", err, srv.Stats())
				}
				for range conns {
					srv.wantCause(nil)
				}
			})
		}
	})
}

// A socket that takes all at once that is over the mark gives no completion that
// could bring the connection back.
func TestOutputOverTheMarkThatGoesOutAtOnce(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			o := m.Options
			o.HighWater, o.LowWater = 20000, 1000
			var writable atomic.Int64
			srv := serve(t, o, script{
				data: func(c *Conn, b []byte) int {
					for rest := b; len(rest) > 0; {
						n := min(len(rest), 1000)
						if _, err := c.Write(rest[:n]); err != nil {
							t.Errorf("write: %v", err)
						}
						rest = rest[n:]
					}
					return len(b)
				},
				writable: func(*Conn) { writable.Add(1) },
			})
			c := srv.dial()
			for i := range uint64(50) {
				wantEcho(t, c, payload(i, 100000))
			}
			st := srv.Stats()
			if st.HighWater == 0 {
				t.Skip("the loop received too little at a time to pass the mark")
			}
			if n := writable.Load(); n != int64(st.HighWater) {
				t.Errorf("OnWritable was called %d times: the mark was passed %d times", n, st.HighWater)
			}
		})
	}
}

func TestWriteOverMaxBufferedIsRefusedWhole(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.HighWater, o.LowWater, o.MaxBuffered = 1<<20, 1000, 2<<20
		const block = 60000
		accepted := 0
		refused := make(chan error, 1)
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			for {
				n, err := c.Write(payload(uint64(accepted), block))
				if err != nil {
					if n != 0 {
						t.Errorf("a write that was refused took %d bytes", n)
					}
					refused <- err
					break
				}
				if n != block {
					t.Errorf("a write took %d of %d bytes", n, block)
				}
				if accepted++; accepted > 1000 {
					refused <- errors.New("never refused")
					break
				}
			}
			if c.Buffered() > o.MaxBuffered {
				t.Errorf("%d bytes wait, more than MaxBuffered", c.Buffered())
			}
			c.Close()
			return len(b)
		}})
		c := srv.dial()
		write(t, c, []byte{1})
		if err := await(t, refused, "a write to be refused"); !errors.Is(err, ErrBacklog) {
			t.Errorf("write over MaxBuffered: %v, want %v", err, ErrBacklog)
		}
		var want []byte
		for i := range accepted {
			want = append(want, payload(uint64(i), block)...)
		}
		wantRest(t, c, want)
		srv.wantCause(nil)
	})
}

func TestWriteLargerThanMaxBufferedIsTakenWhenNothingWaits(t *testing.T) {
	o := Options{Loops: 1, HighWater: 1000, LowWater: 1, MaxBuffered: 1000, poison: true}
	p := payload(1, 20<<20)
	srv := serve(t, o, script{open: func(c *Conn) {
		if _, err := c.Write(p); err != nil {
			t.Errorf("write: %v", err)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, ErrBacklog) {
			t.Errorf("write behind it: %v, want %v", err, ErrBacklog)
		}
		c.Close()
	}})
	wantRest(t, srv.dial(), p)
	srv.wantCause(nil)
}

// resumer is an echo that stops reading behind each message and is resumed by the
// test.
func TestPauseReadLosesNothing(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		n := few(1 << 20)
		if v.slow {
			n = few(1 << 14)
		}
		paused := make(chan *Conn, 1)
		var stopped *Conn
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if stopped == c {
				t.Error("OnData is called while reading is paused")
			}
			_, _ = c.Write(b)
			c.PauseRead()
			stopped = c
			select {
			case paused <- c:
			default:
				t.Error("paused twice")
			}
			return len(b)
		}})
		c := srv.dial()
		finished := make(chan struct{})
		resumed := make(chan struct{})
		go func() {
			defer close(resumed)
			for {
				select {
				case conn := <-paused:
					l := conn.l
					_ = l.mail.post(func() { stopped = nil; conn.ResumeRead() })
				case <-finished:
					return
				}
			}
		}()
		err := exchange(c, payload(1, n))
		_ = c.Close()
		srv.cause()
		close(finished)
		<-resumed
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestPauseReadMakesThePeerWait(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			echo := true
			var conn *Conn
			got := make(chan []byte, 1)
			var all []byte
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				if echo {
					_, _ = c.Write(b)
					return len(b)
				}
				if c.state&paused != 0 {
					t.Error("OnData is called while reading is paused")
				}
				if all = append(all, b...); len(all) == cap(all) {
					got <- all
				}
				return len(b)
			}})
			c := srv.dial()
			wantEcho(t, c, []byte("hello"))
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(l *loop) {
				echo = false
				conn = l.testConns()[0]
				conn.PauseRead()
			})
			stream := payload(1, 32<<20)
			sent := stall(t, srv, c, stream)
			// Pausing twice and resuming twice is as good as once.
			srv.onLoop(0, func(*loop) { conn.PauseRead(); all = make([]byte, 0, sent) })
			srv.onLoop(0, func(*loop) { conn.ResumeRead(); conn.ResumeRead() })
			if err := differ(await(t, got, "the bytes after ResumeRead"), stream[:sent]); err != nil {
				t.Error(err)
			}
		})
	}
}

// A peer that sends and ends while reading is paused must not lose what the kernel
// had handed over already: it was received in one batch with the end.
func TestEndOfStreamWhilePausedKeepsReceivedBytes(t *testing.T) {
	cases := []struct {
		name    string
		eof     bool // the handler has OnEOF
		consume bool // what came before the pause
	}{
		{name: "consumed", consume: true},
		{name: "left", consume: false},
		{name: "consumed, OnEOF", consume: true, eof: true},
		{name: "left, OnEOF", consume: false, eof: true},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			var all []byte
			var conn *Conn
			pausedOnce := false
			paused := make(chan struct{})
			ended := make(chan int, 1)
			s := script{
				data: func(c *Conn, b []byte) int {
					if !pausedOnce {
						pausedOnce = true
						conn = c
						c.PauseRead()
						close(paused)
						if !cs.consume {
							return 0
						}
					}
					all = append(all, b...)
					return len(b)
				},
			}
			if cs.eof {
				s.eof = func(c *Conn) { ended <- len(all); c.Close() }
			} else {
				s.close = func(*Conn, error) { ended <- len(all) }
			}
			srv := serve(t, Options{Loops: 1, poison: true}, s)
			c := srv.dial()
			// The connection is open, and its receive armed.
			until(t, "the connection to be accepted", func() bool { return srv.Stats().Accepted == 1 })
			release := srv.hold(0)
			defer release()
			p := payload(1, 10000) // three receives
			write(t, c, p)
			_ = c.CloseWrite()
			release()
			await(t, paused, "OnData")
			srv.onLoop(0, func(*loop) {
				if conn.state&finished == 0 {
					conn.ResumeRead()
				}
			})
			if n := await(t, ended, "the end"); n != len(p) {
				t.Errorf("the end came after %d of %d bytes were offered", n, len(p))
			}
			srv.wantCause(io.EOF)
			srv.onLoop(0, func(*loop) {
				if err := differ(all, p); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// ResumeRead offers kept bytes again although nothing new came. In OnData they are
// just being offered: doing so again each time would go on for ever.
func TestPauseAndResumeWithinOnData(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			const want = 50000
			calls := 0
			echo := true
			done := make(chan int, 1)
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				if echo {
					_, _ = c.Write(b)
					return len(b)
				}
				c.PauseRead()
				c.ResumeRead()
				if calls++; calls > 10000 || len(b) == want {
					select {
					case done <- calls:
					default:
					}
					return len(b)
				}
				return 0
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(*loop) { echo = false })
			write(t, c, payload(1, want/2))
			until(t, "the first half to be offered", func() bool {
				n := 0
				srv.onLoop(0, func(*loop) { n = calls })
				return n > 0
			})
			write(t, c, payload(2, want/2))
			if n := await(t, done, "all to be offered"); n > 10000 {
				t.Errorf("OnData was called %d times for %d bytes", n, want)
			}
		})
	}
}

func TestResumeReadOffersKeptBytesAgain(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p := payload(1, 100)
			var conn *Conn
			echo := true
			offered := make(chan int, 10)
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				if echo {
					_, _ = c.Write(b)
					return len(b)
				}
				conn = c
				offered <- len(b)
				if len(b) <= 60 {
					return len(b) // after the resume
				}
				c.PauseRead()
				return 40
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(*loop) { echo = false })
			write(t, c, p)
			if n := await(t, offered, "the bytes"); n != 100 {
				t.Fatalf("offered %d bytes, want 100", n)
			}
			srv.onLoop(0, func(*loop) { conn.ResumeRead() })
			if n := await(t, offered, "the rest after ResumeRead"); n != 60 {
				t.Errorf("offered %d bytes after ResumeRead, want the 60 that were left", n)
			}
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// wantIdle holds the process to using next to no time for a while, in which it has
// nothing to do. The time that passes is not waited for but measured. What spins
// does so for ever; the runtime has work of its own now and then, and a machine
// that is emulated charges for what others use of it.
func wantIdle(t testing.TB) {
	t.Helper()
	runtime.GC() // so that none comes meanwhile
	window := max(patience/200, 100*time.Millisecond)
	used := window
	for range 3 {
		before := cpuTime(t)
		<-time.After(window)
		if used = cpuTime(t) - before; used <= window/4 {
			return
		}
	}
	t.Errorf("%v of processor time were used in %v of idleness", used, window)
}

// A peer that has ended its direction, and does not read, keeps a socket in a
// state that poll(2) reports for ever (POLLRDHUP), whatever it was asked for. A
// send that waits in the kernel then tries again and again, 128 times, and is
// handed to a worker thread, which does the same.
func TestSendThatWaitsForAHalfClosedPeerCostsNothing(t *testing.T) {
	cases := []struct {
		name     string
		endFirst bool // the peer ends its direction before it stalls
		waiting  int  // bytes that find no room in the socket
	}{
		{name: "little, ended before", endFirst: true, waiting: 10000},
		{name: "little, ended after", waiting: 10000},
		{name: "much, ended before", endFirst: true, waiting: 1 << 20},
		{name: "much, ended after", waiting: 1 << 20},
	}
	for _, m := range modes {
		for _, cs := range cases {
			t.Run(m.name+" "+cs.name, func(t *testing.T) {
				const socket = 256 << 10
				echo := true
				var conn *Conn
				ended := make(chan struct{})
				srv := serve(t, m.Options, script{
					data: func(c *Conn, b []byte) int {
						if conn = c; echo {
							_, _ = c.Write(b)
						}
						return len(b)
					},
					eof: func(*Conn) { close(ended) },
				})
				c := srv.dial()
				wantEcho(t, c, []byte("hello"))
				if m.bulk {
					srv.toBulk(c)
				}
				if cs.endFirst {
					_ = c.CloseWrite()
					await(t, ended, "OnEOF")
				}
				// Fill the socket, and then let something wait.
				stream := payload(3, few(128<<20))
				sent := 0
				put := func(n int) {
					if _, err := conn.Write(stream[sent : sent+n]); err != nil {
						t.Errorf("write: %v", err)
					}
					sent += n
				}
				for waits := false; !waits; {
					srv.onLoop(0, func(*loop) {
						for range 16 {
							if conn.Buffered() == 0 {
								put(socket)
							}
						}
						waits = conn.Buffered() > 0
					})
				}
				srv.onLoop(0, func(*loop) { put(cs.waiting) })
				if !cs.endFirst {
					_ = c.CloseWrite()
				}
				wantIdle(t)
				srv.onLoop(0, func(*loop) { conn.Close() })
				wantRest(t, c, stream[:sent])
				srv.cause()
			})
		}
	}
}

func TestServerUsesNoTimeWhileIdle(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoLease(t))
		for i := range uint64(20) {
			c := srv.dial()
			wantEcho(t, c, payload(i, 100))
			if i == 7 {
				wantEcho(t, c, payload(i, 1<<20))
			}
		}
		wantIdle(t)
	}, "default", "loops", "no features", "no sync message", "small buffers no bulk", "queues of 1 and 2")
}
