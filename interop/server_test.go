//go:build linux

package interop

import (
	"bytes"
	"context"
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
	"net/http"
	"testing"
	"time"

	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

// patience is how long any one thing may take.
const patience = 30 * time.Second

// binary is a protocol of the loops: "RN" and then an echo.
const binaryPrefix = "RN\x00\x01"

type binary struct{ net.Events }

func (binary) OnData(c *net.Conn, b []byte) int {
	_, _ = c.Write(b)
	return len(b)
}

// port is a server with everything on one port, chosen by the first bytes.
type port struct {
	*net.Server
	addr string
	web  *net.HandOverListener // HTTP/1, in the clear
	tls  *net.HandOverListener
	h2   *net.HandOverListener // HTTP/2 in the clear, which is what gRPC speaks
	pool *x509.CertPool
	cert tls.Certificate
}

// engines has a test run once on each engine.
func engines(t *testing.T, test func(t *testing.T, p *port)) {
	for _, engine := range []ring.EngineKind{ring.Uring, ring.Epoll} {
		t.Run(engine.String(), func(t *testing.T) {
			if engine == ring.Uring {
				if err := ring.Have(ring.BufferRings); err != nil {
					t.Skipf("needs io_uring: %v", err)
				}
			}
			test(t, open(t, engine))
		})
	}
}

func open(t *testing.T, engine ring.EngineKind) *port {
	t.Helper()
	p := &port{web: &net.HandOverListener{}, tls: &net.HandOverListener{}, h2: &net.HandOverListener{}}
	p.cert, p.pool = certificate(t)
	p.Server = &net.Server{
		Handler: &net.Sniff{
			Rules: []net.SniffRule{
				{Match: net.SniffPrefix(binaryPrefix), Handler: binary{}},
				{Match: net.SniffTLS, Handler: p.tls},
				{Match: net.SniffHTTP2, Handler: p.h2},
				{Match: net.SniffHTTP1, Handler: p.web},
			},
		},
		Options: net.Options{Engine: engine, Loops: 2, Logger: slog.New(slog.DiscardHandler)},
	}
	if err := p.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.addr = p.Addrs()[0].String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		st := p.Stats()
		if st.InFlight != 0 || st.LeasesOut != 0 || st.CopiesOut != 0 || st.Connections != 0 {
			t.Errorf("after the end: %+v", st)
		}
		for _, l := range []*net.HandOverListener{p.web, p.tls, p.h2} {
			_ = l.Close()
		}
	})
	return p
}

// serve has net/http serve a listener of the port.
func serve(t *testing.T, l stdnet.Listener, h http.Handler, config *tls.Config) {
	t.Helper()
	srv := &http.Server{Handler: h, TLSConfig: config, ReadHeaderTimeout: patience}
	ended := make(chan error, 1)
	go func() {
		if config != nil {
			ended <- srv.ServeTLS(l, "", "")
		} else {
			ended <- srv.Serve(l)
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown of net/http: %v", err)
		}
		if err := <-ended; err != http.ErrServerClosed {
			t.Errorf("net/http ended with %v", err)
		}
	})
}

// certificate makes one for 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ringnet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []stdnet.IP{stdnet.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
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

// differ says where bytes are not what they should be.
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

// echoHTTP answers with what it is sent, and which protocol that came by. It reads all
// of it before, since net/http reads no more of a request once its answer has begun.
func echoHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Proto", r.Proto)
	_, _ = w.Write(b)
}
