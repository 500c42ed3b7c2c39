//go:build linux

package net

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// stdTLS is an echo server of std's, which closes after what begins with an 'x'.
func stdTLS(t *testing.T, config *tls.Config) (port string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup // also those that serve: what they close must not be missed later
	t.Cleanup(func() { _ = ln.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil || b[0] == 'x' {
						return
					}
				}
			})
		}
	})
	_, port, _ = stdnet.SplitHostPort(ln.Addr().String())
	return port
}

// startClient is a Client that a test looks after.
func startClient(t *testing.T, o Options, h Handler) *Client {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	cl := &Client{Handler: h, Options: o}
	if err := cl.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := cl.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if st := cl.Stats(); st.Dialled != st.Closed || st.InFlight+st.CopiesOut+st.LeasesOut+st.HeldBytes+st.Dialling+st.TimersSet != 0 {
			t.Errorf("after the end: %+v", st)
		}
	})
	return cl
}

// A client knows the server's name from what it dialled, and what it sends and gets is
// what std's server gets and sends.
func TestTLSClientsTalkToStd(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		before := footprintNow(t)
		t.Cleanup(func() { before.check(t) })
		for _, version := range tlsVersions {
			t.Run(version.name, func(t *testing.T) {
				config := serverTLS()
				config.MaxVersion = version.version
				port := stdTLS(t, config)
				n := 200_000
				if v.slow {
					n = 10_000
				}
				want := payload(1, n)
				want[0] = 'y'
				for _, host := range []string{"localhost", "127.0.0.1"} {
					got := make(chan error, 1)
					var received []byte
					w := newWitness(t, script{
						open: func(c *Conn) {
							if name := c.ConnectionState().PeerCertificates[0].DNSNames[0]; name != "localhost" {
								t.Errorf("the server is %s", name)
							}
							if _, err := c.Write(want); err != nil {
								t.Error(err)
							}
						},
						data: func(c *Conn, b []byte) int {
							if received = append(received, b...); len(received) >= len(want) {
								got <- differ(received, want)
								c.Close()
							}
							return len(b)
						},
					})
					cl := startClient(t, v.Options, TLS(&tls.Config{RootCAs: testCA().pool}, w.handler()))
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					if err := cl.DialContext(ctx, host+":"+port, Dialer{}); err != nil {
						t.Fatalf("dial %s: %v", host, err)
					}
					if err := await(t, got, "the echo"); err != nil {
						t.Error(err)
					}
					if err := await(t, w.causes, "OnClose"); err != nil {
						t.Errorf("OnClose was told %v", err)
					}
					if st := cl.Stats(); st.TLSHandshakes != 1 {
						t.Errorf("%d handshakes", st.TLSHandshakes)
					}
				}
			})
		}
	}, "default", "epoll", "loops", "small buffers", "no features")
}

func TestTLSClientsResumeSessions(t *testing.T) {
	port := stdTLS(t, serverTLS())
	resumed := make(chan bool, 1)
	config := &tls.Config{RootCAs: testCA().pool, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	cl := startClient(t, Options{Loops: 1, poison: true}, TLS(config, newWitness(t, script{
		open: func(c *Conn) { _, _ = c.Write([]byte("x")) }, // the ticket comes in front of the answer
		data: func(c *Conn, b []byte) int {
			resumed <- c.ConnectionState().DidResume
			return len(b)
		},
	}).handler()))
	for i := range 3 {
		if err := cl.Dial("localhost:"+port, Dialer{}); err != nil {
			t.Fatal(err)
		}
		if got := await(t, resumed, "an answer"); got != (i > 0) {
			t.Errorf("connection %d: resumed %v", i, got)
		}
	}
}

// A plain handler with Dialer.TLS, dialled from a callback of a server with TLS: both
// ends are ours.
func TestTLSDialsFromCallbacks(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		back := serveTLS(t, v.Options, serverTLS(), echoWrite(t))
		config := &tls.Config{RootCAs: testCA().pool, ServerName: "localhost"}
		front := serveTLS(t, v.Options, serverTLS(), script{data: func(c *Conn, b []byte) int {
			ref := c.Ref()
			c.Dial(back.addr().String(), Dialer{TLS: config, Context: string(b), Handler: script2{
				open: func(c *Conn) { fmt.Fprint(connWriter{c}, c.Context()) },
				data: func(c *Conn, b []byte) int {
					if err := ref.Send(b); err != nil {
						t.Error(err)
					}
					c.Close()
					return len(b)
				},
			}, OnError: func(err error) { t.Error(err) }})
			return len(b)
		}})
		wantEcho(t, front.dialTLS(clientTLS()), []byte("there and back"))
		until(t, "both have ended", func() bool { return back.Stats().Closed == 1 })
		if st := front.Stats(); st.TLSHandshakes != 2 || st.Dialled != 1 {
			t.Errorf("%d handshakes, %d dialled", st.TLSHandshakes, st.Dialled)
		}
		front.w = nil // it has not seen the dialled one
	}, "default", "epoll", "unix")
}

// script2 is a script as a handler of its own.
type script2 script

func (s script2) OnOpen(c *Conn)               { s.open(c) }
func (s script2) OnData(c *Conn, b []byte) int { return s.data(c, b) }
func (s script2) OnClose(*Conn, error)         {}

func TestTLSDialsThatFail(t *testing.T) {
	dumb, err := stdnet.Listen("tcp", "127.0.0.1:0") // it accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dumb.Close()
	rude, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 10000))
			_ = c.Close()
		}
	}()
	port := stdTLS(t, serverTLS())
	trusting := &tls.Config{RootCAs: testCA().pool}
	nobody := script2{open: func(*Conn) { t.Error("OnOpen is called") }, data: func(_ *Conn, b []byte) int { return len(b) }}
	for _, test := range []struct {
		name   string
		addr   string
		d      Dialer
		config *tls.Config
		cancel bool
		want   func(error) bool
	}{
		{name: "wrong name", addr: "127.0.0.1:" + port, config: &tls.Config{RootCAs: testCA().pool, ServerName: "other.test"},
			want: func(err error) bool { return errors.As(err, new(x509.HostnameError)) }},
		{name: "unknown authority", addr: "127.0.0.1:" + port, config: &tls.Config{},
			want: func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{name: "no config", addr: "127.0.0.1:" + port, want: func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{name: "closed", addr: rude.Addr().String(), config: trusting, want: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{name: "timeout of the dial", addr: dumb.Addr().String(), d: Dialer{Timeout: 50 * time.Millisecond}, config: trusting,
			want: func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{name: "cancelled", addr: dumb.Addr().String(), config: trusting, cancel: true,
			want: func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cl := startClient(t, Options{Loops: 1, poison: true}, TLS(test.config, nobody))
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			told := make(chan error, 1)
			test.d.OnError = func(err error) { told <- err }
			if test.cancel {
				go func() {
					until(t, "it waits for the server", func() bool { return cl.Stats().Connections == 1 })
					cancel()
				}()
			}
			err := cl.DialContext(ctx, test.addr, test.d)
			var op *OpError
			if !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != test.addr || !test.want(err) {
				t.Errorf("DialContext returns %v (%T)", err, errors.Unwrap(err))
			}
			if e := await(t, told, "OnError"); e != err {
				t.Errorf("OnError is told %v", e)
			}
			t.Log(err)
			if st := cl.Stats(); st.TLSHandshakeErrors != 1 || st.TLSHandshakes != 0 {
				t.Errorf("%d handshakes, %d errors", st.TLSHandshakes, st.TLSHandshakeErrors)
			}
		})
	}
	t.Run("shutdown", func(t *testing.T) {
		cl := startClient(t, Options{Loops: 1, poison: true}, TLS(trusting, nobody))
		told := make(chan error, 1)
		if err := cl.Dial(dumb.Addr().String(), Dialer{OnError: func(err error) { told <- err }}); err != nil {
			t.Fatal(err)
		}
		until(t, "it waits for the server", func() bool { return cl.Stats().Connections == 1 })
		go cl.Shutdown(context.Background())
		if err := await(t, told, "OnError"); !errors.Is(err, ErrServerClosed) {
			t.Errorf("OnError is told %v", err)
		}
	})
	t.Run("handler", func(t *testing.T) {
		cl := startClient(t, Options{Loops: 1}, TLS(nil, nil))
		if err := cl.DialContext(context.Background(), "127.0.0.1:"+port, Dialer{}); err == nil || !strings.Contains(err.Error(), "handler is nil") {
			t.Errorf("without a handler: %v", err)
		}
		if err := cl.DialContext(context.Background(), "127.0.0.1:"+port, Dialer{Handler: TLS(nil, TLS(nil, nobody))}); !errors.Is(err, errNested) {
			t.Errorf("nested: %v", err)
		}
	})
}
