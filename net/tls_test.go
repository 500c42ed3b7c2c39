//go:build linux

package net

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	stdnet "net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/bufring"
)

// testCA signs the certificates of tests.
var testCA = sync.OnceValue(func() authority {
	a := authority{pool: x509.NewCertPool()}
	a.key = newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	a.pool.AddCert(a.cert)
	a.local = a.issue("localhost", "127.0.0.1")
	return a
})

type authority struct {
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	pool  *x509.CertPool
	local tls.Certificate // for localhost
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// issue makes a certificate for names and addresses.
func (a *authority) issue(names ...string) tls.Certificate {
	key := newKey()
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := stdnet.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serverTLS and clientTLS are what most tests use.
func serverTLS() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{testCA().local}} }

func clientTLS() *tls.Config { return &tls.Config{RootCAs: testCA().pool, ServerName: "localhost"} }

// serveTLS is serve with TLS.
func serveTLS(t testing.TB, o Options, config *tls.Config, s script) *server {
	t.Helper()
	return serveTLSHandler(t, o, s, func(h Handler) Handler { return TLS(config, h) })
}

func serveTLSHandler(t testing.TB, o Options, s script, over func(Handler) Handler) *server {
	t.Helper()
	w := newWitness(t, s)
	srv := serveHandler(t, o, over(w.handler()))
	srv.w = w
	return srv
}

// dialTLS connects a client of std's crypto/tls.
func (s *server) dialTLS(config *tls.Config) *tls.Conn {
	s.t.Helper()
	c := tls.Client(strictConn{s.dial()}, config)
	if err := c.Handshake(); err != nil {
		s.t.Fatalf("handshake: %v", err)
	}
	return c
}

// strictConn is a socket whose end is an error: std takes it for that of the session, when
// it comes between two records, and tests want close_notify.
type strictConn struct{ peerConn }

var errNoGoodbye = errors.New("the stream has ended, and the session has not")

func (c strictConn) Read(b []byte) (int, error) {
	n, err := c.peerConn.Read(b)
	if err == io.EOF {
		err = errNoGoodbye
	}
	return n, err
}

// tlsVersions are those that are worth a test.
var tlsVersions = []struct {
	name    string
	version uint16
}{{"TLS 1.2", tls.VersionTLS12}, {"TLS 1.3", tls.VersionTLS13}}

func TestTLSEchoesEverySize(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			for _, version := range tlsVersions {
				t.Run(e.name+" "+version.name, func(t *testing.T) {
					srv := serveTLS(t, v.Options, serverTLS(), e.of(t))
					config := clientTLS()
					config.MinVersion, config.MaxVersion = version.version, version.version
					c := srv.dialTLS(config)
					for i, n := range []int{1, 2, 100, 1500, 16 << 10, 16<<10 + 1, 100_000} {
						wantEcho(t, c, payload(uint64(i), n))
					}
					if !v.slow {
						wantEcho(t, c, payload(50, few(1<<20)))
					}
					if st := srv.Stats(); st.TLSHandshakes != 1 || st.TLSHandshakeErrors != 0 {
						t.Errorf("%d handshakes and %d errors, want one and none", st.TLSHandshakes, st.TLSHandshakeErrors)
					}
					if err := c.Close(); err != nil {
						t.Error(err)
					}
					srv.wantCause(io.EOF)
				})
			}
		}
	})
}

// A record that comes in pieces is put together, whatever the pieces, also in the
// middle of the handshake.
func TestTLSRecordsComeInPieces(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveTLS(t, v.Options, serverTLS(), echoWrite(t))
		c := tls.Client(&dripConn{Conn: srv.dial(), piece: 1}, clientTLS())
		defer c.Close()
		wantEcho(t, c, payload(1, 300))
		c2 := tls.Client(&dripConn{Conn: srv.dial(), piece: 997}, clientTLS())
		defer c2.Close()
		wantEcho(t, c2, payload(2, 20_000))
	}, "default", "epoll", "small buffers", "no features", "unix")
}

// dripConn writes in pieces, each with a call of its own.
type dripConn struct {
	stdnet.Conn
	piece int
}

func (d *dripConn) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = d.Conn.Write(b[:min(len(b), d.piece)])
		n, b = n+m, b[m:]
		runtime.Gosched()
	}
	return n, err
}

// What is left unconsumed is offered again, in front of what comes.
func TestTLSKeepsWhatIsNotConsumed(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const frame = 1000
		srv := serveTLS(t, v.Options, serverTLS(), script{data: func(c *Conn, b []byte) int {
			n := len(b) - len(b)%frame
			if _, err := c.Write(b[:n]); err != nil {
				t.Error(err)
			}
			return n
		}})
		c := srv.dialTLS(clientTLS())
		want := payload(3, 50*frame)
		go func() {
			for b := want; len(b) > 0; {
				n := min(777, len(b))
				if _, err := c.Write(b[:n]); err != nil {
					t.Error(err)
					return
				}
				b = b[n:]
			}
		}()
		wantRead(t, c, want)
	}, "default", "epoll", "small buffers", "no features")
}

func TestTLSHalfCloseGoesBothWays(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var got bytes.Buffer
		answer := payload(4, 200_000)
		srv := serveTLS(t, v.Options, serverTLS(), script{
			data: func(c *Conn, b []byte) int { got.Write(b); return len(b) },
			eof: func(c *Conn) {
				if _, err := c.Write(got.Bytes()); err != nil {
					t.Error(err)
				}
				if _, err := c.Write(answer); err != nil {
					t.Error(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
				if _, err := c.Write(answer); !errors.Is(err, ErrClosed) {
					t.Errorf("write after CloseWrite: %v, want ErrClosed", err)
				}
			},
		})
		c := srv.dialTLS(clientTLS())
		request := payload(5, 30_000)
		write(t, c, request)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		wantRest(t, c, append(bytes.Clone(request), answer...)) // an end without close_notify would be an error
		srv.wantCause(io.EOF)
	})
}

func TestTLSStreamThatIsCutShortIsAnError(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, atRecord := range []bool{true, false} {
			t.Run(fmt.Sprintf("between records %v", atRecord), func(t *testing.T) {
				srv := serveTLS(t, v.Options, serverTLS(), script{
					data: echoWrite(t).data,
					eof:  func(c *Conn) { t.Error("OnEOF is called: the stream was cut") },
				})
				raw := strictConn{srv.dial()}
				c := tls.Client(raw, clientTLS())
				wantEcho(t, c, payload(6, 5000))
				if !atRecord {
					write(t, raw, []byte{23, 3, 3, 1, 0, 7}) // the beginning of one
				}
				if err := raw.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				srv.wantCause(io.ErrUnexpectedEOF)
				wantRest(t, c, nil) // our side ends as it should
			})
		}
	}, "default", "epoll", "small buffers", "no features", "unix")
}

func TestTLSBadRecordEndsItsConnectionWithAnAlert(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveTLS(t, v.Options, serverTLS(), echoWrite(t))
		raw := srv.dial()
		c := tls.Client(raw, clientTLS())
		wantEcho(t, c, payload(7, 100))
		bystander := srv.dialTLS(clientTLS())
		write(t, raw, append([]byte{23, 3, 3, 0, 100}, payload(8, 100)...))
		if err := srv.cause(); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("cause %v, want one of a bad record MAC", err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("the peer reads %v, want the alert", err)
		}
		wantEcho(t, bystander, payload(9, 100))
	}, "default", "epoll", "unix")
}

func TestTLSShutdownAndCloseSayGoodbye(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveTLS(t, v.Options, serverTLS(), script{data: func(c *Conn, b []byte) int {
			if _, err := c.Write(b); err != nil {
				t.Error(err)
			}
			if b[0] == 'x' {
				c.Close()
			}
			return len(b)
		}})
		c := srv.dialTLS(clientTLS())
		write(t, c, []byte("x, and goodbye"))
		wantRest(t, c, []byte("x, and goodbye"))
		srv.wantCause(nil)
		c = srv.dialTLS(clientTLS())
		wantEcho(t, c, []byte("hello"))
		go srv.Shutdown(context.Background())
		wantRest(t, c, nil)
		srv.wantCause(ErrServerClosed)
	}, "default", "epoll", "loops", "no features", "unix")
}

func TestTLSChoosesCertificateAndProtocol(t *testing.T) {
	ca := testCA()
	config := &tls.Config{Certificates: []tls.Certificate{ca.issue("one.test"), ca.issue("two.test")}, NextProtos: []string{"h2", "echo"}}
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveTLS(t, v.Options, config, script{open: func(c *Conn) {
			st := c.ConnectionState()
			fmt.Fprintf(connWriter{c}, "%v %s %s\n", st.HandshakeComplete, st.ServerName, st.NegotiatedProtocol)
		}})
		for _, name := range []string{"one.test", "two.test"} {
			c := srv.dialTLS(&tls.Config{RootCAs: ca.pool, ServerName: name, NextProtos: []string{"echo"}})
			wantRead(t, c, fmt.Appendf(nil, "true %s echo\n", name))
			if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != name {
				t.Errorf("the certificate is for %s, want %s", got, name)
			}
			_ = c.Close()
		}
		raw := srv.dial()
		if err := tls.Client(raw, &tls.Config{RootCAs: ca.pool, ServerName: "one.test", NextProtos: []string{"other"}}).Handshake(); err == nil {
			t.Error("a client gets on with a server that speaks none of its protocols")
		}
	}, "default", "epoll")
}

// connWriter is a Conn for fmt.
type connWriter struct{ c *Conn }

func (w connWriter) Write(b []byte) (int, error) { return w.c.Write(b) }

func TestTLSSessionsAreResumed(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, version := range tlsVersions {
			t.Run(version.name, func(t *testing.T) {
				srv := serveTLS(t, v.Options, serverTLS(), script{data: func(c *Conn, b []byte) int {
					fmt.Fprintf(connWriter{c}, "%v", c.ConnectionState().DidResume)
					c.Close()
					return len(b)
				}})
				config := clientTLS()
				config.MaxVersion = version.version
				config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				for _, resumed := range []bool{false, true, true} {
					c := srv.dialTLS(config)
					write(t, c, []byte("did I?"))
					wantRest(t, c, fmt.Appendf(nil, "%v", resumed))
					if got := c.ConnectionState().DidResume; got != resumed {
						t.Errorf("the client says resumed %v, want %v", got, resumed)
					}
				}
			})
		}
	}, "default", "epoll", "loops")
}

func TestTLSClientCertificatesAreWanted(t *testing.T) {
	ca := testCA()
	mine := ca.issue("client.test")
	config := serverTLS()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool
	overVariants(t, func(t *testing.T, v variant) {
		told := make(chan error, 1)
		srv := serveTLSHandler(t, v.Options, script{open: func(c *Conn) {
			fmt.Fprint(connWriter{c}, c.ConnectionState().PeerCertificates[0].DNSNames[0])
		}}, func(h Handler) Handler {
			s := TLS(config, h)
			s.OnHandshakeError = func(_ *Conn, err error) { told <- err }
			return s
		})
		with := clientTLS()
		with.Certificates = []tls.Certificate{mine}
		wantRead(t, srv.dialTLS(with), []byte("client.test"))

		c := tls.Client(srv.dial(), clientTLS())
		_ = c.Handshake() // with TLS 1.3 the client learns of it later
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("without a certificate the client reads %v, want an alert", err)
		}
		err := await(t, told, "the handshake error")
		var op *OpError
		if !errors.As(err, &op) || op.Op != "TLS handshake" || !strings.Contains(err.Error(), "didn't provide a certificate") {
			t.Errorf("the server is told %v", err)
		}
		if st := srv.Stats(); st.TLSHandshakes != 1 || st.TLSHandshakeErrors != 1 {
			t.Errorf("%d handshakes and %d errors, want one of each", st.TLSHandshakes, st.TLSHandshakeErrors)
		}
	}, "default", "epoll", "unix")
}

// What ends connections in the middle of a handshake, or before. Others are served
// meanwhile, and OnOpen is never called.
func TestTLSHandshakesThatFail(t *testing.T) {
	hello := tlsHello(t)
	for _, test := range []struct {
		name string
		do   func(t *testing.T, srv *server, c peerConn)
		want func(err error) bool
	}{
		{"nothing", func(_ *testing.T, _ *server, c peerConn) { _ = c.Close() }, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"garbage", func(t *testing.T, srv *server, c peerConn) { write(t, c, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) },
			func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }},
		{"one byte", func(t *testing.T, srv *server, c peerConn) { write(t, c, hello[:1]); _ = c.CloseWrite() },
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"half a hello", func(t *testing.T, srv *server, c peerConn) { write(t, c, hello[:len(hello)/2]); _ = c.CloseWrite() },
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"only a hello", func(t *testing.T, srv *server, c peerConn) { write(t, c, hello); _ = c.CloseWrite() },
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"reset", func(t *testing.T, srv *server, c peerConn) {
			write(t, c, hello[:len(hello)/2])
			until(t, "the server has that", func() bool { return srv.Stats().BytesReceived > 0 })
			_ = c.SetLinger(0)
			_ = c.Close()
		}, func(err error) bool { return err != nil }},
		{"hello and garbage", func(t *testing.T, srv *server, c peerConn) {
			write(t, c, append(bytes.Clone(hello), 99, 99, 99, 99, 99, 99))
		},
			func(err error) bool { return strings.Contains(err.Error(), "tls: ") }},
		{"time", func(t *testing.T, srv *server, c peerConn) { write(t, c, hello[:len(hello)/2]) },
			func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				told := make(chan error, 1)
				srv := serveTLSHandler(t, v.Options, echoWrite(t), func(h Handler) Handler {
					s := TLS(serverTLS(), h)
					s.OnHandshakeError = func(c *Conn, err error) { told <- err }
					if test.name == "time" {
						s.HandshakeTimeout = 50 * time.Millisecond
					}
					return s
				})
				c := srv.dial()
				test.do(t, srv, c)
				err := await(t, told, "the handshake error")
				if err == nil || !test.want(err) {
					t.Errorf("told %v", err)
				}
				t.Log(err)
				if test.name != "time" { // that is too short for others on a busy machine
					wantEcho(t, srv.dialTLS(clientTLS()), payload(10, 3000))
				}
				if st := srv.Stats(); st.TLSHandshakeErrors != 1 {
					t.Errorf("%d handshake errors, want one", st.TLSHandshakeErrors)
				}
			}, "default", "epoll", "small buffers", "no features", "unix")
		})
	}
}

// tlsHello is how a client begins.
func tlsHello(t testing.TB) []byte {
	// Without a goroutine, which a server that is started next would take for one that
	// was there before it.
	var r helloRecorder
	if err := tls.Client(&r, clientTLS()).Handshake(); len(r.hello) == 0 {
		t.Fatalf("no hello: %v", err)
	}
	return r.hello
}

// helloRecorder is a connection that keeps what is written first, and is at its end.
type helloRecorder struct {
	stdnet.Conn
	hello []byte
}

func (r *helloRecorder) Read([]byte) (int, error) { return 0, io.EOF }

func (r *helloRecorder) Write(b []byte) (int, error) {
	if r.hello == nil {
		r.hello = bytes.Clone(b)
	}
	return len(b), nil
}

func TestTLSShutdownEndsHandshakes(t *testing.T) {
	hello := tlsHello(t)
	overVariants(t, func(t *testing.T, v variant) {
		told := make(chan error, 2)
		srv := serveTLSHandler(t, v.Options, echoWrite(t), func(h Handler) Handler {
			s := TLS(serverTLS(), h)
			s.OnHandshakeError = func(c *Conn, err error) { told <- err }
			return s
		})
		silent, middle := srv.dial(), srv.dial()
		write(t, middle, hello)
		var head [5]byte
		if _, err := io.ReadFull(middle, head[:]); err != nil { // the ServerHello
			t.Fatal(err)
		}
		until(t, "both are accepted", func() bool { return srv.Stats().Accepted == 2 })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := await(t, told, "the handshake error"); !errors.Is(err, ErrServerClosed) {
				t.Errorf("told %v, want ErrServerClosed", err)
			}
		}
		_, _ = silent.Read(head[:])
	}, "default", "epoll", "loops", "no features", "unix")
}

func TestTLSFunctionsOfTheConfigMayPanic(t *testing.T) {
	for _, how := range []string{"panic", "exit"} {
		t.Run(how, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				told := make(chan error, 1)
				config := serverTLS()
				var bad atomic.Bool
				config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					if a := hello.Conn.RemoteAddr(); a.Network() == "" {
						t.Error("the client has no address")
					}
					if !bad.Load() {
						return nil, nil
					}
					if how == "exit" {
						runtime.Goexit()
					}
					panic("no such luck")
				}
				srv := serveTLSHandler(t, v.Options, echoWrite(t), func(h Handler) Handler {
					s := TLS(config, h)
					s.OnHandshakeError = func(c *Conn, err error) { told <- err }
					return s
				})
				c := srv.dialTLS(clientTLS())
				bad.Store(true)
				if err := tls.Client(srv.dial(), clientTLS()).Handshake(); err == nil {
					t.Error("the handshake succeeds")
				}
				var p *PanicError
				if err := await(t, told, "the handshake error"); !errors.As(err, &p) || !bytes.Contains(p.Stack, []byte("TestTLSFunctionsOfTheConfigMayPanic")) {
					t.Errorf("told %v, want a panic with its stack", err)
				}
				wantEcho(t, c, payload(11, 100))
				if n := srv.Stats().Panics; n != 1 {
					t.Errorf("%d panics counted", n)
				}
			}, "default", "epoll")
		})
	}
}

func TestTLSPanicsInCallbacksEndTheirConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, where := range []string{"OnOpen", "OnData"} {
			t.Run(where, func(t *testing.T) {
				s := script{open: func(*Conn) { panic("in OnOpen") }}
				if where == "OnData" {
					s = script{data: func(*Conn, []byte) int { panic("in OnData") }}
				}
				srv := serveTLS(t, v.Options, serverTLS(), s)
				c := tls.Client(srv.dial(), clientTLS())
				_, _ = c.Write(payload(12, 40_000))
				_, _ = io.Copy(io.Discard, c)
				var p *PanicError
				if err := srv.cause(); !errors.As(err, &p) {
					t.Errorf("cause %v, want a panic", err)
				}
			})
		}
	}, "default", "epoll", "small buffers")
}

// Everything that can be sent is encrypted, in the order in which it was sent.
func TestTLSSendsEverythingInOrder(t *testing.T) {
	dir := t.TempDir()
	content := payload(13, 700_000)
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	overVariants(t, func(t *testing.T, v variant) {
		file, err := OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		static, err := NewStatic(content[:100_000])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = static.Close() })
		var want []byte
		piece := func(b []byte) []byte { want = append(want, b...); return b }
		done, opened := make(chan error, 4), make(chan struct{})
		tell := func(err error) { done <- err }
		n := len(content)
		if v.slow {
			n = 20_000
		}
		var o = v.Options
		o.MaxBuffered = 8 << 20 // all of it at once
		srv := serveTLS(t, o, serverTLS(), script{open: func(c *Conn) {
			must := func(err error) {
				if err != nil {
					t.Error(err)
				}
			}
			_, err := c.Write(piece([]byte("written ")))
			must(err)
			must(c.SendMessage(NewMessage(piece([]byte("message ")))))
			must(c.Send(bufring.Wrap(bytes.Clone(piece(payload(14, 5000))))))
			must(c.SendMemory(piece(payload(15, 40_000)), tell))
			must(c.SendStatic(static, 10, 20_000))
			piece(content[10:20_010])
			must(c.SendFile(file, 100, int64(n)-1000, tell))
			piece(content[100 : n-900])
			// Behind the file.
			_, err = c.Write(piece([]byte("behind ")))
			must(err)
			_, err = c.Write(piece(payload(16, 30_000)))
			must(err)
			must(c.SendMessage(NewMessage(piece([]byte("message ")))))
			must(c.Send(bufring.Wrap(bytes.Clone(piece(payload(17, 5000))))))
			must(c.SendMemory(piece(payload(18, 20_000)), tell))
			must(c.SendStatic(static, 0, 1000))
			piece(content[:1000])
			must(c.SendFile(file, 0, 10, tell))
			piece(content[:10])
			_, err = c.Write(piece([]byte("the end")))
			must(err)
			c.Close()
			close(opened)
		}})
		c := srv.dialTLS(clientTLS())
		await(t, opened, "OnOpen")
		wantRest(t, c, want)
		for range 4 {
			if err := await(t, done, "what was sent to be told"); err != nil {
				t.Errorf("told %v", err)
			}
		}
		srv.wantCause(nil)
	})
}

// A peer that does not read a file makes the server wait, and not its memory grow.
func TestTLSFilesWaitForTheirPeer(t *testing.T) {
	const size = 24 << 20
	name := filepath.Join(t.TempDir(), "file")
	content := payload(19, size)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	overVariants(t, func(t *testing.T, v variant) {
		file, err := OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		srv := serveTLS(t, v.Options, serverTLS(), script{open: func(c *Conn) {
			if err := c.SendFile(file, 0, -1, nil); err != nil {
				t.Error(err)
			}
			c.Close()
		}})
		c := srv.dialTLS(clientTLS())
		wantRead(t, c, content[:1000])
		if held := srv.Stats().HeldBytes; held > 2<<20 {
			t.Errorf("%d bytes are held for a peer that does not read", held)
		}
		wantRest(t, c, content[1000:])
	}, "default", "epoll")
}

func TestTLSPausedConnectionsGetEverythingLater(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var conn atomic.Pointer[Ref]
		var got bytes.Buffer
		srv := serveTLS(t, v.Options, serverTLS(), script{
			open: func(c *Conn) { r := c.Ref(); conn.Store(&r) },
			data: func(c *Conn, b []byte) int {
				got.Write(b)
				c.PauseRead()
				return len(b)
			},
			eof: func(c *Conn) {
				if _, err := c.Write(got.Bytes()); err != nil {
					t.Error(err)
				}
				c.Close()
			},
		})
		c := srv.dialTLS(clientTLS())
		want := payload(20, 60_000)
		if v.slow {
			want = want[:5000]
		}
		go func() {
			if _, err := c.Write(want); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			_ = c.NetConn().(interface{ CloseWrite() error }).CloseWrite()
		}()
		until(t, "it is open", func() bool { return conn.Load() != nil })
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for conn.Load().Post(func(c *Conn) { c.ResumeRead() }) == nil {
				time.Sleep(100 * time.Microsecond)
			}
		}()
		wantRest(t, c, want)
		<-ended
	})
}

// Bytes that came together with the end of the handshake wait for a handler that does not
// want them yet.
func TestTLSBytesBehindTheHandshakeWait(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, n := range []int{10, 30_000} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				srv := serveTLS(t, v.Options, serverTLS(), script{
					open: func(c *Conn) {
						c.PauseRead()
						c.AfterFunc(time.Millisecond, (*Conn).ResumeRead)
					},
					data: echoWrite(t).data,
				})
				raw := &lateConn{Conn: srv.dial()}
				c := tls.Client(raw, clientTLS())
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
				want := payload(23, n)
				write(t, c, want) // in one piece with what ends the handshake
				raw.flush(t)
				wantRead(t, c, want)
			})
		}
	}, "default", "poisoned", "epoll", "small buffers", "no features", "unix")
}

// lateConn holds back what is written after the first time, until flush.
type lateConn struct {
	stdnet.Conn
	late   []byte
	wrote  bool
	prompt bool
}

func (l *lateConn) Write(b []byte) (int, error) {
	if !l.wrote || l.prompt {
		l.wrote = true
		return l.Conn.Write(b)
	}
	l.late = append(l.late, b...)
	return len(b), nil
}

func (l *lateConn) flush(t *testing.T) {
	t.Helper()
	l.prompt = true
	write(t, l.Conn, l.late)
}

// Other goroutines write, too.
func TestTLSRefsAndBroadcastsAreEncrypted(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		refs := make(chan Ref, 1)
		srv := serveTLS(t, v.Options, serverTLS(), script{open: func(c *Conn) { refs <- c.Ref() }})
		half := srv.dial() // in its handshake: it must get nothing
		hello := tlsHello(t)
		write(t, half, hello[:10])
		until(t, "it is accepted", func() bool { return srv.Stats().Accepted == 1 })
		c := srv.dialTLS(clientTLS())
		ref := await(t, refs, "a connection")
		if err := ref.Send([]byte("sent ")); err != nil {
			t.Error(err)
		}
		if err := ref.SendLease(bufring.Wrap([]byte("lease "))); err != nil {
			t.Error(err)
		}
		if err := ref.SendMessage(NewMessage([]byte("message "))); err != nil {
			t.Error(err)
		}
		if n, err := srv.Broadcast([]Ref{ref}, NewMessage([]byte("broadcast "))); n != 1 || err != nil {
			t.Errorf("broadcast: %d, %v", n, err)
		}
		if err := srv.BroadcastAll(NewMessage([]byte("all "))); err != nil {
			t.Error(err)
		}
		wantRead(t, c, []byte("sent lease message broadcast all "))
		if err := ref.Close(); err != nil {
			t.Error(err)
		}
		wantRest(t, c, nil)
		_ = half.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, err := half.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection in its handshake gets %d bytes, %v", n, err)
		}
	}, "default", "epoll", "loops", "no features", "unix")
}

// A peer that takes nothing is felt by Write, OnWritable and the timeouts, as without
// TLS.
func TestTLSBackPressure(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.HighWater, o.LowWater = 64<<10, 16<<10
		var sent int
		pattern := payload(21, 8<<20)
		fill := func(c *Conn) {
			for sent < len(pattern) && c.Buffered() <= o.HighWater {
				n := min(10_000, len(pattern)-sent)
				if _, err := c.Write(pattern[sent : sent+n]); err != nil {
					t.Error(err)
					return
				}
				sent += n
			}
			if sent == len(pattern) {
				c.Close()
			}
		}
		srv := serveTLS(t, o, serverTLS(), script{open: fill, writable: fill})
		c := srv.dialTLS(clientTLS())
		wantRead(t, c, pattern[:1000])
		wantRest(t, c, pattern[1000:])
		if st := srv.Stats(); st.HighWater == 0 {
			t.Error("the high-water mark was never reached")
		}
	}, "default", "epoll", "no features", "unix")
}

func TestTLSTimeoutsGoOnWorking(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.IdleTimeout = 100 * time.Millisecond
		srv := serveTLS(t, o, serverTLS(), echoWrite(t))
		c := tls.Client(srv.dial(), clientTLS())
		_ = c.Handshake() // on a busy machine this may take too long already
		_, _ = io.Copy(io.Discard, c)
		until(t, "it has timed out", func() bool { return srv.Stats().Timeouts == 1 })
	}, "default", "epoll")
}

func TestTLSStartTellsWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name string
		h    Handler
		want string
	}{
		{"no handler", TLS(serverTLS(), nil), "handler is nil"},
		{"no config", TLS(nil, Events{}), "no certificate"},
		{"no certificate", TLS(&tls.Config{}, Events{}), "no certificate"},
		{"nested", TLS(serverTLS(), TLS(serverTLS(), Events{})), "TLS in TLS"},
	} {
		before := footprintNow(t)
		srv := &Server{Handler: test.h}
		if err := srv.Start("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want one with %q", test.name, err, test.want)
		}
		before.check(t)
	}
}

// marshalKey is a certificate's key for other programs.
func marshalKey(c tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}
