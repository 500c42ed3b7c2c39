//go:build linux

package net

import (
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnOptions(t *testing.T) {
	srv := serve(t, Options{Loops: 1, poison: true}, script{})
	srv.dial()
	until(t, "the connection to be open", func() bool { return srv.Stats().Connections == 1 })
	cases := []struct {
		name        string
		set         func(c *Conn) error
		level, opt  int
		least, most int // what the kernel then says
	}{
		{name: "no delay is the default", set: func(*Conn) error { return nil }, level: unix.IPPROTO_TCP, opt: unix.TCP_NODELAY, least: 1, most: 1},
		{name: "delay", set: func(c *Conn) error { return c.SetNoDelay(false) }, level: unix.IPPROTO_TCP, opt: unix.TCP_NODELAY},
		{name: "no delay", set: func(c *Conn) error { return c.SetNoDelay(true) }, level: unix.IPPROTO_TCP, opt: unix.TCP_NODELAY, least: 1, most: 1},
		{name: "keep-alive is off by default", set: func(*Conn) error { return nil }, level: unix.SOL_SOCKET, opt: unix.SO_KEEPALIVE},
		{name: "keep-alive", set: func(c *Conn) error { return c.SetKeepAlive(0, 0, 0) }, level: unix.SOL_SOCKET, opt: unix.SO_KEEPALIVE, least: 1, most: 1},
		{name: "keep-alive idle", set: func(c *Conn) error { return c.SetKeepAlive(30*time.Second, 7*time.Second, 4) }, level: unix.IPPROTO_TCP, opt: unix.TCP_KEEPIDLE, least: 30, most: 30},
		{name: "keep-alive interval", set: func(*Conn) error { return nil }, level: unix.IPPROTO_TCP, opt: unix.TCP_KEEPINTVL, least: 7, most: 7},
		{name: "keep-alive count", set: func(*Conn) error { return nil }, level: unix.IPPROTO_TCP, opt: unix.TCP_KEEPCNT, least: 4, most: 4},
		{name: "keep-alive leaves what is zero", set: func(c *Conn) error { return c.SetKeepAlive(0, 1500*time.Millisecond, 0) }, level: unix.IPPROTO_TCP, opt: unix.TCP_KEEPIDLE, least: 30, most: 30},
		{name: "keep-alive rounds up", set: func(*Conn) error { return nil }, level: unix.IPPROTO_TCP, opt: unix.TCP_KEEPINTVL, least: 2, most: 2},
		{name: "keep-alive off", set: func(c *Conn) error { return c.SetKeepAlive(-1, 0, 0) }, level: unix.SOL_SOCKET, opt: unix.SO_KEEPALIVE},
		{name: "read buffer", set: func(c *Conn) error { return c.SetReadBuffer(20000) }, level: unix.SOL_SOCKET, opt: unix.SO_RCVBUF, least: 20000, most: 40000},
		{name: "write buffer", set: func(c *Conn) error { return c.SetWriteBuffer(30000) }, level: unix.SOL_SOCKET, opt: unix.SO_SNDBUF, least: 30000, most: 60000},
		{name: "any option", set: func(c *Conn) error { return c.SetOption(unix.SOL_SOCKET, unix.SO_PRIORITY, 3) }, level: unix.SOL_SOCKET, opt: unix.SO_PRIORITY, least: 3, most: 3},
	}
	srv.onLoop(0, func(l *loop) {
		c := l.testConns()[0]
		for _, cs := range cases {
			if err := cs.set(c); err != nil {
				t.Errorf("%s: %v", cs.name, err)
				continue
			}
			if n, err := c.Option(cs.level, cs.opt); err != nil || n < cs.least || n > cs.most {
				t.Errorf("%s: the option is %d (%v), want %d to %d", cs.name, n, err, cs.least, cs.most)
			}
		}
		if err := c.SetOption(-1, -1, 1); err == nil {
			t.Error("an option that does not exist was set")
		}
		if _, err := c.Option(-1, -1); err == nil {
			t.Error("an option that does not exist was read")
		}
	})
}

func TestDelayLeavesNagleOn(t *testing.T) {
	srv := serve(t, Options{Loops: 1, Delay: true, poison: true}, script{})
	srv.dial()
	until(t, "the connection to be open", func() bool { return srv.Stats().Connections == 1 })
	srv.onLoop(0, func(l *loop) {
		if n, err := l.testConns()[0].Option(unix.IPPROTO_TCP, unix.TCP_NODELAY); n != 0 || err != nil {
			t.Errorf("TCP_NODELAY is %d (%v)", n, err)
		}
	})
}

func TestLingerOfZeroResetsThePeer(t *testing.T) {
	for _, cs := range []struct {
		seconds int
		reset   bool
	}{
		{seconds: 0, reset: true},
		{seconds: -1},
		{seconds: 3},
	} {
		t.Run(fmt.Sprint(cs.seconds), func(t *testing.T) {
			srv := serve(t, Options{Loops: 1, poison: true}, script{data: func(c *Conn, b []byte) int {
				if err := c.SetLinger(cs.seconds); err != nil {
					t.Error(err)
				}
				c.Close()
				return len(b)
			}})
			c := srv.dial()
			write(t, c, []byte("x"))
			_, err := io.ReadAll(c)
			// Our side ends its direction before it closes, so the reset may come
			// behind an orderly end.
			for err == nil && cs.reset {
				_, err = c.Write([]byte("y"))
			}
			if (err != nil) != cs.reset {
				t.Errorf("the peer sees %v", err)
			}
			srv.wantCause(nil)
		})
	}
}

func TestAddressesOfAConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		type ends struct{ local, remote Addr }
		seen := make(chan ends, 3)
		look := func(c *Conn) { seen <- ends{c.LocalAddr(), c.RemoteAddr()} }
		srv := serve(t, v.Options, script{
			open:  look,
			data:  func(c *Conn, b []byte) int { look(c); return len(b) },
			close: func(c *Conn, _ error) { look(c) },
		})
		c := srv.dial()
		want := ends{unmapped(c.RemoteAddr()), unmapped(c.LocalAddr())}
		write(t, c, []byte("x"))
		for _, where := range []string{"OnOpen", "OnData"} {
			if got := await(t, seen, where); got != want {
				t.Errorf("in %s the ends are %v, want %v", where, got, want)
			}
		}
		_ = c.Close()
		if got := await(t, seen, "OnClose"); got != want {
			t.Errorf("in OnClose the ends are %v, want %v", got, want)
		}
	}, "default", "no features")
}

func TestContextIsWhatWasStored(t *testing.T) {
	type state struct{ n int }
	srv := serve(t, Options{Loops: 2, poison: true}, script{
		open: func(c *Conn) {
			if c.Context() != nil {
				t.Errorf("a new connection has context %v", c.Context())
			}
			c.SetContext(&state{})
		},
		data: func(c *Conn, b []byte) int {
			s := c.Context().(*state)
			s.n += len(b)
			_, _ = c.Write([]byte{byte(s.n)})
			return len(b)
		},
	})
	for range 20 { // slots are used again
		c := srv.dial()
		for i := range byte(3) {
			write(t, c, []byte{0})
			wantRead(t, c, []byte{i + 1})
		}
		_ = c.Close()
		srv.wantCause(io.EOF)
	}
}

func TestStatsTellWhatHappened(t *testing.T) {
	srv := serve(t, Options{Loops: 1, poison: true}, echoWrite(t))
	if st := srv.Stats(); st.Loops != 1 || st.Connections != 0 || st.Accepted != 0 || st.BytesReceived != 0 {
		t.Errorf("of a new server: %+v", st)
	}
	a, b := srv.dial(), srv.dial()
	for i := range uint64(100) {
		wantEcho(t, a, payload(i, 100))
		wantEcho(t, b, payload(i, 200))
	}
	_ = b.Close()
	srv.wantCause(io.EOF)
	st := srv.Stats()
	if st.Connections != 1 || st.Accepted != 2 || st.Closed != 1 {
		t.Errorf("connections: %d open, %d accepted, %d closed", st.Connections, st.Accepted, st.Closed)
	}
	if st.BytesReceived != 30000 || st.BytesSent != 30000 {
		t.Errorf("bytes: %d received, %d sent", st.BytesReceived, st.BytesSent)
	}
	r := st.Ring
	if r.Enters == 0 || r.Waits == 0 || r.Waits > r.Enters || r.Submitted < 200 || r.Completions < 400 {
		t.Errorf("200 requests: %+v", r)
	}
	if st.Arms < 2 || st.Arms > 10 {
		t.Errorf("%d receives were armed for 2 connections", st.Arms)
	}
	if st.NoBuffers+st.Starved+st.ToBulk+st.ToSmall+st.DirectReceives+st.HighWater+st.HeapBuffers+st.AcceptErrors+st.Panics+st.Stale != 0 {
		t.Errorf("something happened that had no reason to: %+v", st)
	}
	// The accept and a's receive, and what the waker has in the ring.
	inFlight := 2
	if srv.loops[0].waker.Armed() {
		inFlight++
	}
	if st.InFlight != inFlight || st.LeasesOut != 0 || st.CopiesOut != 0 {
		t.Errorf("now: %d in flight, %d leases, %d copies", st.InFlight, st.LeasesOut, st.CopiesOut)
	}
}

func TestStatsAreTheSumOfTheLoops(t *testing.T) {
	srv := serve(t, Options{Loops: 3, poison: true}, echoWrite(t))
	err := crowd(30, func(i int) error {
		c, err := connect(srv.addr())
		if err != nil {
			return err
		}
		defer c.Close()
		return exchange(c, payload(uint64(i), 1000*i+1))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		srv.cause()
	}
	var accepted, received, completions uint64
	for i, st := range srv.LoopStats() {
		if st.Loops != 1 {
			t.Errorf("loop %d says it is %d loops", i, st.Loops)
		}
		accepted += st.Accepted
		received += st.BytesReceived
		completions += st.Ring.Completions
	}
	st := srv.Stats()
	if st.Loops != 3 || st.Accepted != accepted || st.BytesReceived != received || st.Ring.Completions < completions {
		t.Errorf("the sum is %d loops, %d accepted, %d bytes; of the loops: %d and %d", st.Loops, st.Accepted, st.BytesReceived, accepted, received)
	}
}
