//go:build linux

package net

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
	"strings"
	"testing"
	"time"
)

// serveBlockingTLS is serveBlocking with TLS.
func serveBlockingTLS(t testing.TB, o Options, h *blocking) *blockingServer {
	t.Helper()
	s := &blockingServer{causes: make(chan error, 1<<16)}
	t.Cleanup(func() { // after the server's end
		if s.server != nil && s.Stats().Fibers != 0 {
			t.Errorf("after the end: %d fibers", s.Stats().Fibers)
		}
	})
	s.server = serveHandler(t, o, TLS(serverTLS(), told{h, s.causes}))
	return s
}

func TestTLSStreamsEcho(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range blockingEchoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serveBlockingTLS(t, v.Options, newBlocking(e.f, false))
				c := srv.dialTLS(clientTLS())
				sizes := []int{1, 100, 5000, 16 << 10, 16<<10 + 1, 300_000}
				if v.slow || e.name == "byte by byte" {
					sizes = sizes[:3]
				}
				for i, n := range sizes {
					wantEcho(t, c, payload(uint64(i), n))
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
				wantRest(t, c, nil)
				if err := await(t, srv.causes, "OnClose"); err != nil && err != io.EOF {
					t.Errorf("OnClose was told %v", err)
				}
			})
		}
	}, "default", "epoll", "loops", "no features", "low water marks", "small buffers", "queues of 1 and 2", "all small", "unix")
}

func TestTLSStreamsSayWhatHasHappened(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		read := make(chan error, 1)
		srv := serveBlockingTLS(t, v.Options, newBlocking(func(s *Stream) error {
			if st := s.ConnectionState(); !st.HandshakeComplete || st.ServerName != "localhost" {
				t.Errorf("the state is %+v", st)
			}
			_, err := io.Copy(s, s)
			read <- err
			return err
		}, false))
		raw := srv.dial()
		c := tls.Client(raw, clientTLS())
		wantEcho(t, c, payload(1, 3000))
		if err := raw.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := await(t, read, "the read"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a stream that is cut short: %v", err)
		}
		srv.wantEnd(io.ErrUnexpectedEOF)
	}, "default", "epoll", "unix")
}

// A deadline ends the call and not the session, also in the middle of a large write:
// what was handed over by then is there, and the rest never comes.
func TestTLSStreamDeadlines(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		big := payload(2, 32<<20)
		wrote := make(chan int, 1)
		srv := serveBlockingTLS(t, v.Options, newBlocking(func(s *Stream) error {
			b := make([]byte, 100)
			n, err := s.Read(b)
			if err != nil {
				return err
			}
			_ = s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := s.Read(b[n:]); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v, want a timeout", err)
			}
			_ = s.SetDeadline(time.Time{})
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
			if _, err := io.ReadFull(s, b[:1]); err != nil {
				return err
			}
			_ = s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			m, err := s.Write(big)
			if !errors.Is(err, os.ErrDeadlineExceeded) || m == 0 || m >= len(big) {
				t.Errorf("write: %d of %d bytes and %v, want a timeout", m, len(big), err)
			}
			_ = s.SetWriteDeadline(time.Time{})
			wrote <- m
			_, err = s.Write([]byte("the end"))
			return err
		}, false))
		c := srv.dialTLS(clientTLS())
		wantEcho(t, c, []byte("hello"))
		write(t, c, []byte("x"))
		n := await(t, wrote, "the write")
		wantRest(t, c, append(bytes.Clone(big[:n]), "the end"...))
		srv.wantEnd(nil)
	}, "default", "epoll", "no features")
}

// Several fibers write large pieces, and small ones; each comes in one piece.
func TestTLSStreamWritesComeInOnePiece(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const size, writers, times = 60_000, 4, 5
		srv := serveBlockingTLS(t, v.Options, newBlocking(func(s *Stream) error {
			var fibers []*Fiber
			for i := range writers {
				f, err := s.Spawn(func() error {
					for range times {
						if _, err := s.Write(bytes.Repeat([]byte{byte('a' + i)}, size)); err != nil {
							return err
						}
						if _, err := s.Write([]byte{byte('A' + i)}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
				fibers = append(fibers, f)
			}
			for _, f := range fibers {
				if err := f.Wait(); err != nil {
					return err
				}
			}
			return nil
		}, false))
		c := srv.dialTLS(clientTLS())
		write(t, c, []byte("go"))
		got, err := io.ReadAll(c)
		if err != nil || len(got) != writers*times*(size+1) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		for len(got) > 0 {
			n := len(got) - len(bytes.TrimLeft(got, string(got[:1])))
			if (got[0] >= 'a') != (n%size == 0) || got[0] < 'a' && n != 1 {
				t.Fatalf("%d times %q", n, got[:1])
			}
			got = got[n:]
		}
		srv.wantEnd(nil)
	}, "default", "epoll", "low water marks")
}

// A proxy that has TLS on both sides, and a file by io.Copy.
func TestTLSStreamsCopy(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	content := payload(3, 1<<20)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	overVariants(t, func(t *testing.T, v variant) {
		back := serveBlockingTLS(t, v.Options, newBlocking(func(s *Stream) error {
			if _, err := io.CopyN(io.Discard, s, 4); err != nil {
				return err
			}
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := io.Copy(s, f); err != nil {
				return err
			}
			_, err = io.Copy(s, s)
			return err
		}, false))
		front := serveBlockingTLS(t, v.Options, newBlocking(func(s *Stream) error {
			up, err := s.Dial(back.addr().String(), Dialer{TLS: &tls.Config{RootCAs: testCA().pool, ServerName: "localhost"}})
			if err != nil {
				return err
			}
			defer up.Close()
			if !up.ConnectionState().HandshakeComplete {
				t.Error("what was dialled is not secured")
			}
			down, err := s.Spawn(func() error {
				_, err := io.Copy(s, up)
				return errors.Join(err, s.CloseWrite())
			})
			if err != nil {
				return err
			}
			_, err = io.Copy(up, s)
			return errors.Join(err, up.CloseWrite(), down.Wait())
		}, false))
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		// As in TestCopyOfFiles: what cannot tell is read by worker threads.
		back.workers = !tellsOfWaiting(f)
		front.workers = back.workers
		_ = f.Close()
		c := front.dialTLS(clientTLS())
		write(t, c, []byte("file"))
		wantRead(t, c, content)
		n := 200_000
		if v.slow {
			n = 5000
		}
		for i := range 3 {
			wantEcho(t, c, payload(uint64(i), n))
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		wantRest(t, c, nil)
	}, "default", "epoll", "no features", "small buffers", "unix")
}

func TestTLSStreamDialsThatFail(t *testing.T) {
	port := stdTLS(t, serverTLS())
	srv := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
		_, err := s.Dial("127.0.0.1:"+port, Dialer{TLS: &tls.Config{}})
		_, _ = fmt.Fprint(s, err)
		return nil
	})
	c := srv.dial()
	write(t, c, []byte("go"))
	got, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(got), "unknown authority") {
		t.Errorf("the dial answers %q, %v", got, err)
	}
}

// What is handed over is a *tls.Conn of std, so that net/http serves HTTP/2 on it.
func TestTLSConnectionsAreHandedOver(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(proto, func(t *testing.T) {
				// Before the footprint is taken: it outlives the server.
				to := &HandOverListener{}
				web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					fmt.Fprintf(w, "%s %v %s %d", r.Proto, r.TLS != nil && r.TLS.HandshakeComplete, r.RemoteAddr[:4], len(body))
				})}
				config := serverTLS()
				config.NextProtos = []string{"h2", "http/1.1"}
				srv := serveHandler(t, v.Options, TLS(config, to))
				served := make(chan error, 1)
				go func() { served <- web.Serve(to) }()
				defer func() {
					_ = web.Close()
					await(t, served, "the end of net/http")
				}()
				client := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: testCA().pool}, ForceAttemptHTTP2: proto == "HTTP/2.0"}
				defer client.CloseIdleConnections()
				for range 2 {
					req, _ := http.NewRequest("POST", "https://"+srv.addr().String(), bytes.NewReader(payload(4, 300_000)))
					res, err := client.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if want := proto + " true 127. 300000"; string(got) != want || err != nil {
						t.Errorf("%q, %v; want %q", got, err, want)
					}
				}
				if st := srv.Stats(); st.HandedOver != 1 || st.TLSHandshakes != 1 {
					t.Errorf("%d handed over, %d handshakes", st.HandedOver, st.TLSHandshakes)
				}
			})
		}
	}, "default", "epoll", "loops")
}

// What has been received goes along: what the handler has left, what its session has
// decrypted and what it has not, whatever the peer sends meanwhile.
func TestTLSConnectionsAreHandedOverWithTheirBytes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, blocking := range []bool{false, true} {
			for _, own := range []int{1, 500, 20_000} {
				t.Run(fmt.Sprintf("%v %d", blocking, own), func(t *testing.T) {
					want := payload(5, 120_000)
					if v.slow {
						want = want[:30_000]
					}
					got := make(chan error, 1)
					take := func(conn stdnet.Conn, err error) {
						if err != nil {
							got <- err
							return
						}
						defer conn.Close()
						b := make([]byte, len(want)-own)
						if _, err := io.ReadFull(conn, b); err != nil {
							got <- err
							return
						}
						err = differ(b, want[own:])
						if _, e := conn.Write([]byte("got it")); e != nil {
							err = errors.Join(err, e)
						}
						if n, e := conn.Read(b); n != 0 || e != io.EOF {
							err = errors.Join(err, fmt.Errorf("behind it there is %d, %v", n, e))
						}
						got <- err
					}
					consumed := 0
					var h Handler = script2{open: func(*Conn) {}, data: func(c *Conn, b []byte) int {
						n := min(len(b), own-consumed)
						if consumed += n; consumed == own {
							if _, err := c.Write([]byte("first ")); err != nil {
								t.Error(err)
							}
							if err := c.HandOver(take); err != nil {
								t.Error(err)
							}
						}
						return n
					}}
					if blocking {
						h = Blocking(func(s *Stream) error {
							if _, err := io.CopyN(io.Discard, s, int64(own)); err != nil {
								t.Error(err)
							}
							if _, err := s.Write([]byte("first ")); err != nil {
								t.Error(err)
							}
							return s.HandOver(take)
						})
					}
					srv := serveHandler(t, v.Options, TLS(serverTLS(), h))
					c := srv.dialTLS(clientTLS())
					go func() {
						for b := want; len(b) > 0; {
							n := min(len(b), 7000)
							if _, err := c.Write(b[:n]); err != nil {
								t.Error(err)
								return
							}
							b = b[n:]
						}
						_ = c.CloseWrite()
					}()
					wantRest(t, c, []byte("first got it"))
					if err := await(t, got, "what was handed over"); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}, "default", "epoll", "no features", "small buffers", "unix")
}

// One port for TLS and for what is plain.
func TestTLSBehindASniff(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		plain := newWitness(t, echoWrite(t)).handler()
		srv := serveHandler(t, v.Options, &Sniff{Rules: []SniffRule{
			{Match: SniffTLS, Handler: TLS(serverTLS(), Blocking(echoBlocking))},
			{Match: SniffPrefix("x"), Handler: plain},
		}})
		c := srv.dialTLS(clientTLS())
		wantEcho(t, c, payload(6, 20_000))
		wantEcho(t, srv.dial(), []byte("xyz"))
		// The beginning in pieces, and one that ends in the middle of it.
		c = tls.Client(&dripConn{Conn: srv.dial(), piece: 1}, clientTLS())
		wantEcho(t, c, []byte("hello"))
		half := srv.dial()
		write(t, half, tlsHello(t)[:100])
		if err := half.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, half)
		if st := srv.Stats(); st.TLSHandshakes != 2 || st.TLSHandshakeErrors != 1 {
			t.Errorf("%d handshakes, %d errors", st.TLSHandshakes, st.TLSHandshakeErrors)
		}
	}, "default", "epoll", "small buffers", "unix")
}
