//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// diallers are the set-ups that dialling is tested with.
var diallers = []variant{
	{name: "uring", Options: Options{Loops: 1, poison: true}},
	{name: "loops", Options: Options{Loops: 3, poison: true}},
	{name: "epoll", Options: Options{Loops: 1, Engine: ring.Epoll, poison: true}},
	{name: "no features", Options: Options{Loops: 1, Mask: maskAll, poison: true}},
	{name: "queues of 1 and 2", Options: Options{Loops: 1, EntryCount: 1, CompletionCount: 2, poison: true}},
	{name: "epoll queues of 1 and 2", Options: Options{Loops: 1, Engine: ring.Epoll, EntryCount: 1, CompletionCount: 2, poison: true}},
}

func overDiallers(t *testing.T, test func(t *testing.T, o Options)) {
	for _, v := range diallers {
		t.Run(v.name, func(t *testing.T) { test(t, v.Options) })
	}
}

// client is a running Client that a test looks after.
type client struct {
	*Client
	t        testing.TB
	log      *logbook
	before   footprint
	outcomes chan error // of Dialers from dialer
	opened   atomic.Int64
	closed   atomic.Int64
	stopped  bool
}

// newClient starts a client, and has it ended and checked when the test ends.
func newClient(t testing.TB, o Options) *client {
	t.Helper()
	c := &client{t: t, log: &logbook{}, before: footprintNow(t), outcomes: make(chan error, 10_000)}
	o.Logger = slog.New(slog.NewTextHandler(c.log, nil))
	c.Client = &Client{Options: o}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c
}

func (c *client) stop() {
	c.t.Helper()
	if c.stopped {
		return
	}
	c.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Shutdown(ctx); err != nil {
		c.t.Errorf("shutdown: %v\n%s", err, stacks())
	}
	st := c.Stats()
	if st.InFlight != 0 || st.Connections != 0 || st.Dialling != 0 || st.LeasesOut != 0 || st.CopiesOut != 0 || st.Stale != 0 {
		c.t.Errorf("after the end: %+v", st)
	}
	if st.Dialled != st.Closed || c.opened.Load() != c.closed.Load() {
		c.t.Errorf("after the end: %d dialled, %d closed; %d opened, %d closed", st.Dialled, st.Closed, c.opened.Load(), c.closed.Load())
	}
	c.before.check(c.t)
	checkWorkers(c.t, "after the end")
	if len(c.outcomes) > 0 {
		c.t.Errorf("there was another outcome: %v", <-c.outcomes)
	}
	if c.t.Failed() {
		c.t.Logf("log:\n%s", c.log)
	}
}

// dialHandler tells a client of the outcome, and a script of the rest.
type dialHandler struct {
	c *client
	s script
}

func (h dialHandler) OnOpen(c *Conn) {
	h.c.opened.Add(1)
	h.c.outcomes <- nil
	if h.s.open != nil {
		h.s.open(c)
	}
}

func (h dialHandler) OnData(c *Conn, b []byte) int {
	if h.s.data != nil {
		return h.s.data(c, b)
	}
	return len(b)
}

func (h dialHandler) OnClose(c *Conn, err error) {
	h.c.closed.Add(1)
	if h.s.close != nil {
		h.s.close(c, err)
	}
}

// dialer is a Dialer whose one outcome goes to outcomes.
func (c *client) dialer(s script) Dialer {
	return Dialer{Handler: dialHandler{c, s}, OnError: func(err error) {
		if err == nil {
			c.t.Error("OnError is told of no error")
		}
		c.outcomes <- err
	}}
}

func (c *client) outcome() error {
	c.t.Helper()
	return await(c.t, c.outcomes, "the outcome of a dial")
}

// want dials with a failure in prospect: an *OpError for addr that matches one of
// errs, if there are any, from OnError and from DialContext.
func (c *client) wantError(addr string, d Dialer, errs ...error) error {
	c.t.Helper()
	err := c.DialContext(c.t.Context(), addr, d)
	if told := c.outcome(); told != err {
		c.t.Errorf("dial %s: OnError was told %v, DialContext answers %v", addr, told, err)
	}
	var op *OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		c.t.Fatalf("dial %s: %v (%T), want an *OpError of a dial", addr, err, err)
	}
	if len(errs) == 0 || slices.ContainsFunc(errs, func(want error) bool { return errors.Is(err, want) }) {
		return err
	}
	c.t.Errorf("dial %s: %v, want one of %v", addr, err, errs)
	return err
}

func TestDialEcho(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "unix:" + filepath.Join(t.TempDir(), "s"), "unix:@" + t.Name()} {
			t.Run(listen, func(t *testing.T) {
				if strings.HasPrefix(listen, "[") {
					probeIPv6(t)
				}
				srv := serve(t, o, echoLease(t), listen)
				c := newClient(t, o)
				for _, size := range []int{1, 5000, 300_000} {
					p := payload(uint64(size), size)
					var got []byte
					done := make(chan struct{})
					d := c.dialer(script{
						open: func(c *Conn) {
							if c.Context() != "mine" {
								t.Errorf("the context is %v", c.Context())
							}
							if c.RemoteAddr() != srv.Addrs()[0] {
								t.Errorf("the peer is %v, want %v", c.RemoteAddr(), srv.Addrs()[0])
							}
							if a := c.LocalAddr(); a.Network() != c.RemoteAddr().Network() || a.Network() == "tcp" && a.AddrPort().Port() == 0 {
								t.Errorf("our address is %v", a)
							}
							if _, err := c.Write(p); err != nil {
								t.Error(err)
							}
						},
						data: func(c *Conn, b []byte) int {
							if got = append(got, b...); len(got) >= len(p) {
								c.Close()
							}
							return len(b)
						},
						close: func(_ *Conn, err error) {
							if err != nil {
								t.Errorf("OnClose is told %v", err)
							}
							close(done)
						},
					})
					d.Context = "mine"
					if err := c.Dial(srv.Addrs()[0].String(), d); err != nil {
						t.Fatal(err)
					}
					if err := c.outcome(); err != nil {
						t.Fatal(err)
					}
					await(t, done, "OnClose")
					if err := differ(got, p); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// A proxy: each connection that is accepted dials one to a server behind.
func TestDialFromACallback(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		back := serve(t, o, echoWrite(t))
		addr := back.Addrs()[0].String()
		forward := func(c *Conn, b []byte) int {
			to, _ := c.Context().(*Conn)
			if to == nil {
				return 0 // kept until there is one
			}
			if _, err := to.Write(b); err != nil && !errors.Is(err, ErrClosed) {
				t.Errorf("write: %v", err)
			}
			return len(b)
		}
		closed := func(c *Conn, _ error) {
			if to, _ := c.Context().(*Conn); to != nil {
				to.Close()
			}
		}
		front := serve(t, o, script{
			open: func(c *Conn) {
				if c.Context() != nil {
					if c.Loop() != c.Context().(*Conn).Loop() {
						t.Error("it lives on another loop")
					}
					c.Context().(*Conn).SetContext(c)
					c.Context().(*Conn).ResumeRead()
					return
				}
				c.PauseRead()
				c.Dial(addr, Dialer{Context: c, OnError: func(err error) { t.Error(err); c.Abort(err) }})
			},
			data: forward, close: closed,
		})
		err := crowd(few(20), func(i int) error {
			c, err := connect(front.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			return errors.Join(exchange(c, payload(uint64(i), 1+i*5000)), exchange(c, payload(uint64(i), 100)))
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// fill makes a listener whose backlog is full, so that a connect gets no answer.
func fullListener(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	for range 3 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		if err := unix.Connect(c, sa); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	return addr
}

// refusing is an address at which nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestDialFails(t *testing.T) {
	folder := t.TempDir()
	full, refused := fullListener(t), refusing(t)
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("no longer wanted")
	cancel(gone)
	cases := []struct {
		name, addr string
		d          Dialer
		want       []error
		text       string
	}{
		{name: "refused", addr: refused, want: []error{unix.ECONNREFUSED}, text: refused},
		{name: "timeout", addr: full, d: Dialer{Timeout: 20 * time.Millisecond}, want: []error{os.ErrDeadlineExceeded}, text: full},
		{name: "no port", addr: "127.0.0.1", text: "write host:port"},
		{name: "empty port", addr: "localhost:", text: "no port"},
		{name: "empty", addr: "", text: "write host:port"},
		{name: "port too large", addr: "127.0.0.1:70000", text: "invalid port"},
		{name: "unknown service", addr: "127.0.0.1:no-such-service", text: "no-such-service"},
		{name: "unix without a path", addr: "unix:", text: "the path is empty"},
		{name: "unix too long", addr: "unix:" + strings.Repeat("x", 200), text: "too long"},
		{name: "unix missing", addr: "unix:" + folder + "/none", want: []error{unix.ENOENT}},
		{name: "unix refused", addr: "unix:@ringnet-nobody", want: []error{unix.ECONNREFUSED}},
		{name: "unix and a file", addr: "unix:" + file, want: []error{unix.ECONNREFUSED}},
		{name: "local address of others", addr: refused, d: Dialer{LocalAddr: TCPAddr(netip.MustParseAddrPort("192.0.2.1:0"))},
			want: []error{unix.EADDRNOTAVAIL}, text: "not of this machine"},
		{name: "local address of another family", addr: refused, d: Dialer{LocalAddr: TCPAddr(netip.MustParseAddrPort("[::1]:0"))}, text: "same family"},
		{name: "local address of Unix", addr: refused, d: Dialer{LocalAddr: UnixAddr("@x")}, text: "same family"},
		{name: "local file, refused", addr: "unix:@ringnet-nobody", d: Dialer{LocalAddr: UnixAddr(folder + "/mine")}, want: []error{unix.ECONNREFUSED}},
	}
	overDiallers(t, func(t *testing.T, o Options) {
		c := newClient(t, o)
		for _, cs := range cases {
			t.Run(cs.name, func(t *testing.T) {
				d := c.dialer(script{})
				d.Timeout, d.LocalAddr = cs.d.Timeout, cs.d.LocalAddr
				if err := c.wantError(cs.addr, d, cs.want...); !strings.Contains(err.Error(), cs.text) {
					t.Errorf("%v: want %q in it", err, cs.text)
				}
			})
		}
		if _, err := os.Lstat(folder + "/mine"); err == nil {
			t.Error("the file of the local address was left behind")
		}
		if err := c.DialContext(ctx, full, c.dialer(script{})); !errors.Is(err, gone) {
			t.Errorf("with a context that has ended: %v", err)
		}
		if n := c.Stats().DialErrors; n != uint64(len(cases)) {
			t.Errorf("%d errors counted, want %d", n, len(cases))
		}
	})
}

func TestDialContextEnds(t *testing.T) {
	full := fullListener(t)
	overDiallers(t, func(t *testing.T, o Options) {
		c := newClient(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		d := c.dialer(script{})
		d.Timeout = -1
		go func() {
			for c.Stats().Dialling == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if err := c.DialContext(ctx, full, d); !errors.Is(err, context.Canceled) {
			t.Errorf("DialContext answers %v", err)
		}
		if err := c.outcome(); !errors.Is(err, context.Canceled) {
			t.Errorf("OnError was told %v", err)
		}
	})
}

func TestDialingCancel(t *testing.T) {
	full, refused := fullListener(t), refusing(t)
	overDiallers(t, func(t *testing.T, o Options) {
		c := newClient(t, o)
		for _, addr := range []string{full, refused, "localhost:1"} {
			for _, later := range []bool{false, true} {
				l := c.s.loops[0]
				d := c.dialer(script{})
				got := make(chan *Dialing, 1)
				_ = l.mail.post(func() {
					g := l.dial(addr, d, newHandlers(d.Handler), nil)
					if !later {
						g.Cancel()
						g.Cancel()
					}
					got <- g
				})
				g := <-got
				if later {
					_ = l.mail.post(g.Cancel)
				}
				err := c.outcome()
				if !errors.Is(err, context.Canceled) && (!later || !errors.Is(err, unix.ECONNREFUSED)) {
					t.Errorf("%s: %v", addr, err)
				}
				_ = l.mail.post(g.Cancel) // which does nothing any more
			}
		}
	})
}

// Connecting, waiting in the backlog of a Unix socket, looking a name up.
func TestShutdownWhileDialling(t *testing.T) {
	full := fullListener(t)
	path := filepath.Join(t.TempDir(), "full")
	fillUnix(t, path)
	overDiallers(t, func(t *testing.T, o Options) {
		for _, how := range []string{"shutdown", "close"} {
			t.Run(how, func(t *testing.T) {
				o := o
				looking := make(chan struct{}, 1)
				o.lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
					looking <- struct{}{}
					<-ctx.Done()
					return nil, ctx.Err()
				}
				c := newClient(t, o)
				all := []string{full, "unix:" + path, "host:80", full}
				for _, addr := range all {
					d := c.dialer(script{})
					d.Timeout = -1
					if err := c.Dial(addr, d); err != nil {
						t.Fatal(err)
					}
				}
				await(t, looking, "the look-up")
				var err error
				if how == "shutdown" {
					err = c.Shutdown(t.Context())
				} else {
					err = c.Close()
				}
				if err != nil {
					t.Error(err)
				}
				for range all {
					if err := c.outcome(); !errors.Is(err, ErrServerClosed) {
						t.Errorf("OnError was told %v", err)
					}
				}
				if err := c.Dial(full, c.dialer(script{})); !errors.Is(err, ErrServerClosed) {
					t.Errorf("Dial afterwards: %v", err)
				}
			})
		}
	})
}

// fillUnix makes a Unix listener whose backlog is full, and returns what accepts.
func fillUnix(t *testing.T, path string) (accept func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		if err := unix.Connect(c, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			return func() {
				if c, _, err := unix.Accept(fd); err == nil {
					_ = unix.Close(c)
				}
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDialWaitsForRoomInAUnixBacklog(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		path := filepath.Join(t.TempDir(), "s")
		accept := fillUnix(t, path)
		c := newClient(t, o)
		d := c.dialer(script{})
		d.Timeout = 10 * time.Millisecond
		c.wantError("unix:"+path, d, os.ErrDeadlineExceeded)
		d.Timeout = 0
		if err := c.Dial("unix:"+path, d); err != nil {
			t.Fatal(err)
		}
		until(t, "the dial to wait", func() bool { return c.Stats().Dialling == 1 })
		accept()
		if err := c.outcome(); err != nil {
			t.Error(err)
		}
	})
}

func TestDialTriesAddressesInTurn(t *testing.T) {
	full := netip.MustParseAddrPort(fullListener(t))
	overDiallers(t, func(t *testing.T, o Options) {
		srv := serve(t, Options{Loops: 1, poison: true}, echoWrite(t), "127.0.0.3:0")
		bad := errors.New("no resolver")
		o.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			switch host {
			case "some":
				return []netip.Addr{netip.MustParseAddr("127.0.0.5"), netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.3")}, nil
			case "none":
				return nil, nil
			case "wrong":
				return []netip.Addr{netip.MustParseAddr("127.0.0.5"), netip.MustParseAddr("127.0.0.6")}, nil
			}
			return nil, bad
		}
		c := newClient(t, o)
		port := srv.addr().AddrPort().Port()
		if err := c.DialContext(t.Context(), fmt.Sprintf("some:%d", port), c.dialer(script{})); err != nil {
			t.Error(err)
		}
		if err := c.outcome(); err != nil {
			t.Error(err)
		}
		d := c.dialer(script{open: func(c *Conn) {
			if got := c.LocalAddr().AddrPort().Addr().String(); got != "127.0.0.9" {
				t.Errorf("it comes from %v", got)
			}
		}})
		d.LocalAddr = TCPAddr(netip.MustParseAddrPort("127.0.0.9:0"))
		if err := c.DialContext(t.Context(), fmt.Sprintf("some:%d", port), d); err != nil {
			t.Error(err)
		}
		if err := c.outcome(); err != nil {
			t.Error(err)
		}
		err := c.wantError(fmt.Sprintf("wrong:%d", port), c.dialer(script{}), unix.ECONNREFUSED)
		if !strings.Contains(err.Error(), "127.0.0.5") {
			t.Errorf("%v: it should name the first address", err)
		}
		var dns *stdnet.DNSError
		if err := c.wantError("none:80", c.dialer(script{})); !errors.As(err, &dns) || !dns.IsNotFound {
			t.Errorf("a name without addresses: %v", err)
		}
		c.wantError("other:80", c.dialer(script{}), bad)
		// The time is divided: an address that does not answer leaves some for
		// the next. Its share is two seconds at least, so that is not waited for.
		d = c.dialer(script{})
		d.Timeout = 30 * time.Millisecond
		c.wantError(full.String(), d, os.ErrDeadlineExceeded)
	})
}

func TestDialANameByStdsResolver(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		srv := serve(t, Options{Loops: 1, poison: true}, echoWrite(t))
		c := newClient(t, o)
		for _, host := range []string{"localhost", ""} {
			if err := c.DialContext(t.Context(), fmt.Sprintf("%s:%d", host, srv.addr().AddrPort().Port()), c.dialer(script{})); err != nil {
				t.Error(err)
			}
			if err := c.outcome(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDialWithoutDescriptors(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		srv := serve(t, Options{Loops: 1, poison: true}, echoWrite(t))
		c := newClient(t, o)
		c.Stats() // whatever it opens is open
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		now := unix.Rlimit{Cur: 1, Max: old.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
			t.Skip(err)
		}
		err := c.DialContext(t.Context(), srv.addr().String(), c.dialer(script{}))
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		if told := c.outcome(); told != err || !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "ulimit") {
			t.Errorf("without descriptors: %v, %v", err, told)
		}
	})
}

func TestPanicsAroundADial(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		srv := serve(t, Options{Loops: 1, poison: true}, echoWrite(t))
		c := newClient(t, o)
		d := c.dialer(script{})
		told := d.OnError
		d.OnError = func(err error) { told(err); panic("in OnError") }
		c.wantError(refusing(t), d, unix.ECONNREFUSED)
		closed := make(chan error, 1)
		d = c.dialer(script{open: func(*Conn) { panic("in OnOpen") }, close: func(_ *Conn, err error) { closed <- err }})
		if err := c.DialContext(t.Context(), srv.addr().String(), d); err != nil {
			t.Error(err)
		}
		if err := c.outcome(); err != nil {
			t.Error(err)
		}
		var p *PanicError
		if err := await(t, closed, "OnClose"); !errors.As(err, &p) {
			t.Errorf("OnClose is told %v", err)
		}
		if n := c.Stats().Panics; n != 2 {
			t.Errorf("%d panics counted, want 2", n)
		}
	})
}

func TestManyDialsAtOnce(t *testing.T) {
	refused := refusing(t)
	overDiallers(t, func(t *testing.T, o Options) {
		srv := serve(t, Options{Loops: 1, poison: true}, echoLease(t))
		c := newClient(t, o)
		n := few(200)
		p := payload(7, 1000)
		sum := make(chan error, n)
		for i := range n {
			if i%4 == 3 {
				if err := c.Dial(refused, c.dialer(script{})); err != nil {
					t.Fatal(err)
				}
				sum <- nil
				continue
			}
			var got []byte
			err := c.Dial(srv.addr().String(), c.dialer(script{
				open: func(c *Conn) { _, _ = c.Write(p) },
				data: func(c *Conn, b []byte) int {
					if got = append(got, b...); len(got) == len(p) {
						c.Close()
					}
					return len(b)
				},
				close: func(_ *Conn, err error) { sum <- errors.Join(err, differ(got, p)) },
			}))
			if err != nil {
				t.Fatal(err)
			}
		}
		failed := 0
		for range n {
			if err := c.outcome(); errors.Is(err, syscall.ECONNREFUSED) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
		}
		if failed != n/4 {
			t.Errorf("%d were refused, want %d", failed, n/4)
		}
		for range n {
			if err := await(t, sum, "OnClose"); err != nil {
				t.Error(err)
			}
		}
	})
}

// A peer that resets, or ends, as soon as it is connected to.
func TestPeerOfADialEndsAtOnce(t *testing.T) {
	overDiallers(t, func(t *testing.T, o Options) {
		ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			for i := 0; ; i++ {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				if i%2 == 0 {
					_ = c.(*stdnet.TCPConn).SetLinger(0)
				}
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = ln.Close(); <-over }) // behind the client's end
		c := newClient(t, o)
		for range 20 {
			closed := make(chan error, 1)
			if err := c.Dial(ln.Addr().String(), c.dialer(script{close: func(_ *Conn, err error) { closed <- err }})); err != nil {
				t.Fatal(err)
			}
			err := c.outcome()
			if err == nil {
				if err = await(t, closed, "OnClose"); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("OnClose is told %v", err)
				}
			} else if !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
		}
	})
}

func TestClientThatIsNotStarted(t *testing.T) {
	var c Client
	if err := c.Dial("127.0.0.1:1", Dialer{}); err == nil || !strings.Contains(err.Error(), "before Start") {
		t.Error(err)
	}
	if err := c.DialContext(t.Context(), "127.0.0.1:1", Dialer{}); err == nil || !strings.Contains(err.Error(), "before Start") {
		t.Error(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Dial("127.0.0.1:1", Dialer{}); err == nil || !strings.Contains(err.Error(), "without a Handler") {
		t.Error(err)
	}
	if err := c.Start(); err == nil {
		t.Error("it starts twice")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err != ErrServerClosed {
		t.Error(err)
	}
}
