//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newListener makes a HandOverListener that is closed after the server that is started
// next.
func newListener(t testing.TB, backlog int) *HandOverListener {
	l := &HandOverListener{Backlog: backlog}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveStd has a function serve each connection that comes. After the server was
// started: it ends before.
func serveStd(t testing.TB, l stdnet.Listener, serve func(stdnet.Conn)) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
}

// connections is how many the handler has been given.
func (w *witness) connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

func stdEcho(c stdnet.Conn) {
	_, _ = io.Copy(onlyWriter{c}, onlyReader{c})
	_ = c.Close()
}

// accept takes one connection; the test's end closes it.
func (l *HandOverListener) accept(t testing.TB) stdnet.Conn {
	t.Helper()
	type accepted struct {
		conn stdnet.Conn
		err  error
	}
	got := make(chan accepted, 1)
	go func() {
		conn, err := l.Accept()
		got <- accepted{conn, err}
	}()
	a := await(t, got, "Accept")
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() { _ = a.conn.Close() })
	_ = a.conn.SetDeadline(time.Now().Add(2 * patience))
	return a.conn
}

// A listener as the server's handler: every connection is std's from the beginning.
func TestHandOverListenerAtAccept(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 0)
		srv := serveHandler(t, v.Options, std)
		serveStd(t, std, stdEcho)
		if std.Addr().String() != strings.TrimPrefix(srv.addr().String(), "unix:") || std.Addr().Network() != srv.addr().Network() {
			t.Errorf("its address is %v, the server's %v", std.Addr(), srv.addr())
		}
		err := crowd(few(20), func(i int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			return exchange(c, payload(uint64(i), 20_000))
		})
		if err != nil {
			t.Error(err)
		}
		st := srv.Stats()
		if n := uint64(few(20)); st.HandedOver != n || st.Accepted != n || st.Closed != n || st.Connections != 0 {
			t.Errorf("%d were handed over, %d accepted, %d closed, %d are open", st.HandedOver, st.Accepted, st.Closed, st.Connections)
		}
		if st.Arms != 0 || st.BytesReceived != 0 {
			t.Errorf("%d receives were armed for them, %d bytes received", st.Arms, st.BytesReceived)
		}
	})
}

// One address for the loops and one for std, on one server.
func TestHandOverListenerForOneAddress(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 0)
		o := v.Options
		before := footprintNow(t)
		path := filepath.Join(t.TempDir(), "std")
		addrs := []string{"127.0.0.1:0", "unix:" + path, "unix:@" + path}
		w := newWitness(t, echoWrite(t))
		srv := &server{t: t, log: &logbook{}, before: before, Server: &Server{Handler: w.handler(), Options: o,
			Handlers: map[string]Handler{addrs[1]: std, addrs[2]: std}}}
		if err := srv.Start(addrs...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.stop)
		serveStd(t, std, func(c stdnet.Conn) {
			_, _ = c.Write([]byte("std"))
			stdEcho(c)
		})
		if got := std.Addr().String(); got != path {
			t.Errorf("the listener's address is %q, want %q", got, path)
		}
		for i, addr := range srv.Addrs() {
			c := dialTo(t, addr)
			write(t, c, []byte("hello"))
			want := "hello"
			if i > 0 {
				want = "stdhello"
			}
			wantRead(t, c, []byte(want))
		}
		if n := w.connections(); n != 1 {
			t.Errorf("the handler got %d connections", n)
		}
	}, "default", "epoll", "loops", "loops round robin", "loops least connections", "limited", "epoll limited")
}

// From a callback: the handler takes its own requests, and gives others away.
func TestHandOverToAListener(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 0)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if b[0] == 'o' {
				_, _ = c.Write(b)
				return len(b)
			}
			if err := c.HandOverTo(std); err != nil {
				t.Errorf("hand over: %v", err)
			}
			return 0
		}})
		serveStd(t, std, stdEcho)
		if std.Addr().String() != "no address" {
			t.Errorf("before any connection its address is %v", std.Addr())
		}
		c := srv.dial()
		wantEcho(t, c, []byte("ours"))
		wantEcho(t, c, []byte("theirs"))
		wantEcho(t, c, []byte("ours no more"))
		srv.wantHandedOver()
		if got := std.Addr(); got.String() != c.RemoteAddr().String() {
			t.Errorf("its address is %v, want %v", got, c.RemoteAddr())
		}
	})
}

// A full queue is told to a handler, which may do something else with the connection.
func TestHandOverListenerIsBounded(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 2)
		errs := make(chan error, 10)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			err := c.HandOverTo(std)
			errs <- err
			if err == nil {
				return 0
			}
			_, _ = c.Write([]byte("503"))
			c.Close()
			return len(b)
		}})
		var conns []peerConn
		for i := range 3 {
			c := srv.dial()
			conns = append(conns, c)
			write(t, c, payload(uint64(i), 100))
			err := await(t, errs, "HandOverTo")
			if i < 2 && err != nil || i == 2 && !errors.Is(err, ErrQueueFull) {
				t.Errorf("connection %d: %v", i, err)
			}
		}
		wantRest(t, conns[2], []byte("503"))
		for i := range 2 {
			wantRead(t, std.accept(t), payload(uint64(i), 100))
		}
		c := srv.dial()
		write(t, c, payload(9, 100))
		if err := await(t, errs, "HandOverTo"); err != nil {
			t.Errorf("with room again: %v", err)
		}
		wantRead(t, std.accept(t), payload(9, 100))
	}, "default", "epoll", "loops", "unix", "queues of 1 and 2")
}

// A place in the queue that a connection has taken and cannot come to is free again.
func TestHandOverListenerGetsThePlaceBackOfWhatIsLost(t *testing.T) {
	std := newListener(t, 1)
	mine := errors.New("mine")
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		if err := c.HandOverTo(std); err != nil {
			t.Errorf("hand over: %v", err)
		}
		c.Abort(mine)
	}})
	for range 3 {
		_, _ = io.ReadAll(srv.dial())
		srv.wantCause(mine)
	}
	if st := srv.Stats(); st.HandOversLost != 3 {
		t.Errorf("%d lost", st.HandOversLost)
	}
}

// Nobody decides about connections for which the listener is the handler: they are reset.
func TestHandOverListenerThatTakesNothingResets(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, full := range []bool{true, false} {
			t.Run(fmt.Sprintf("full %v", full), func(t *testing.T) {
				std := newListener(t, 1)
				srv := serveHandler(t, v.Options, std)
				waiting := srv.dial()
				until(t, "the first connection", func() bool { return srv.Stats().HandedOver == 1 })
				if !full {
					_ = std.Close()
					wantReset(t, waiting)
				}
				srv.wantTurnedAway()
				srv.wantTurnedAway()
				until(t, "the end of both", func() bool { return srv.Stats().Closed == 3 })
				if st := srv.Stats(); st.HandOversLost != 2 || st.Accepted != 3 || st.Closed != 3 {
					t.Errorf("%d lost, %d accepted, %d closed", st.HandOversLost, st.Accepted, st.Closed)
				}
				if n := strings.Count(srv.log.String(), "are reset"); n < 1 || n > v.Loops {
					t.Errorf("it is told %d times\n%s", n, srv.log)
				}
				if full {
					echoOn(t, std.accept(t))
					wantEcho(t, waiting, payload(1, 100))
				}
			})
		}
	}, "default", "epoll", "loops", "limited", "unix")
}

// wantTurnedAway wants a new connection to be reset, which may be told while it is made.
func (s *server) wantTurnedAway() {
	s.t.Helper()
	c, err := connect(s.addr())
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			s.t.Fatal(err)
		}
		return
	}
	wantReset(s.t, c)
	_ = c.Close()
}

// wantReset wants the end of a connection, on TCP by a reset.
func wantReset(t testing.TB, c peerConn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	switch {
	case n != 0 || err == nil:
		t.Errorf("read %d, %v: want the end", n, err)
	case c.RemoteAddr().Network() == "tcp" && !errors.Is(err, syscall.ECONNRESET):
		t.Errorf("read: %v, want a reset", err)
	}
}

// What is chosen as a handler behind a Conn, by a Dialer for one, is refused alike.
func TestHandOverListenerAsTheHandlerOfADialledConnection(t *testing.T) {
	std := newListener(t, 1)
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	srv := serve(t, Options{Loops: 1}, script{})
	srv.w = nil // it sees none of these
	for i := range 2 {
		if err := srv.Dial(ln.Addr().String(), Dialer{Handler: std}); err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = peer.Close() })
		_ = peer.SetDeadline(time.Now().Add(patience))
		if i == 0 {
			until(t, "the hand-over", func() bool { return srv.Stats().HandedOver == 1 })
			continue
		}
		wantReset(t, peer.(peerConn))
	}
	_ = std.accept(t)
}

func TestHandOverListenerClose(t *testing.T) {
	std := &HandOverListener{}
	waits := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := std.Accept()
			waits <- err
		}()
	}
	time.Sleep(time.Millisecond)
	if err := std.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for range 2 {
		if err := await(t, waits, "Accept to end"); !errors.Is(err, stdnet.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	}
	if _, err := std.Accept(); !errors.Is(err, stdnet.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := std.Close(); !errors.Is(err, stdnet.ErrClosed) {
		t.Errorf("close twice: %v", err)
	}
	refused := make(chan error, 1)
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) { refused <- c.HandOverTo(std); c.Close() }})
	srv.dial()
	if err := await(t, refused, "HandOverTo"); !errors.Is(err, stdnet.ErrClosed) {
		t.Errorf("HandOverTo a closed listener: %v", err)
	}
	srv.wantCause(nil)
}

// A connection on its way when the listener is closed goes the way of those that wait.
func TestHandOverListenerIsClosedMeanwhile(t *testing.T) {
	std := &HandOverListener{}
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		if err := c.HandOverTo(std); err != nil {
			t.Errorf("hand over: %v", err)
		}
		_ = std.Close()
	}})
	srv.wantTurnedAway()
	srv.wantHandedOver()
}

// Without descriptors Accept fails as std's does, and the connection is not lost.
func TestHandOverListenerWithoutDescriptors(t *testing.T) {
	std := newListener(t, 0)
	srv := serveHandler(t, Options{Loops: 1}, std)
	c := srv.dial()
	write(t, c, []byte("patience"))
	until(t, "the hand-over", func() bool { return srv.Stats().HandedOver == 1 })
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	now := unix.Rlimit{Cur: 1, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	_, err := std.Accept()
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	var te interface{ Temporary() bool }
	if !errors.Is(err, syscall.EMFILE) || !errors.As(err, &te) || !te.Temporary() || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("Accept: %v", err)
	}
	wantRead(t, std.accept(t), []byte("patience"))
}

// The same for one function: it is told, and the connection is closed.
func TestHandOverWithoutDescriptors(t *testing.T) {
	to := newHandOvers(t)
	srv := serve(t, Options{Loops: 1}, script{data: func(c *Conn, b []byte) int { to.of(c); return 0 }})
	c := srv.dial()
	until(t, "the connection", func() bool { return srv.Stats().Connections == 1 })
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	now := unix.Rlimit{Cur: 1, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	_, werr := c.Write([]byte("patience"))
	got := <-to.ch
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if werr != nil || got.conn != nil || !errors.Is(got.err, syscall.EMFILE) {
		t.Errorf("wrote: %v, handed over: %v, %v", werr, got.conn, got.err)
	}
	wantReset(t, c)
}

func TestHandlersAreChecked(t *testing.T) {
	std := &HandOverListener{}
	for _, c := range []struct {
		name     string
		handler  Handler
		handlers map[string]Handler
		addrs    []string
		want     string // in the error; "": it starts
	}{
		{name: "none for an address", handlers: map[string]Handler{"127.0.0.1:0": std}, addrs: []string{"127.0.0.1:0", "[::1]:0"}, want: "Handler is nil"},
		{name: "one for each", handlers: map[string]Handler{"127.0.0.1:0": std}, addrs: []string{"127.0.0.1:0"}},
		{name: "for no address", handler: Events{}, handlers: map[string]Handler{"127.0.0.1:1": std}, addrs: []string{"127.0.0.1:0"}, want: "spelt alike"},
		{name: "for datagrams", handler: Events{}, handlers: map[string]Handler{"udp:127.0.0.1:0": std}, addrs: []string{"127.0.0.1:0", "udp:127.0.0.1:0"}, want: "Packets is nil"},
		{name: "nil", handler: Events{}, handlers: map[string]Handler{"127.0.0.1:0": nil}, addrs: []string{"127.0.0.1:0"}, want: "has nil for"},
		{name: "a backlog that is none", handler: &HandOverListener{Backlog: -1}, addrs: []string{"127.0.0.1:0"}, want: "Backlog is -1"},
		{name: "and for one address", handler: Events{}, handlers: map[string]Handler{"127.0.0.1:0": &HandOverListener{Backlog: 1 << 21}}, addrs: []string{"127.0.0.1:0"}, want: "Backlog is"},
		{name: "a Sniff without rules", handler: &Sniff{}, addrs: []string{"127.0.0.1:0"}, want: "Rules is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := footprintNow(t)
			srv := &Server{Handler: c.handler, Handlers: c.handlers, Options: Options{Loops: 1, Logger: quiet()}}
			err := srv.Start(c.addrs...)
			if err == nil {
				_ = srv.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("start: %v, want %q", err, c.want)
			}
			before.check(t)
		})
	}
}

// Inherited listeners have handlers, too.
func TestHandOverListenerOfAnInheritedAddress(t *testing.T) {
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*stdnet.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	std := &HandOverListener{}
	name := fmt.Sprintf("fd:%d", fd)
	srv := &Server{Handler: Events{}, Handlers: map[string]Handler{name: std}, Options: Options{Loops: 2, Logger: quiet()}}
	if err := srv.Start("127.0.0.1:0", name); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	defer std.Close()
	serveStd(t, std, stdEcho)
	for range 4 {
		c := dialTo(t, srv.Addrs()[1])
		wantEcho(t, c, payload(3, 3000))
		_ = c.Close()
	}
}
