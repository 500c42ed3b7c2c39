//go:build linux

package net

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"testing"
)

func TestPeerEndsItsDirectionAndReadsTheRest(t *testing.T) {
	sizes := []int{0, 1, 4096, 5000, few(1 << 20), few(4 << 20)}
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				for i, n := range sizes {
					if v.slow {
						n /= 8
					}
					c := srv.dial()
					p := payload(uint64(i), n)
					written := make(chan error, 1)
					go func() {
						_, err := c.Write(p)
						written <- errors.Join(err, c.CloseWrite())
					}()
					wantRest(t, c, p)
					if err := <-written; err != nil {
						t.Fatal(err)
					}
					srv.wantCause(io.EOF)
				}
			})
		}
	})
}

// The peer's last bytes and the end of its direction come as one, to a connection
// that receives in either way.
func TestEndOfStreamDirectlyBehindData(t *testing.T) {
	for _, m := range modes {
		for _, n := range []int{1, 4095, 4096, 4097, 100000, 131072, 300000} {
			t.Run(fmt.Sprintf("%s %d", m.name, n), func(t *testing.T) {
				var got []byte
				echo := true
				ended := make(chan []byte, 1)
				srv := serve(t, m.Options, script{
					data: func(c *Conn, b []byte) int {
						if echo {
							_, _ = c.Write(b)
						} else {
							got = append(got, b...)
						}
						return len(b)
					},
					eof: func(c *Conn) {
						ended <- got
						c.Close()
					},
				})
				c := srv.dial()
				if m.bulk {
					srv.toBulk(c)
				}
				srv.onLoop(0, func(*loop) { echo = false })
				// The loop finds both at once.
				release := srv.hold(0)
				defer release()
				p := payload(uint64(n), n)
				if n < 5000 {
					write(t, c, p)
					_ = c.CloseWrite()
				} else {
					go func() {
						_, _ = c.Write(p)
						_ = c.CloseWrite()
					}()
				}
				release()
				if err := differ(await(t, ended, "OnEOF"), p); err != nil {
					t.Errorf("before OnEOF: %v", err)
				}
				srv.wantCause(io.EOF)
			})
		}
	}
}

func TestCloseWriteWhileThePeerGoesOnSending(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		n := few(1 << 20)
		if v.slow {
			n = few(1 << 16)
		}
		greeting := payload(1, 30000)
		sum := fnv.New64a()
		srv := serve(t, v.Options, script{
			open: func(c *Conn) {
				if _, err := c.Write(greeting); err != nil {
					t.Errorf("write: %v", err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Errorf("CloseWrite: %v", err)
				}
				if err := c.CloseWrite(); !errors.Is(err, ErrClosed) {
					t.Errorf("second CloseWrite: %v, want %v", err, ErrClosed)
				}
				if _, err := c.Write(greeting); !errors.Is(err, ErrClosed) {
					t.Errorf("write after CloseWrite: %v, want %v", err, ErrClosed)
				}
			},
			data: func(_ *Conn, b []byte) int {
				_, _ = sum.Write(b)
				return len(b)
			},
		})
		c := srv.dial()
		wantRest(t, c, greeting) // the server's direction has ended
		p := payload(2, n)
		write(t, c, p)
		_ = c.CloseWrite()
		srv.wantCause(io.EOF)
		want := fnv.New64a()
		_, _ = want.Write(p)
		if st := srv.Stats(); st.BytesReceived != uint64(n) || sum.Sum64() != want.Sum64() {
			t.Errorf("%d bytes of %d were received, the sum is %x, want %x", st.BytesReceived, n, sum.Sum64(), want.Sum64())
		}
	})
}

func TestHandlerGoesOnWritingAfterEOF(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		answer := payload(1, 2<<20)
		srv := serve(t, v.Options, script{eof: func(c *Conn) {
			// Not from OnEOF itself, but when that is long over.
			l := c.l
			err := l.mail.post(func() {
				for b := answer; len(b) > 0; {
					n := min(len(b), 10000)
					if _, err := c.Write(b[:n]); err != nil {
						t.Errorf("write after EOF: %v", err)
					}
					b = b[n:]
				}
				c.Close()
			})
			if err != nil {
				t.Error(err)
			}
		}})
		c := srv.dial()
		write(t, c, []byte("request"))
		_ = c.CloseWrite()
		wantRest(t, c, answer)
		srv.wantCause(io.EOF)
	})
}

// With both directions ended there is nothing that could happen on a connection
// any more, so it must close.
func TestConnectionWithBothDirectionsEndedCloses(t *testing.T) {
	cases := []struct {
		name   string
		script func(t *testing.T) script
	}{
		{name: "CloseWrite in OnEOF", script: func(t *testing.T) script {
			return script{eof: func(c *Conn) {
				if _, err := c.Write([]byte("bye")); err != nil {
					t.Error(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			}}
		}},
		{name: "CloseWrite before OnEOF", script: func(t *testing.T) script {
			return script{
				open: func(c *Conn) {
					if _, err := c.Write([]byte("bye")); err != nil {
						t.Error(err)
					}
					if err := c.CloseWrite(); err != nil {
						t.Error(err)
					}
				},
				eof: func(*Conn) {},
			}
		}},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			srv := serve(t, Options{Loops: 1, poison: true}, cs.script(t))
			c := srv.dial()
			_ = c.CloseWrite()
			wantRest(t, c, []byte("bye"))
			srv.wantCause(io.EOF)
		})
	}
}

func TestEmptyHalfCloseBothWaysAtOnce(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, script{
			open: func(c *Conn) { _ = c.CloseWrite() },
			eof:  func(c *Conn) { c.Close() },
		})
		for range 20 {
			c := srv.dial()
			_ = c.CloseWrite()
			wantRest(t, c, nil)
			srv.wantCause(io.EOF)
		}
	})
}
