//go:build linux

package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	stdnet "net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

// setups are the ways in which a server can be set up that matter to a Stream. The
// engines are told apart by Options alone.
var setups = []struct {
	name string
	net.Options
}{
	{name: "uring", Options: net.Options{Loops: 1}},
	{name: "epoll", Options: net.Options{Loops: 1, Engine: ring.Epoll}},
	{name: "two loops", Options: net.Options{Loops: 2, Placement: net.RoundRobin}},
	{name: "no features", Options: net.Options{Loops: 1, Mask: ring.AllFeatures &^ ring.BufferRings}},
	{name: "no bulk", Options: net.Options{Loops: 1, NoBulk: true}},
	{name: "low water marks", Options: net.Options{Loops: 1, HighWater: 5000, LowWater: 100}},
	{name: "small buffers", Options: net.Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64}},
	{name: "queues of 1 and 2", Options: net.Options{Loops: 1, EntryCount: 1, CompletionCount: 2}},
	{name: "epoll queues of 1 and 2", Options: net.Options{Loops: 1, Engine: ring.Epoll, EntryCount: 1, CompletionCount: 2}},
}

func TestStreamsAreNetConns(t *testing.T) {
	secure := bothEnds(t)
	for _, network := range []string{"tcp", "unix", "tls"} {
		config := secure
		if network != "tls" {
			config = nil
		}
		for i, s := range setups {
			t.Run(network+"/"+s.name, func(t *testing.T) {
				t.Parallel() // most of nettest's time is waiting
				o := s.Options
				o.Logger = slog.New(slog.DiscardHandler)
				pipes := 0
				nettest.TestConn(t, func() (a, b stdnet.Conn, stop func(), err error) {
					addr := "127.0.0.1:0"
					if pipes++; network == "unix" {
						addr = fmt.Sprintf("unix:@ringnet-conformance-%d-%d-%d", os.Getpid(), i, pipes)
					}
					return pipe(o, addr, config)
				})
			})
		}
	}
}

// bothEnds is a config for a server and for clients that trust it.
func bothEnds(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: trusted, ServerName: "localhost"}
}

// The bridge itself: its calls reach the Stream, and end with it.
func TestBridge(t *testing.T) {
	a, b, stop, err := pipe(net.Options{Loops: 1, Logger: slog.New(slog.DiscardHandler)}, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	_ = b.SetDeadline(time.Now().Add(20 * time.Second))
	if a.LocalAddr().String() != b.RemoteAddr().String() {
		t.Errorf("one end is at %v, the other one's peer at %v", a.LocalAddr(), b.RemoteAddr())
	}
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	if got, err := io.ReadAll(b); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("a read after Close")
	}
}
