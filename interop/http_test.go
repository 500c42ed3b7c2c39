//go:build linux

package interop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.com/ringnet/net"
)

// post sends a body and wants it back, by a protocol.
func post(client *http.Client, url, proto string, body []byte) error {
	resp, err := client.Post(url, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.Header.Get("Proto") != proto {
		return fmt.Errorf("it went by %s, want %s", resp.Header.Get("Proto"), proto)
	}
	return differ(got, body)
}

// crowd runs f on several goroutines.
func crowd(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// Requests with bodies of all sizes, many on each connection.
func TestHTTP(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		serve(t, p.web, http.HandlerFunc(echoHTTP), nil)
		transport := &http.Transport{MaxIdleConnsPerHost: 16}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: patience}
		crowd(t, 16, func(i int) error {
			for n := range 10 {
				if err := post(client, "http://"+p.addr+"/", "HTTP/1.1", payload(uint64(i*100+n), 1<<(n*2))); err != nil {
					return err
				}
			}
			return nil
		})
		if st := p.Stats(); st.HandedOver == 0 || st.HandOversLost != 0 {
			t.Errorf("%d handed over, %d lost", st.HandedOver, st.HandOversLost)
		}
	})
}

// A file, which net/http sends by sendfile(2) through the connection's ReadFrom, and
// ranges of it.
func TestHTTPFile(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		content := payload(1, 3<<20)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		serve(t, p.web, http.FileServer(http.Dir(dir)), nil)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		for _, c := range []struct {
			ask  string
			want []byte
		}{{"", content}, {"bytes=1000-2000000", content[1000:2000001]}, {"bytes=-10", content[len(content)-10:]}} {
			req, err := http.NewRequest("GET", "http://"+p.addr+"/file", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.ask != "" {
				req.Header.Set("Range", c.ask)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if err := differ(got, c.want); err != nil {
				t.Errorf("%q: %v", c.ask, err)
			}
		}
	})
}

// HTTP/2, chosen within TLS, and HTTP/1 for those that do not speak it.
func TestHTTP2OverTLS(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		serve(t, p.tls, http.HandlerFunc(echoHTTP), &tls.Config{Certificates: []tls.Certificate{p.cert}})
		for _, c := range []struct {
			proto string
			two   bool
		}{{"HTTP/2.0", true}, {"HTTP/1.1", false}} {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, ForceAttemptHTTP2: c.two}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			crowd(t, 16, func(i int) error {
				for n := range 8 {
					if err := post(client, "https://"+p.addr+"/", c.proto, payload(uint64(i*100+n), 1<<(2*n))); err != nil {
						return fmt.Errorf("%s: %w", c.proto, err)
					}
				}
				return nil
			})
		}
	})
}

// HTTP/2 without TLS, by clients that know that the server speaks it.
func TestHTTP2InTheClear(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		srv := &http.Server{Handler: http.HandlerFunc(echoHTTP), Protocols: &protocols, ReadHeaderTimeout: patience}
		go func() { _ = srv.Serve(p.h2) }()
		defer srv.Close()
		transport := &http.Transport{Protocols: &protocols}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: patience}
		crowd(t, 8, func(i int) error { return post(client, "http://"+p.addr+"/", "HTTP/2.0", payload(uint64(i), 100_000)) })
	})
}

// A binary protocol on the loops and net/http, at the same time on the same port.
func TestABinaryProtocolAndHTTPOnOnePort(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		serve(t, p.web, http.HandlerFunc(echoHTTP), nil)
		transport := &http.Transport{MaxIdleConnsPerHost: 8}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: patience}
		crowd(t, 16, func(i int) error {
			if i%2 == 0 {
				return post(client, "http://"+p.addr+"/", "HTTP/1.1", payload(uint64(i), 100_000))
			}
			c, err := stdnet.Dial("tcp", p.addr)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			in := append([]byte(binaryPrefix), payload(uint64(i), 50_000)...)
			go func() { _, _ = c.Write(in) }()
			got := make([]byte, len(in))
			if _, err := io.ReadFull(c, got); err != nil {
				return err
			}
			return differ(got, in)
		})
		st := p.Stats()
		if st.HandedOver == 0 || st.HandedOver == st.Accepted {
			t.Errorf("%d of %d connections were handed over", st.HandedOver, st.Accepted)
		}
		// What is neither is closed.
		c, err := stdnet.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte("\x00\x01\x02"))
		_ = c.SetDeadline(time.Now().Add(patience))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d, %v", n, err)
		}
	})
}

// An address of its own for net/http: its connections are never on a loop.
func TestHTTPOnAnAddressOfItsOwn(t *testing.T) {
	web := &net.HandOverListener{}
	srv := &net.Server{Handler: binary{}, Handlers: map[string]net.Handler{"127.0.0.1:0": web}, Options: net.Options{Loops: 2}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	serve(t, web, http.HandlerFunc(echoHTTP), nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	crowd(t, 16, func(i int) error {
		return post(client, "http://"+web.Addr().String()+"/", "HTTP/1.1", payload(uint64(i), 10_000))
	})
	if st := srv.Stats(); st.HandedOver != 16 || st.BytesReceived != 0 {
		t.Errorf("%d handed over, %d bytes received by loops", st.HandedOver, st.BytesReceived)
	}
}
