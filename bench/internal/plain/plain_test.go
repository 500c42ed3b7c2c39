package plain

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"example.com/ringnet/bench/internal/certificate"
	"example.com/ringnet/bench/internal/payload"
)

// serve gives each connection to f, over std's net.
func serve(t *testing.T, f func(net.Conn) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = f(c)
			}()
		}
	}()
	return l.Addr().String()
}

// exchange sends a megabyte and the end of the stream, and wants both back.
func exchange(t *testing.T, c interface {
	net.Conn
	CloseWrite() error
}) {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	payload.Fill(want)
	go func() {
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back that are not the %d that were sent", len(got), len(want))
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestFunctionsEchoUntilTheEnd(t *testing.T) {
	echo := serve(t, Echo(4096))
	for name, f := range map[string]func(net.Conn) error{
		"echo": Echo(1000),
		"copy": Copy,
		"proxy": func(c net.Conn) error {
			return Proxy(c, func() (net.Conn, error) { return net.Dial("tcp", echo) }, func(f func()) { go f() })
		},
	} {
		t.Run(name, func(t *testing.T) { exchange(t, dial(t, serve(t, f))) })
	}
}

func TestProxyClosesWhenItCannotDial(t *testing.T) {
	refused := func() (net.Conn, error) { return nil, net.ErrClosed }
	addr := serve(t, func(c net.Conn) error { return Proxy(c, refused, func(f func()) { go f() }) })
	c := dial(t, addr)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d, %v, want the end", n, err)
	}
}

func TestSecuredSpeaksTLS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "certificate")
	if err := certificate.Write(path); err != nil {
		t.Fatal(err)
	}
	config, err := certificate.Config(path)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := certificate.Roots(path)
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, Secured(config, Echo(4096)))
	exchange(t, tls.Client(dial(t, addr), &tls.Config{RootCAs: roots, ServerName: certificate.Name}))
	c := tls.Client(dial(t, addr), &tls.Config{RootCAs: x509.NewCertPool(), ServerName: certificate.Name})
	defer c.Close()
	if err := c.Handshake(); err == nil {
		t.Error("a client that trusts nobody has shaken hands")
	}
}
