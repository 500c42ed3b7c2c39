//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// handed is what the function of a HandOver was called with.
type handed struct {
	conn stdnet.Conn
	err  error
}

// handOvers collects hand-overs.
type handOvers struct {
	t  testing.TB
	ch chan handed
}

func newHandOvers(t testing.TB) *handOvers {
	h := &handOvers{t, make(chan handed, 1024)}
	t.Cleanup(func() {
		for {
			select {
			case got := <-h.ch:
				if got.conn != nil {
					_ = got.conn.Close()
				}
			default:
				return
			}
		}
	})
	return h
}

// of hands a connection over.
func (h *handOvers) of(c *Conn) {
	if err := c.HandOver(func(conn stdnet.Conn, err error) { h.ch <- handed{conn, err} }); err != nil {
		h.t.Errorf("hand over: %v", err)
	}
}

// next waits for one; the test's end closes it.
func (h *handOvers) next() stdnet.Conn {
	h.t.Helper()
	got := await(h.t, h.ch, "a connection to be handed over")
	if got.err != nil {
		h.t.Fatalf("handed over: %v", got.err)
	}
	h.t.Cleanup(func() { _ = got.conn.Close() })
	_ = got.conn.SetDeadline(time.Now().Add(2 * patience))
	return got.conn
}

// echoOn echoes on a connection of std until its end, and then closes it. Not by
// splice(2), for which std keeps pipes open.
func echoOn(t testing.TB, c stdnet.Conn) {
	go func() {
		if _, err := io.Copy(onlyWriter{c}, onlyReader{c}); err != nil && !errors.Is(err, stdnet.ErrClosed) {
			t.Errorf("echo on a handed-over connection: %v", err)
		}
		_ = c.Close()
	}()
}

// wantHandedOver wants the next OnClose to be that of a hand-over.
func (s *server) wantHandedOver() {
	s.t.Helper()
	s.wantCause(ErrHandedOver)
	if st := s.Stats(); st.HandedOver == 0 {
		s.t.Error("the hand-over is not counted")
	}
}

func TestHandOverFromOnOpen(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{open: to.of})
		for range 3 {
			c := srv.dial()
			conn := to.next()
			switch conn.(type) {
			case *stdnet.TCPConn, *stdnet.UnixConn:
			default:
				t.Errorf("with nothing received it is a %T", conn)
			}
			if conn.LocalAddr().String() != c.RemoteAddr().String() {
				t.Errorf("its address is %v, its peer sees %v", conn.LocalAddr(), c.RemoteAddr())
			}
			echoOn(t, conn)
			srv.wantHandedOver()
			for _, n := range []int{1, 1000, 100_000} {
				wantEcho(t, c, payload(7, n))
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			wantRest(t, c, nil)
		}
	})
}

// What the handler has consumed is its own, and every byte behind that is std's: those
// that were received with it, those that a last completion brings, and those in the socket.
func TestHandOverWhileDataArrives(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		size := few(1 << 20)
		if v.slow {
			size = 50_000
		}
		for _, own := range []int{0, 1, 777, 20_000} {
			t.Run(fmt.Sprint(own), func(t *testing.T) {
				to := newHandOvers(t)
				var consumed []byte
				var done bool
				srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
					if done {
						t.Error("OnData is called after HandOver")
					}
					n := min(len(b), own-len(consumed))
					consumed = append(consumed, b[:n]...)
					if len(consumed) == own {
						done = true
						to.of(c)
					}
					return n
				}})
				c := srv.dial()
				sent := payload(uint64(own), size)
				go func() {
					_, _ = c.Write(sent)
					_ = c.CloseWrite()
				}()
				conn := to.next()
				srv.wantHandedOver()
				if err := differ(consumed, sent[:own]); err != nil {
					t.Errorf("the handler: %v", err)
				}
				wantRest(t, conn, sent[own:])
				if _, err := conn.Write([]byte("all of it")); err != nil {
					t.Fatal(err)
				}
				_ = conn.Close()
				wantRest(t, c, []byte("all of it"))
			})
		}
	})
}

func TestHandOverAfterDetach(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			lease, err := c.Detach()
			if err != nil {
				t.Error(err)
			}
			if err := c.Send(lease); err != nil {
				t.Error(err)
			}
			to.of(c)
			return 0
		}})
		c := srv.dial()
		write(t, c, payload(1, 10))
		wantRead(t, c, payload(1, 10))
		echoOn(t, to.next())
		wantEcho(t, c, payload(2, 500))
	})
}

// All that was written before has to go out first, in order.
func TestHandOverWithUnsentOutput(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		o := v.Options
		o.MaxBuffered = 16 << 20
		before := payload(3, few(3<<20))
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			for rest := before; len(rest) > 0; {
				n := min(len(rest), 100_000)
				if _, err := c.Write(rest[:n]); err != nil {
					t.Errorf("write: %v", err)
				}
				rest = rest[n:]
			}
			to.of(c)
			if _, err := c.Write(b); !errors.Is(err, ErrClosed) {
				t.Errorf("write after HandOver: %v", err)
			}
			if err := c.HandOver(func(stdnet.Conn, error) {}); !errors.Is(err, ErrClosed) {
				t.Errorf("HandOver twice: %v", err)
			}
			return 1
		}})
		c := srv.dial()
		write(t, c, []byte("go, and this is for std"))
		until(t, "output to wait", func() bool { return srv.Stats().BytesSent > 0 })
		if len(to.ch) > 0 && len(before) > 2<<20 && !onUnix(t) {
			t.Log("the kernel took all of it at once")
		}
		wantRead(t, c, before)
		conn := to.next()
		wantRead(t, conn, []byte("o, and this is for std"))
		write(t, conn, []byte("behind it"))
		wantRead(t, c, []byte("behind it"))
		srv.wantHandedOver()
	})
}

// A peer that takes nothing of it keeps the hand-over from happening, for CloseTimeout.
func TestHandOverIsOverWithAPeerThatTakesNothing(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		o := v.Options
		o.CloseTimeout = 50 * time.Millisecond
		o.MaxBuffered = 32 << 20
		srv := serve(t, o, script{open: func(c *Conn) {
			_ = c.SetWriteBuffer(1 << 14)
			if _, err := c.Write(payload(3, 20<<20)); err != nil {
				t.Error(err)
			}
			to.of(c)
		}})
		c := srv.dial()
		if got := await(t, to.ch, "the end of the hand-over"); got.conn != nil || !errors.Is(got.err, ErrCloseTimeout) {
			t.Errorf("handed over: %v, %v", got.conn, got.err)
		}
		srv.wantCause(ErrCloseTimeout)
		if st := srv.Stats(); st.HandOversLost != 1 || st.HandedOver != 0 {
			t.Errorf("%d were handed over, %d lost", st.HandedOver, st.HandOversLost)
		}
		_ = c.Close()
	}, "default", "epoll", "unix", "no features")
}

func TestHandOverOfAPeerThatHasEndedItsDirection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, inOnEOF := range []bool{true, false} {
			name := "in OnEOF"
			if !inOnEOF {
				name = "before it is seen"
			}
			t.Run(name, func(t *testing.T) {
				to := newHandOvers(t)
				s := script{data: func(*Conn, []byte) int { return 0 }, eof: to.of}
				if !inOnEOF {
					s = script{data: func(c *Conn, _ []byte) int { to.of(c); return 0 }}
				}
				srv := serve(t, v.Options, s)
				c := srv.dial()
				write(t, c, payload(4, 2000))
				_ = c.CloseWrite()
				conn := to.next()
				wantRest(t, conn, payload(4, 2000))
				write(t, conn, payload(5, 5000))
				_ = conn.Close()
				wantRest(t, c, payload(5, 5000))
				srv.wantHandedOver()
			})
		}
		t.Run("our direction is ended, too", func(t *testing.T) {
			to := newHandOvers(t)
			srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
				_, _ = c.Write([]byte("the last"))
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
				to.of(c)
				return 0
			}})
			c := srv.dial()
			write(t, c, payload(4, 2000))
			wantRest(t, c, []byte("the last"))
			conn := to.next()
			wantRead(t, conn, payload(4, 2000))
			if _, err := conn.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("write after CloseWrite and HandOver: %v", err)
			}
			write(t, c, []byte("more"))
			_ = c.CloseWrite()
			wantRest(t, conn, []byte("more"))
		})
	})
}

// What was received comes first, and then the reset, whoever was told of it first.
func TestHandOverOfAConnectionThatIsReset(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "reset")
		for i := range few(20) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				to := newHandOvers(t)
				srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int { to.of(c); return 0 }})
				c := srv.dial()
				sent := payload(4, 2000)
				write(t, c, sent)
				_ = c.SetLinger(0)
				_ = c.Close()
				select {
				case got := <-to.ch:
					if got.err != nil {
						t.Fatalf("handed over: %v", got.err)
					}
					_ = got.conn.SetDeadline(time.Now().Add(patience))
					if got.conn.RemoteAddr() == nil {
						t.Error("it has no remote address")
					}
					b, err := io.ReadAll(got.conn)
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("after %d bytes: %v, want a reset", len(b), err)
					}
					if len(b) == 0 || len(b) > len(sent) {
						t.Errorf("%d of %d bytes came", len(b), len(sent))
					} else if err := differ(b, sent[:len(b)]); err != nil {
						t.Error(err)
					}
					_ = got.conn.Close()
					srv.wantHandedOver()
				case err := <-srv.w.causes: // the reset was first
					if !errors.Is(err, syscall.ECONNRESET) {
						if errors.Is(err, ErrHandedOver) {
							got := await(t, to.ch, "what was handed over")
							if got.conn != nil {
								_ = got.conn.Close()
							}
							break
						}
						t.Errorf("OnClose was told %v", err)
					}
					if len(to.ch) > 0 {
						if got := <-to.ch; got.conn != nil {
							t.Error("handed over after OnClose was told of the reset")
						}
					}
				}
			})
		}
	})
}

// With output left there is nobody to hand it to.
func TestHandOverFailsWhenOutputCannotGoOut(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		o := v.Options
		o.MaxBuffered = 32 << 20
		opened := make(chan struct{})
		srv := serve(t, o, script{open: func(c *Conn) {
			_ = c.SetWriteBuffer(1 << 14)
			_, _ = c.Write(payload(3, 20<<20))
			to.of(c)
			close(opened)
		}})
		c := srv.dial()
		await(t, opened, "OnOpen")
		_ = c.SetLinger(0)
		_ = c.Close()
		got := await(t, to.ch, "the end of the hand-over")
		if got.conn != nil || !errors.Is(got.err, syscall.ECONNRESET) && !errors.Is(got.err, syscall.EPIPE) {
			t.Errorf("handed over: %v, %v", got.conn, got.err)
		}
		if cause := srv.cause(); cause != got.err {
			t.Errorf("OnClose was told %v, and the function %v", cause, got.err)
		}
	})
}

func TestHandOverIsEndedByAbort(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		mine := errors.New("mine")
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			to.of(c)
			c.Close() // does nothing
			c.Abort(mine)
			return len(b)
		}})
		c := srv.dial()
		write(t, c, []byte{1})
		if got := await(t, to.ch, "the end of the hand-over"); got.conn != nil || got.err != mine {
			t.Errorf("handed over: %v, %v", got.conn, got.err)
		}
		srv.wantCause(mine)
		_, _ = io.ReadAll(c)
	}, "default", "epoll", "unix", "queues of 1 and 2")
}

func TestHandOverIsEndedByAPanic(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			to.of(c)
			panic("on purpose")
		}})
		c := srv.dial()
		write(t, c, []byte{1})
		var p *PanicError
		if got := await(t, to.ch, "the end of the hand-over"); got.conn != nil || !errors.As(got.err, &p) {
			t.Errorf("handed over: %v, %v", got.conn, got.err)
		}
		if err := srv.cause(); !errors.As(err, &p) {
			t.Errorf("OnClose was told %v", err)
		}
		_, _ = io.ReadAll(c)
	}, "default", "epoll", "unix")
}

// A panic in OnClose is no reason to lose a connection that goes on.
func TestHandOverOutlivesAPanicInOnClose(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{open: to.of, close: func(*Conn, error) { panic("on purpose") }})
		c := srv.dial()
		echoOn(t, to.next())
		wantEcho(t, c, payload(1, 100))
		if st := srv.Stats(); st.Panics != 1 {
			t.Errorf("%d panics", st.Panics)
		}
	}, "default", "epoll", "unix")
}

func TestHandOverWhileReadingIsPaused(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		refs := make(chan Ref, 1)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			c.PauseRead()
			refs <- c.Ref()
			return 1
		}})
		c := srv.dial()
		sent := payload(6, 30_000)
		write(t, c, sent[:1])
		ref := await(t, refs, "OnData")
		write(t, c, sent[1:])
		if err := ref.Post(to.of); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		conn := to.next()
		wantRest(t, conn, sent[1:])
		if err := ref.Send([]byte("x")); !errors.Is(err, ErrClosed) {
			t.Errorf("send by a Ref of a connection that was handed over: %v", err)
		}
		srv.wantHandedOver()
	})
}

func TestHandOverOutOfBulk(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		var want atomic.Bool
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if want.Load() {
				to.of(c)
				return 0
			}
			_, _ = c.Write(b)
			return len(b)
		}})
		c := srv.dial()
		srv.toBulk(c)
		want.Store(true)
		sent := payload(8, 2<<20)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		wantRest(t, to.next(), sent)
		srv.wantHandedOver()
	}, "default", "epoll", "no features", "no poll multishot", "unix")
}

// As long as the ring's table has the socket, closing it elsewhere closes nothing.
func TestHandOverOfADirectDescriptor(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if b[0] == 'h' {
				to.of(c)
				return 1
			}
			_, _ = c.Write(b)
			return len(b)
		}})
		c := srv.dial()
		for range 3 * directEnter {
			wantEcho(t, c, []byte("echo"))
		}
		if v.name == "default" && srv.loops[0].directs > 0 && srv.Stats().ToDirect == 0 {
			t.Error("it is not in the table of direct descriptors")
		}
		write(t, c, []byte("hand over"))
		conn := to.next()
		wantRead(t, conn, []byte("and over"))
		_ = conn.Close()
		wantRest(t, c, nil)
	})
}

// Shutdown waits for what is being handed over, and not for what has been.
func TestHandOverOnShutdown(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		opened := make(chan struct{}, 2)
		srv := serve(t, v.Options, script{
			open:     func(c *Conn) { opened <- struct{}{} },
			data:     func(c *Conn, b []byte) int { return 0 },
			shutdown: func(c *Conn) { _, _ = c.Write([]byte("bye")); to.of(c) },
		})
		c := srv.dial()
		write(t, c, []byte("kept"))
		await(t, opened, "OnOpen")
		until(t, "the bytes", func() bool { return srv.Stats().BytesReceived == 4 })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		conn := to.next()
		wantRead(t, c, []byte("bye"))
		wantRead(t, conn, []byte("kept"))
		echoOn(t, conn)
		wantEcho(t, c, payload(1, 1000))
		_ = c.CloseWrite()
		wantRest(t, c, nil)
	})
}

func TestHandOverIsCutByClose(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		opened := make(chan struct{})
		o := v.Options
		o.MaxBuffered = 32 << 20
		srv := serve(t, o, script{open: func(c *Conn) {
			_ = c.SetWriteBuffer(1 << 14)
			_, _ = c.Write(payload(3, 20<<20))
			to.of(c)
			close(opened)
		}})
		srv.dial()
		await(t, opened, "OnOpen")
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if got := await(t, to.ch, "the end of the hand-over"); got.conn != nil || !errors.Is(got.err, ErrServerClosed) {
			t.Errorf("handed over: %v, %v", got.conn, got.err)
		}
	}, "default", "epoll", "unix", "loops")
}

// A place of MaxConns is free again.
func TestHandOverGivesThePlaceBack(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		o := v.Options
		o.MaxConns = 1
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int { to.of(c); return 0 }})
		for i := range 5 {
			c := srv.dial()
			write(t, c, payload(uint64(i), 100))
			wantRead(t, to.next(), payload(uint64(i), 100))
		}
		if st := srv.Stats(); st.Connections != 0 || st.HandedOver != 5 {
			t.Errorf("%d connections, %d handed over", st.Connections, st.HandedOver)
		}
	}, "limited", "epoll limited", "loops least connections")
}

// A connection that is being handed over counts against nobody's input.
func TestHandOverOfADialledConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		srv := serve(t, v.Options, script{open: to.of})
		if err := srv.Dial(ln.Addr().String(), Dialer{}); err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = peer.Close() })
		echoOn(t, to.next())
		wantEcho(t, peer, payload(1, 5000))
	}, "default", "epoll", "no features")
}

// Many at once, in the middle of what they send, all with the right bytes.
func TestHandOverOfManyConnections(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			_ = c.HandOver(func(conn stdnet.Conn, err error) {
				if err != nil {
					t.Errorf("handed over: %v", err)
					return
				}
				_, _ = io.Copy(onlyWriter{conn}, onlyReader{conn})
				_ = conn.Close()
			})
			return 0
		}})
		size := 200_000
		if v.slow {
			size = 10_000
		}
		err := crowd(few(64), func(i int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			return exchange(c, payload(uint64(i), size))
		})
		if err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "loops", "small buffers", "queues of 1 and 2", "no features", "all small", "unix", "unix epoll")
}

// The front is part of the stream for all of std's methods.
func TestConnWithAFrontIsAsStdsIs(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		pair := func(t *testing.T) (stdnet.Conn, peerConn) {
			t.Helper()
			to := newHandOvers(t)
			srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int { to.of(c); return 0 }})
			c := srv.dial()
			write(t, c, []byte("front"))
			conn := to.next()
			srv.wantHandedOver()
			return conn, c
		}
		t.Run("Read in pieces", func(t *testing.T) {
			conn, c := pair(t)
			write(t, c, []byte(" and more"))
			b := make([]byte, 3)
			if n, err := conn.Read(nil); n != 0 || err != nil {
				t.Errorf("read into nothing: %d, %v", n, err)
			}
			if n, err := conn.Read(b); n != 3 || err != nil || string(b) != "fro" {
				t.Errorf("read %q, %v", b[:n], err)
			}
			if n, err := conn.Read(b); n != 2 || err != nil || string(b[:2]) != "nt" {
				t.Errorf("read %q, %v", b[:n], err)
			}
			wantRead(t, conn, []byte(" and more"))
		})
		t.Run("deadlines", func(t *testing.T) {
			conn, c := pair(t)
			_ = conn.SetReadDeadline(time.Now().Add(-time.Second))
			var timeout stdnet.Error
			var op *stdnet.OpError
			if n, err := conn.Read(make([]byte, 10)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() || !errors.As(err, &op) || op.Op != "read" {
				t.Errorf("read after the deadline: %d, %v", n, err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			wantRead(t, conn, []byte("front"))
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read until the deadline: %v", err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			write(t, c, []byte("more"))
			wantRead(t, conn, []byte("more"))
		})
		t.Run("Close", func(t *testing.T) {
			conn, c := pair(t)
			_ = conn.Close()
			if n, err := conn.Read(make([]byte, 10)); n != 0 || !errors.Is(err, stdnet.ErrClosed) {
				t.Errorf("read after Close: %d, %v", n, err)
			}
			wantRest(t, c, nil)
		})
		t.Run("halves", func(t *testing.T) {
			conn, c := pair(t)
			if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Error(err)
			}
			wantRest(t, c, nil)
			_ = c.CloseWrite()
			wantRest(t, conn, []byte("front"))
			if err := conn.(interface{ CloseRead() error }).CloseRead(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
				t.Error(err)
			}
		})
		t.Run("copy to another connection", func(t *testing.T) {
			conn, c := pair(t)
			ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			got := make(chan []byte, 1)
			go func() {
				to, err := ln.Accept()
				if err != nil {
					t.Error(err)
					close(got)
					return
				}
				b, _ := io.ReadAll(to)
				_ = to.Close()
				got <- b
			}()
			to, err := stdnet.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				write(t, c, payload(1, 300_000))
				_ = c.CloseWrite()
			}()
			t.Cleanup(func() { // of the pipes that std has for splice(2)
				runtime.GC()
				runtime.GC()
			})
			n, err := io.Copy(to, conn)
			if n != 300_005 || err != nil {
				t.Errorf("copied %d, %v", n, err)
			}
			_ = to.Close()
			if err := differ(await(t, got, "the copy"), append([]byte("front"), payload(1, 300_000)...)); err != nil {
				t.Error(err)
			}
		})
		t.Run("a copy that fails", func(t *testing.T) {
			conn, _ := pair(t)
			if _, err := io.Copy(failingWriter{}, conn); err == nil {
				t.Error("no error")
			}
		})
		t.Run("copy from a file", func(t *testing.T) {
			conn, c := pair(t)
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			write(t, f, payload(2, 100_000))
			_, _ = f.Seek(0, io.SeekStart)
			go func() {
				if _, err := io.Copy(conn, f); err != nil {
					t.Error(err)
				}
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			wantRest(t, c, payload(2, 100_000))
			wantRead(t, conn, []byte("front"))
		})
		t.Run("two readers", func(t *testing.T) {
			conn, c := pair(t)
			write(t, c, payload(3, 5000))
			_ = c.CloseWrite()
			all := make(chan int, 2)
			for range 2 {
				go func() {
					sum := 0
					for b := make([]byte, 2); ; {
						n, err := conn.Read(b)
						for _, x := range b[:n] {
							sum += int(x)
						}
						if err != nil {
							all <- sum
							return
						}
					}
				}()
			}
			want := 0
			for _, x := range append([]byte("front"), payload(3, 5000)...) {
				want += int(x)
			}
			if got := await(t, all, "a reader") + await(t, all, "a reader"); got != want {
				t.Errorf("the sum of all bytes is %d, want %d", got, want)
			}
		})
		t.Run("File", func(t *testing.T) {
			conn, c := pair(t)
			filer := conn.(interface{ File() (*os.File, error) })
			if f, err := filer.File(); err == nil {
				_ = f.Close()
				t.Error("File gives a descriptor that lacks the front")
			}
			wantRead(t, conn, []byte("front"))
			f, err := filer.File()
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			write(t, c, []byte("x"))
			wantRead(t, conn, []byte("x"))
		})
		t.Run("the methods of its own kind", func(t *testing.T) {
			conn, c := pair(t)
			switch conn := conn.(type) {
			case interface{ SetNoDelay(bool) error }:
				if err := conn.SetNoDelay(false); err != nil {
					t.Error(err)
				}
			case interface {
				ReadFromUnix([]byte) (int, *stdnet.UnixAddr, error)
				ReadFrom([]byte) (int, stdnet.Addr, error)
				ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *stdnet.UnixAddr, err error)
			}:
				b := make([]byte, 2)
				if n, _, err := conn.ReadFromUnix(b); n != 2 || err != nil {
					t.Errorf("ReadFromUnix: %d, %v", n, err)
				}
				if n, _, err := conn.ReadFrom(b); n != 2 || err != nil {
					t.Errorf("ReadFrom: %d, %v", n, err)
				}
				if n, _, _, _, err := conn.ReadMsgUnix(b, nil); n != 1 || err != nil {
					t.Errorf("ReadMsgUnix: %d, %v", n, err)
				}
				write(t, c, []byte("xyz"))
				for _, read := range []func() (int, error){
					func() (int, error) { n, _, err := conn.ReadFromUnix(b[:1]); return n, err },
					func() (int, error) { n, _, err := conn.ReadFrom(b[:1]); return n, err },
					func() (int, error) { n, _, _, _, err := conn.ReadMsgUnix(b[:1], nil); return n, err },
				} {
					if n, err := read(); n != 1 || err != nil {
						t.Errorf("behind the front: %d, %v", n, err)
					}
				}
			default:
				t.Errorf("a %T", conn)
			}
		})
	}, "default", "unix")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no") }

func TestHandOverRefusesWhatItCannotDo(t *testing.T) {
	closed := make(chan *Conn, 1)
	srv := serve(t, Options{Loops: 1}, script{
		open: func(c *Conn) {
			if err := c.HandOver(nil); err == nil {
				t.Error("HandOver to nobody")
			}
			c.Close()
			if err := c.HandOver(func(stdnet.Conn, error) { t.Error("called") }); !errors.Is(err, ErrClosed) {
				t.Errorf("HandOver after Close: %v", err)
			}
			if err := c.HandOverTo(&HandOverListener{}); !errors.Is(err, ErrClosed) {
				t.Errorf("HandOverTo after Close: %v", err)
			}
		},
		close: func(c *Conn, _ error) {
			if err := c.HandOver(func(stdnet.Conn, error) { t.Error("called") }); !errors.Is(err, ErrClosed) {
				t.Errorf("HandOver in OnClose: %v", err)
			}
			closed <- c
		},
	})
	srv.dial()
	await(t, closed, "OnClose")
}

// What happens on a connection that std has is none of the loop's business any more: an
// engine that went on watching its socket would wake for each byte.
func TestHandOverLeavesTheLoopAlone(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		to := newHandOvers(t)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int { to.of(c); return 0 }})
		c := srv.dial()
		write(t, c, []byte("hand over"))
		conn := to.next()
		wantRead(t, conn, []byte("hand over"))
		srv.wantHandedOver()
		if n := watchers(t, conn); n != 1 {
			t.Errorf("%d epoll sets have its socket, want Go's own alone", n)
		}
		echoOn(t, conn)
		before := srv.Stats().Turns
		const messages = 500
		for i := range messages {
			wantEcho(t, c, payload(uint64(i), 20))
		}
		if n := srv.Stats().Turns - before; n > messages/2 {
			t.Errorf("for %d messages on a connection of std's the loop had %d turns", messages, n)
		}
	}, "default", "epoll", "unix epoll", "no features")
}

// watchers is how many epoll sets of this process a connection's socket is in.
func watchers(t testing.TB, conn stdnet.Conn) (n int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if e := raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &st) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		b, _ := os.ReadFile(path) // it may have been closed
		if strings.Contains(string(b), fmt.Sprintf(" ino:%x ", st.Ino)) {
			n++
		}
	}
	return n
}
