//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"testing"
)

// Blocking code that has read something gives the rest away: what it holds unread, what
// was kept since it held too much, and what comes.
func TestStreamHandOverWhileDataArrives(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		size := few(1 << 20)
		if v.slow {
			size = 50_000
		}
		for _, own := range []int{0, 1, 777, 20_000} {
			for _, slow := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %v", own, slow), func(t *testing.T) {
					to := newHandOvers(t)
					consumed := make([]byte, own)
					srv := serveBlocking(t, v.Options, func(s *Stream) error {
						if _, err := io.ReadFull(s, consumed); err != nil {
							t.Errorf("read: %v", err)
						}
						if slow {
							// Until more is held than one Stream may.
							for s.unread <= s.most() && len(s.Conn().seldom().kept) == 0 {
								if err := s.Sleep(0); err != nil {
									t.Error(err)
								}
								if st := s.l.stats; st.BytesReceived >= uint64(size) {
									break
								}
							}
						}
						if err := s.HandOver(func(conn stdnet.Conn, err error) { to.ch <- handed{conn, err} }); err != nil {
							t.Errorf("hand over: %v", err)
						}
						if _, err := s.Read(consumed[:0:0]); !errors.Is(err, ErrHandedOver) || !errors.Is(err, ErrClosed) {
							t.Errorf("read after HandOver: %v", err)
						}
						if _, err := s.Write([]byte{1}); !errors.Is(err, ErrHandedOver) {
							t.Errorf("write after HandOver: %v", err)
						}
						if err := s.HandOver(func(stdnet.Conn, error) {}); !errors.Is(err, ErrHandedOver) {
							t.Errorf("HandOver twice: %v", err)
						}
						if err := s.HandOverTo(&HandOverListener{}); !errors.Is(err, ErrHandedOver) {
							t.Errorf("HandOverTo afterwards: %v", err)
						}
						return errors.New("which ends nothing")
					})
					c := srv.dial()
					sent := payload(uint64(own), size)
					go func() {
						_, _ = c.Write(sent)
						_ = c.CloseWrite()
					}()
					conn := to.next()
					srv.wantEnd(ErrHandedOver)
					if err := differ(consumed, sent[:own]); err != nil {
						t.Errorf("the function: %v", err)
					}
					wantRest(t, conn, sent[own:])
					write(t, conn, []byte("all of it"))
					_ = conn.Close()
					wantRest(t, c, []byte("all of it"))
					srv.wantFibers(0)
				})
			}
		}
	}, "default", "epoll", "no features", "small buffers", "queues of 1 and 2", "all small", "low water marks", "unix", "unix epoll")
}

// What other fibers are at is ended, but for what they are sending, which goes out whole.
func TestStreamHandOverAndOtherFibers(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		large := payload(3, few(1<<20))
		ends := make(chan error, 3)
		srv := serveAtOpen(t, v.Options, func(s *Stream) error {
			_ = s.Conn().SetWriteBuffer(1 << 17)
			spawn := func(f func() error) {
				if _, err := s.Spawn(func() error { err := f(); ends <- err; return err }); err != nil {
					t.Error(err)
				}
			}
			spawn(func() error {
				n, err := s.Write(large)
				if n != len(large) {
					t.Errorf("%d of %d bytes were written", n, len(large))
				}
				return err
			})
			spawn(func() error { _, err := s.Read(make([]byte, 1)); return err })
			spawn(func() error { return s.Sleep(patience) })
			if err := s.Sleep(0); err != nil { // each is at it
				t.Error(err)
			}
			return s.HandOver(func(conn stdnet.Conn, err error) { to.ch <- handed{conn, err} })
		})
		c := srv.dial()
		wantRead(t, c, large)
		conn := to.next()
		srv.wantEnd(ErrHandedOver)
		fine := 0
		for range 3 {
			switch err := await(t, ends, "a fiber's end"); {
			case err == nil:
				fine++
			case !errors.Is(err, ErrHandedOver):
				t.Errorf("a fiber is told %v", err)
			}
		}
		if fine != 1 {
			t.Errorf("%d fibers have come to their ends", fine)
		}
		echoOn(t, conn)
		wantEcho(t, c, payload(1, 1000))
		srv.wantFibers(0)
	}, "default", "epoll", "no features", "low water marks", "unix", "loops")
}

// By Conn.HandOver in a callback it is the same.
func TestHandOverOfAConnThatBlockingCodeServes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		refs := make(chan Ref, 1)
		end := make(chan error, 1)
		srv := serveBlocking(t, v.Options, func(s *Stream) error {
			b := make([]byte, 3)
			_, _ = io.ReadFull(s, b)
			refs <- s.Conn().Ref()
			_, err := io.ReadFull(s, make([]byte, 1<<20))
			end <- err
			return err
		})
		c := srv.dial()
		write(t, c, []byte("one"))
		if err := await(t, refs, "the function").Post(to.of); err != nil {
			t.Fatal(err)
		}
		conn := to.next()
		if err := await(t, end, "the function's end"); !errors.Is(err, ErrHandedOver) {
			t.Errorf("it is told %v", err)
		}
		echoOn(t, conn)
		wantEcho(t, c, payload(1, 1000))
		srv.wantEnd(ErrHandedOver)
	}, "default", "epoll", "unix")
}

func TestStreamHandOverTo(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		std := newListener(t, 1)
		srv := serveBlocking(t, v.Options, func(s *Stream) error {
			off := make(chan error, 2)
			go func() {
				off <- s.HandOver(func(stdnet.Conn, error) {})
				off <- s.HandOverTo(std)
			}()
			for range 2 {
				if err := <-off; !errors.Is(err, ErrOffLoop) {
					t.Errorf("on another goroutine: %v", err)
				}
			}
			err := s.HandOverTo(std)
			if errors.Is(err, ErrQueueFull) {
				_, _ = s.Write([]byte("503"))
			}
			return err
		})
		c, full := srv.dial(), srv.dial()
		write(t, c, []byte("first"))
		until(t, "the hand-over", func() bool { return srv.Stats().HandedOver == 1 })
		write(t, full, []byte("second"))
		wantRead(t, full, []byte("503"))
		conn := std.accept(t)
		wantRead(t, conn, []byte("first"))
	}, "default", "epoll", "unix")
}

// Who is chosen by the first bytes may be blocking code.
func TestSniffChoosesBlockingCode(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serveHandler(t, v.Options, &Sniff{
			Rules: []SniffRule{
				{SniffPrefix("ab"), Blocking(echoBlocking)},
				{SniffPrefix("xy"), BlockingAtOpen(func(s *Stream) error {
					if _, err := s.Write([]byte("hello ")); err != nil {
						return err
					}
					return echoBlocking(s)
				})},
			},
			Default: Blocking(func(s *Stream) error {
				b, err := io.ReadAll(s)
				if err != nil {
					return err
				}
				_, err = s.Write(append([]byte("in the end: "), b...))
				return err
			}),
		})
		for _, c := range []struct{ in, want string }{{"ab", "ab"}, {"abc", "abc"}, {"xyz", "hello xyz"}} {
			conn := srv.dial()
			for i := range len(c.in) {
				write(t, conn, []byte(c.in[i:i+1]))
			}
			wantRead(t, conn, []byte(c.want))
			wantEcho(t, conn, payload(1, 20_000))
			_ = conn.CloseWrite()
			wantRest(t, conn, nil)
		}
		for _, in := range []string{"a", "nothing"} {
			conn := srv.dial()
			write(t, conn, []byte(in))
			_ = conn.CloseWrite()
			wantRest(t, conn, []byte("in the end: "+in))
		}
		until(t, "no fibers", func() bool { return srv.Stats().Fibers == 0 })
	}, "default", "epoll", "no features", "small buffers", "unix")
}
