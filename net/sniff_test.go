//go:build linux

package net

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	stdnet "net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSniffMatches(t *testing.T) {
	hello := clientHello(t)
	matches := []struct {
		name  string
		match SniffMatch
	}{{"tls", SniffTLS}, {"http1", SniffHTTP1}, {"http2", SniffHTTP2}, {"prefix", SniffPrefix("RN\x00\x01")}}
	for _, c := range []struct {
		in   string
		want string // the one that matches; "": none; "?": cannot be told yet
	}{
		{in: string(hello), want: "tls"},
		{in: string(hello[:6]), want: "tls"},
		{in: string(hello[:5]), want: "?"},
		{in: "\x16\x03\x00\x00\x04\x01", want: "tls"},
		{in: "\x16\x03\x04\x48\x00\x01", want: "tls"},
		{in: "\x16\x03\x04\x48\x01\x01"},
		{in: "\x16\x03\x01\x00\x03\x01"},
		{in: "\x16\x03\x05"},
		{in: "\x16\x02"},
		{in: "\x16\x03\x01\x02\x00\x02"},     // a ServerHello
		{in: "\x17\x03\x03\x00\x20"},         // data
		{in: "\x80\x2e\x01\x03\x01\x00\x15"}, // the hello of SSL 2
		{in: "G", want: "?"},
		{in: "GET", want: "?"},
		{in: "GET ", want: "?"},
		{in: "GET / HTTP/1.1\r\n", want: "http1"},
		{in: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", want: "http1"},
		{in: "GET / HTTP/1.0\n", want: "http1"},
		{in: "GET / HTTP/1.1\r", want: "?"},
		{in: "GET / HTTP/1.1\rX"},
		{in: "GET / HTTP/1.1 \r\n"},
		{in: "GET / HTTP/1.x\r\n"},
		{in: "GET / HTTP/2.0\r\n"},
		{in: "GET / http/1.1\r\n"},
		{in: "GET /\r\n"}, // HTTP/0.9
		{in: "GET  HTTP/1.1\r\n"},
		{in: " GET / HTTP/1.1\r\n"},
		{in: "\r\nGET / HTTP/1.1\r\n"},
		{in: "M-SEARCH * HTTP/1.1\r\n", want: "http1"},
		{in: "get key\r\n"}, // memcached
		{in: "get key", want: "?"},
		{in: "*1\r\n$4\r\nPING\r\n"}, // Redis
		{in: "*", want: "?"},
		{in: "SSH-2.0-OpenSSH_9.6\r\n"},
		{in: "CONNECT example.org:443 HTTP/1.1\r\n", want: "http1"},
		{in: "GET http://a/b?c=d%20e#f HTTP/1.1\r\n", want: "http1"},
		{in: "GET /\x00 HTTP/1.1\r\n"},
		{in: strings.Repeat("A", 33)},
		{in: strings.Repeat("A", 32) + " / HTTP/1.1\r\n", want: "http1"},
		{in: "POST /" + strings.Repeat("x", 5000), want: "?"},
		{in: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: "http2"},
		{in: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12", want: "http2"},
		{in: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", want: "?"},
		{in: "PRI * HTTP/2.0\r\n\r\nSX"},
		{in: "PRI * HTTP/1.1\r\n", want: "http1"},
		{in: "RN\x00\x01", want: "prefix"},
		{in: "RN\x00\x01more", want: "prefix"},
		{in: "RN\x00", want: "?"},
		{in: "RN\x00\x02"},
		{in: "\x00"},
	} {
		got := ""
		for _, m := range matches {
			switch m.match([]byte(c.in)) {
			case SniffYes:
				got = m.name
			case SniffMore:
				if got == "" {
					got = "?"
				}
			}
		}
		if got != c.want {
			t.Errorf("%.40q: %q, want %q", c.in, got, c.want)
		}
	}
	if SniffPrefix("")([]byte("x")) != SniffYes {
		t.Error("everything begins with nothing")
	}
}

// clientHello is what crypto/tls begins with.
func clientHello(t testing.TB) []byte {
	t.Helper()
	a, b := stdnet.Pipe()
	defer a.Close()
	go func() { _ = tls.Client(b, &tls.Config{ServerName: "example.org"}).Handshake() }()
	hello := make([]byte, 64)
	if _, err := io.ReadFull(a, hello); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	return hello
}

// What a match says of a beginning holds for all that may follow, so that it does not
// matter in which pieces the bytes come; and it says of requests what net/http does.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\x50\x01\x00", "RN1", "M-X ! HTTP/1.9\n\n",
		"POST http://a:1/%2f HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", "\x16\x03\x04\x48\x01\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, match := range map[string]SniffMatch{"tls": SniffTLS, "http1": SniffHTTP1, "http2": SniffHTTP2, "prefix": SniffPrefix("RN1")} {
			was := SniffMore
			for i := 1; i <= len(b); i++ {
				now := match(b[:i:i])
				if was != SniffMore && now != was {
					t.Fatalf("%s of %q is %d, and was %d of one byte less", name, b[:i], now, was)
				}
				was = now
			}
		}
		if len(b) == 0 {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && req.ProtoMajor == 1 && len(req.Method) <= 32 && SniffHTTP1(b) != SniffYes {
			t.Errorf("net/http reads %v %v %v out of %q, which is no request line", req.Method, req.RequestURI, req.Proto, b)
		}
		// With three of a kind, whoever is first and matches has it.
		s := &Sniff{Rules: []SniffRule{{SniffTLS, Events{}}, {SniffHTTP1, Events{}}, {SniffHTTP2, Events{}}}, MaxBytes: 64}
		if err := s.check(); err != nil {
			t.Fatal(err)
		}
		h, more := s.choose(b, false)
		if more && len(b) >= 64 {
			t.Errorf("of %d bytes the choice is open", len(b))
		}
		if h != nil && more {
			t.Error("chosen, and open")
		}
		for i := 1; i < len(b); i++ {
			if early, open := s.choose(b[:i], false); !open && early != h {
				t.Errorf("chosen by %q, and otherwise by %q", b[:i], b)
			}
		}
	})
}

// sniffed is a handler that a Sniff chooses: an echo behind its name.
type sniffed struct {
	Events
	name string
}

func (h sniffed) OnOpen(c *Conn) { _, _ = c.Write([]byte(h.name)) }

func (h sniffed) OnData(c *Conn, b []byte) int {
	_, _ = c.Write(b)
	return len(b)
}

// Whoever is chosen has the connection from its first byte, in whatever pieces these come.
func TestSniffChoosesByTheFirstBytes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 0)
		sniff := &Sniff{
			Rules: []SniffRule{
				{SniffPrefix("RN1"), sniffed{name: "binary:"}},
				{SniffTLS, sniffed{name: "tls:"}},
				{SniffHTTP2, std},
				{SniffHTTP1, std},
			},
			Default: sniffed{name: "default:"},
		}
		srv := serveHandler(t, v.Options, sniff)
		serveStd(t, std, func(c stdnet.Conn) {
			_, _ = c.Write([]byte("std:"))
			stdEcho(c)
		})
		if got := std.Addr().Network(); got != srv.addr().Network() {
			t.Errorf("the listener's address is %v", std.Addr())
		}
		for _, c := range []struct{ in, want string }{
			{"RN1 hello", "binary:"},
			{"RN1", "binary:"},
			{string(clientHello(t)), "tls:"},
			{"GET /index HTTP/1.1\r\nHost: a\r\n\r\n", "std:"},
			{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes", "std:"},
			{"SSH-2.0-x\r\n", "default:"},
			{"\x00\x01", "default:"},
		} {
			for _, pieces := range []int{1, 2, len(c.in)} {
				conn := srv.dial()
				in := []byte(c.in)
				for i := range pieces {
					write(t, conn, in[i*len(in)/pieces:(i+1)*len(in)/pieces])
				}
				wantRead(t, conn, []byte(c.want+c.in))
				big := payload(5, 3000)
				write(t, conn, big)
				wantRead(t, conn, big)
				_ = conn.CloseWrite()
				wantRest(t, conn, nil)
			}
		}
	})
}

// What the peer sent before its end has to do.
func TestSniffOfWhatEndsEarly(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 0)
		w := newWitness(t, script{
			open: func(c *Conn) { _, _ = c.Write([]byte("default:")) },
			data: func(c *Conn, b []byte) int { _, _ = c.Write(b); return len(b) },
			eof:  func(c *Conn) { _, _ = c.Write([]byte(":end")); c.Close() },
		})
		srv := serveHandler(t, v.Options, &Sniff{Rules: []SniffRule{{SniffPrefix("std"), std}, {SniffPrefix("standard"), std}}, Default: w.handler()})
		serveStd(t, std, stdEcho)
		for _, c := range []struct{ in, want string }{
			{"", ""},
			{"s", "default:s:end"},
			{"st", "default:st:end"},
			{"std", "std"},
			{"sta", "default:sta:end"},
			{"x", "default:x:end"},
		} {
			conn := srv.dial()
			write(t, conn, []byte(c.in))
			_ = conn.CloseWrite()
			wantRest(t, conn, []byte(c.want))
		}
		if n := w.connections(); n != 4 {
			t.Errorf("the default handler got %d connections", n)
		}
	})
}

// A chosen handler that pauses hears of the end behind the bytes, when it goes on.
func TestSniffChoosesAHandlerThatPauses(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var order []string
		done := make(chan []string, 1)
		w := newWitness(t, script{
			open: func(c *Conn) {
				order = nil
				c.PauseRead()
				c.AfterFunc(5*time.Millisecond, func(c *Conn) { order = append(order, "resume"); c.ResumeRead() })
			},
			data: func(c *Conn, b []byte) int { order = append(order, string(b)); return len(b) },
			eof:  func(c *Conn) { order = append(order, "end"); done <- order; c.Close() },
		})
		srv := serveHandler(t, v.Options, &Sniff{Rules: []SniffRule{{SniffPrefix("abc"), w.handler()}}, Default: w.handler()})
		for _, in := range []string{"abcdef", "ab"} {
			conn := srv.dial()
			write(t, conn, []byte(in))
			_ = conn.CloseWrite()
			if got := strings.Join(await(t, done, "the end"), " "); got != "resume "+in+" end" {
				t.Errorf("%q: %s", in, got)
			}
			wantRest(t, conn, nil)
		}
	}, "default", "epoll", "no features", "unix")
}

func TestSniffWithoutADefaultCloses(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveHandler(t, v.Options, &Sniff{Rules: []SniffRule{{SniffPrefix("abc"), sniffed{}}}})
		for _, in := range []string{"x", "abx", "ab"} {
			conn := srv.dial()
			write(t, conn, []byte(in))
			_ = conn.CloseWrite()
			wantRest(t, conn, nil)
		}
	}, "default", "epoll", "unix")
}

// A peer that never says enough ends when its time is over, whether it says nothing or a
// byte now and then; the time of those that were chosen is their handler's matter.
func TestSniffEndsAPeerThatSaysTooLittle(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		causes := make(chan error, 8)
		std := newListener(t, 0)
		srv := serveHandler(t, v.Options, causeHandler{&Sniff{Rules: []SniffRule{{SniffPrefix("abc"), sniffed{name: "ok"}}, {SniffHTTP1, std}}, Timeout: 50 * time.Millisecond}, causes})
		serveStd(t, std, stdEcho)
		chosen := srv.dial()
		write(t, chosen, []byte("abc"))
		wantRead(t, chosen, []byte("okabc"))
		start := time.Now()
		for _, in := range []string{"", "ab", "GET /"} {
			conn := srv.dial()
			write(t, conn, []byte(in))
			wantRest(t, conn, nil)
			if err := await(t, causes, "OnClose"); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q: the cause is %v", in, err)
			}
		}
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Errorf("three of them ended in %v", took)
		}
		if st := srv.Stats(); st.Timeouts != 3 || st.TimersSet != 0 {
			t.Errorf("%d timeouts, %d timers are set", st.Timeouts, st.TimersSet)
		}
		wantEcho(t, chosen, payload(1, 1000))
	}, "default", "epoll", "unix", "small buffers")
}

// causeHandler tells what OnClose of a Sniff was told.
type causeHandler struct {
	*Sniff
	causes chan error
}

func (h causeHandler) OnClose(_ *Conn, err error) { h.causes <- err }

// Rules that need more than MaxBytes do not match.
func TestSniffLooksAtSoManyBytes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		rules := []SniffRule{{SniffPrefix("12345678"), sniffed{name: "eight:"}}, {SniffPrefix("1234"), sniffed{name: "four:"}}}
		srv := serveHandler(t, v.Options, &Sniff{Rules: rules, MaxBytes: 6, Default: sniffed{name: "default:"}})
		for _, c := range []struct{ in, want string }{
			{"12345678", "four:"}, // six of them are seen
			{"123456", "four:"},
			{"12x456", "default:"},
		} {
			conn := srv.dial()
			write(t, conn, []byte(c.in))
			wantRead(t, conn, []byte(c.want+c.in))
		}
	}, "default", "epoll", "small buffers", "unix")
}

// The chosen handler's OnOpen may do what any may.
func TestSniffAndWhatOnOpenDoes(t *testing.T) {
	for _, c := range []struct {
		name  string
		open  func(c *Conn)
		panic bool
		cause func(err error) bool
	}{
		{name: "close", open: func(c *Conn) { c.Close() }, cause: func(err error) bool { return err == nil }},
		{name: "abort", open: func(c *Conn) { c.Abort(io.ErrNoProgress) }, cause: func(err error) bool { return err == io.ErrNoProgress }},
		{name: "panic", open: func(c *Conn) { panic("on purpose") }, cause: func(err error) bool { return errors.As(err, new(*PanicError)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWitness(t, script{open: c.open, data: func(*Conn, []byte) int { t.Error("OnData is called"); return 0 }})
			srv := serveHandler(t, Options{Loops: 1}, &Sniff{Rules: []SniffRule{{SniffPrefix("abc"), w.handler()}}})
			conn := srv.dial()
			write(t, conn, []byte("abcdef"))
			_, _ = io.ReadAll(conn)
			if err := await(t, w.causes, "OnClose"); !c.cause(err) {
				t.Errorf("the cause is %v", err)
			}
		})
	}
}

func TestSniffWithinASniff(t *testing.T) {
	inner := &Sniff{Rules: []SniffRule{{SniffPrefix("ab"), sniffed{name: "ab:"}}}, Default: sniffed{name: "a:"}}
	srv := serveHandler(t, Options{Loops: 1}, &Sniff{Rules: []SniffRule{{SniffPrefix("a"), inner}}, Default: sniffed{name: "else:"}})
	for _, c := range []struct{ in, want string }{{"abc", "ab:"}, {"axc", "a:"}, {"xyz", "else:"}} {
		conn := srv.dial()
		write(t, conn, []byte(c.in))
		wantRead(t, conn, []byte(c.want+c.in))
	}
}

func TestSniffIsChecked(t *testing.T) {
	for _, c := range []struct {
		s    *Sniff
		want string
	}{
		{s: &Sniff{}, want: "Rules is empty"},
		{s: &Sniff{Rules: []SniffRule{{Handler: Events{}}}}, want: "no Match"},
		{s: &Sniff{Rules: []SniffRule{{Match: SniffTLS}}}, want: "no Handler"},
		{s: &Sniff{Rules: []SniffRule{{SniffTLS, &Sniff{}}}}, want: "Rules is empty"},
		{s: &Sniff{Rules: []SniffRule{{SniffTLS, Events{}}}, Default: &HandOverListener{Backlog: -1}}, want: "Backlog is -1"},
		{s: &Sniff{Rules: []SniffRule{{SniffTLS, Events{}}}, MaxBytes: -1}, want: "MaxBytes is -1"},
		{s: &Sniff{Rules: []SniffRule{{SniffTLS, Events{}}}, MaxBytes: 1 << 21}, want: "MaxBytes is"},
	} {
		if err := c.s.check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	// Where nobody asks before, the connection is told.
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	causes := make(chan error, 1)
	srv := serve(t, Options{Loops: 1}, script{})
	srv.w = nil
	if err := srv.Dial(ln.Addr().String(), Dialer{Handler: causeHandler{&Sniff{}, causes}}); err != nil {
		t.Fatal(err)
	}
	if err := await(t, causes, "OnClose"); err == nil || !strings.Contains(err.Error(), "Rules is empty") {
		t.Errorf("the cause is %v", err)
	}
}

// An idle connection that was sniffed costs what others do.
func TestSniffLeavesNothingBehind(t *testing.T) {
	srv := serveHandler(t, Options{Loops: 1}, &Sniff{Rules: []SniffRule{{SniffPrefix("abc"), sniffed{}}}})
	conn := srv.dial()
	wantEcho(t, conn, []byte("abc"))
	srv.onLoop(0, func(l *loop) {
		for _, c := range l.testConns() {
			if c.timing != nil || c.state&hasKept != 0 {
				t.Errorf("it has a timing %v, and keeps %d bytes", c.timing, len(c.seldom().kept))
			}
		}
	})
}
