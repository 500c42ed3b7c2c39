package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"example.com/ringnet/bench/internal/certificate"
	"example.com/ringnet/bench/internal/result"
)

// serveTLS gives each connection, wrapped in TLS, to handle.
func serveTLS(t *testing.T, handle func(net.Conn)) (addr netip.AddrPort, cert string) {
	t.Helper()
	cert = filepath.Join(t.TempDir(), "certificate")
	if err := certificate.Write(cert); err != nil {
		t.Fatal(err)
	}
	config, err := certificate.Config(cert)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, func(c net.Conn) {
		s := tls.Server(c, config)
		defer s.Close()
		handle(s)
	}), cert
}

func TestEchoOverTLSIsVerified(t *testing.T) {
	addr, cert := serveTLS(t, echoAll)
	for _, flags := range []string{"-conns 8 -size 64", "-conns 4 -size 64 -pipeline 8", "-conns 4 -size 16384", "-conns 2 -size 1000000", "-conns 2 -size 64,65536 -burst 2"} {
		r, err := measured(t, addr, append([]string{"-tls", cert}, strings.Fields(flags)...)...)
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 || r.Verified < r.Bytes || r.Latency.P50 <= 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
}

func TestWrongBytesInTLSFailTheRun(t *testing.T) {
	spoil := func(c net.Conn) {
		b := make([]byte, 4096)
		for n := 0; ; n++ {
			got, err := c.Read(b)
			if err != nil {
				return
			}
			if n == 7 {
				b[got/2] ^= 1
			}
			if _, err := c.Write(b[:got]); err != nil {
				return
			}
		}
	}
	addr, cert := serveTLS(t, spoil)
	var wrong *payloadError
	if _, err := measured(t, addr, "-tls", cert, "-conns", "1"); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
	once, cert := serveTLS(t, func(c net.Conn) {
		b := make([]byte, 64)
		if n, err := c.Read(b); err == nil {
			b[n-1] ^= 1
			_, _ = c.Write(b[:n])
		}
	})
	if _, err := shaken(t, once, "-tls", cert, "-conns", "1"); !errors.As(err, &wrong) {
		t.Errorf("handshakes: error %v, want a wrong payload", err)
	}
}

// shaken runs a plan of handshakes.
func shaken(t *testing.T, addr netip.AddrPort, flags ...string) (r result.Report, err error) {
	t.Helper()
	p, err := parsePlan(append([]string{"-mode", "handshake", "-addr", addr.String(), "-warmup", "20ms", "-window", "150ms"}, flags...))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := shake(p, &out); err != nil {
		return r, err
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || lines[0] != result.Began || lines[1] != result.Ended {
		t.Fatalf("it says %q", lines)
	}
	return r, json.Unmarshal([]byte(lines[2]), &r)
}

func TestHandshakesAreCounted(t *testing.T) {
	addr, cert := serveTLS(t, echoAll)
	for _, flags := range []string{"", "-resume", "-size 16384"} {
		r, err := shaken(t, addr, append([]string{"-tls", cert, "-conns", "4"}, strings.Fields(flags)...)...)
		if err != nil {
			t.Fatalf("%q: %v", flags, err)
		}
		if r.Requests == 0 || r.Verified == 0 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 {
			t.Errorf("%q: %+v", flags, r)
		}
	}
}

func TestServersThatDoNotResumeFailTheRun(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "certificate")
	if err := certificate.Write(cert); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, func(c net.Conn) {
		config, err := certificate.Config(cert)
		if err != nil {
			t.Error(err)
			return
		}
		config.SessionTicketsDisabled = true
		echoAll(tls.Server(c, config))
	})
	if _, err := shaken(t, addr, "-tls", cert, "-conns", "1", "-resume"); err == nil || !strings.Contains(err.Error(), "resumed: false") {
		t.Errorf("error %v, want that nothing is resumed", err)
	}
}
