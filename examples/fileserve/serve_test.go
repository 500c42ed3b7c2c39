//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	stdnet "net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/ringnet/internal/forbid"
	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

// patience is how long any one thing may take.
const patience = 30 * time.Second

// TestMain is the example itself where the environment asks for it.
func TestMain(m *testing.M) {
	forbid.Again()
	if os.Getenv("RINGNET_TEST_FILESERVE") != "" {
		main()
		return
	}
	slog.SetLogLoggerLevel(slog.LevelError)
	os.Exit(m.Run())
}

// testSite is a site of a test.
type testSite struct {
	t    *testing.T
	dir  string
	addr string
	site *site
	srv  *net.Server
}

// engines runs a test once on each engine.
func engines(t *testing.T, test func(t *testing.T, engine ring.EngineKind)) {
	for _, engine := range []ring.EngineKind{ring.Uring, ring.Epoll} {
		t.Run(engine.String(), func(t *testing.T) {
			if engine == ring.Uring {
				if err := ring.Have(ring.BufferRings); err != nil {
					t.Skipf("needs io_uring: %v", err)
				}
			}
			t.Parallel()
			test(t, engine)
		})
	}
}

// serve serves dir with the flags' defaults, but for what change says. Files are trusted
// at once: as if they had been there for long.
func serve(t *testing.T, engine ring.EngineKind, dir string, change func(*config)) *testSite {
	t.Helper()
	var c config
	c.flags(flag.NewFlagSet("", flag.PanicOnError))
	c.root, c.loops = dir, 1
	if change != nil {
		change(&c)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	s := &testSite{t: t, dir: dir}
	var err error
	if s.site, err = newSite(&c); err != nil {
		t.Fatal(err)
	}
	s.site.tree.rest = -time.Hour
	if s.srv, err = s.site.server(engine); err != nil {
		t.Fatal(err)
	}
	if err := s.srv.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.addr = s.srv.Addrs()[0].String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if st := s.srv.Stats(); st.InFlight != 0 || st.LeasesOut != 0 || st.CopiesOut != 0 || st.Connections != 0 || st.Panics != 0 {
			t.Errorf("after the end: %+v", st)
		}
		for _, d := range s.site.desks {
			if n := len(d.cache.looking); n != 0 {
				t.Errorf("%d looks have not ended", n)
			}
			for _, e := range d.cache.entries {
				if e.users != 0 {
					t.Errorf("%s has %d users after the end", e.path, e.users)
				}
			}
		}
		s.site.close()
	})
	return s
}

// file makes a file of the site, and the directories that it lies in.
func (s *testSite) file(name string, content []byte) { file(s.t, s.dir, name, content) }

func file(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// client is a connection to a site.
type client struct {
	t testing.TB
	stdnet.Conn
	in *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := stdnet.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{t, c, bufio.NewReader(c)}
}

// send sends what is to be sent, line by line, with the end of the header behind it.
func (c *client) send(lines ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads an answer to a request of that method.
func (c *client) answer(method string) (*http.Response, []byte) {
	c.t.Helper()
	a, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("answer: %v", err)
	}
	b, err := io.ReadAll(a.Body)
	if err != nil {
		c.t.Fatalf("content of the answer: %v, after %d bytes", err, len(b))
	}
	return a, b
}

// get asks for a path, with the fields given.
func (c *client) get(path string, fields ...string) (*http.Response, []byte) {
	c.t.Helper()
	c.send(append([]string{"GET " + path + " HTTP/1.1", "Host: x"}, fields...)...)
	return c.answer("GET")
}

// ends reads that the server ends the connection, and returns what came before.
func (c *client) ends() []byte {
	c.t.Helper()
	b, err := io.ReadAll(c.in)
	if err != nil {
		c.t.Fatalf("the end: %v", err)
	}
	return b
}

// payload is n bytes that are the same for the same seed.
func payload(seed uint64, n int) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func differ(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %#02x, want %#02x (got %d bytes, want %d)", i, got[i], want[i], len(got), len(want))
		}
	}
	return fmt.Errorf("got %d bytes, want %d", len(got), len(want))
}

// certificate makes files with a certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ringnet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []stdnet.IP{stdnet.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	file(t, dir, "cert.pem", certPEM)
	file(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), pool
}

// program is the example in a process of its own.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	errors bytes.Buffer
	addr   string // where it serves
}

func launch(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), "RINGNET_TEST_FILESERVE=1")
	p.cmd.Stderr = &p.errors
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(2*patience, func() { _ = p.cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// serving reads where it serves.
func (p *program) serving() *program {
	p.t.Helper()
	said, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("after %q: %v; errors: %s", said, err, p.errors.String())
	}
	_, rest, ok := strings.Cut(said, "://")
	p.addr, _, _ = strings.Cut(rest, ", ")
	if !ok {
		p.t.Fatalf("it says %q", said)
	}
	if _, err := p.out.ReadString('\n'); err != nil { // the engine
		p.t.Fatal(err)
	}
	return p
}
