//go:build linux

package net

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// blockingServer is a server whose connections are served by blocking code.
type blockingServer struct {
	*server
	causes chan error // what each OnClose was told
}

// told is a blocking handler that hears of the ends of its connections.
type told struct {
	*blocking
	causes chan error
}

func (h told) OnClose(c *Conn, err error) {
	h.blocking.OnClose(c, err)
	h.causes <- err
}

// serveBlocking starts a server that runs f for each connection.
func serveBlocking(t testing.TB, o Options, f func(s *Stream) error, addrs ...string) *blockingServer {
	t.Helper()
	return serveHow(t, o, newBlocking(f, false), addrs...)
}

func serveAtOpen(t testing.TB, o Options, f func(s *Stream) error) *blockingServer {
	t.Helper()
	return serveHow(t, o, newBlocking(f, true))
}

func serveHow(t testing.TB, o Options, h *blocking, addrs ...string) *blockingServer {
	t.Helper()
	s := &blockingServer{causes: make(chan error, 1<<14)}
	t.Cleanup(func() { // after the server's end
		if s.server != nil && s.Stats().Fibers != 0 {
			t.Errorf("after the end: %d fibers", s.Stats().Fibers)
		}
	})
	s.server = serveHandler(t, o, told{h, s.causes}, addrs...)
	return s
}

// wantEnd waits for an OnClose and holds its cause to want; nil stands for no error.
func (s *blockingServer) wantEnd(want error) {
	s.t.Helper()
	if got := await(s.t, s.causes, "OnClose"); !errors.Is(got, want) {
		s.t.Errorf("OnClose was told %v, want %v", got, want)
	}
}

// wantFibers waits until so many are left.
func (s *blockingServer) wantFibers(n uint64) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("%d fibers", n), func() bool { return s.Stats().Fibers == n })
}

// echoBlocking is what people write first.
func echoBlocking(s *Stream) error {
	b := make([]byte, 4096)
	for {
		n, err := s.Read(b)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.Write(b[:n]); err != nil {
			return err
		}
	}
}

// The ways of an echo in blocking code.
var blockingEchoes = []struct {
	name string
	f    func(s *Stream) error
}{
	{name: "read and write", f: echoBlocking},
	{name: "copy", f: func(s *Stream) error { _, err := io.Copy(s, s); return err }},
	{name: "one large buffer", f: func(s *Stream) error {
		b := make([]byte, 300_000)
		for {
			n, err := io.ReadAtLeast(s, b, 1)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
		}
	}},
	{name: "byte by byte", f: func(s *Stream) error {
		var b [1]byte
		for {
			if _, err := s.Read(b[:]); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if _, err := s.Write(b[:]); err != nil {
				return err
			}
		}
	}},
	{name: "leases", f: func(s *Stream) error {
		for {
			lease, err := s.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			_, err = s.Write(lease.Bytes())
			lease.Release()
			if err != nil {
				return err
			}
		}
	}},
}

func TestBlockingEcho(t *testing.T) {
	for _, e := range blockingEchoes {
		t.Run(e.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				s := serveBlocking(t, v.Options, e.f)
				sizes := []int{1, 64, 4096, 5000, 70_000, 400_000}
				if v.slow || e.name == "byte by byte" {
					sizes = []int{1, 64, 5000}
				}
				err := crowd(few(4), func(i int) error {
					c, err := connect(s.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					for _, n := range sizes {
						if err := exchange(c, payload(uint64(i), n)); err != nil {
							return fmt.Errorf("%d bytes: %w", n, err)
						}
					}
					if err := c.CloseWrite(); err != nil {
						return err
					}
					if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
						return fmt.Errorf("after the end: %d bytes, %w", n, err)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Bytes that are there already, or come in pieces, are read as by any net.Conn.
func TestStreamReadsWhatHasCome(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		want := payload(7, 3000)
		got := make(chan []byte, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			var all []byte
			for i := 1; ; i++ {
				b := make([]byte, i%50)
				n, err := s.Read(b)
				all = append(all, b[:n]...)
				if err == io.EOF {
					got <- all
					return nil
				}
				if err != nil {
					return err
				}
				if i%10 == 0 {
					if err := s.Sleep(time.Millisecond); err != nil { // what comes meanwhile is held
						return err
					}
				}
			}
		})
		c := s.dial()
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%700)
			write(t, c, rest[:n])
			rest = rest[n:]
		}
		_ = c.CloseWrite()
		if err := differ(await(t, got, "all that was sent"), want); err != nil {
			t.Error(err)
		}
		s.wantEnd(io.EOF)
	})
}

// A peer that sends more than is read has to wait, and nothing is lost.
func TestStreamHoldsLittleOfWhatIsNotRead(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		total := 8 << 20
		if v.slow {
			total = 1 << 20
		}
		begin := make(chan struct{})
		most := 0
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			if _, err := Await(s, func() (struct{}, error) { <-begin; return struct{}{}, nil }); err != nil {
				return err
			}
			b := make([]byte, 10_000)
			for got, want := 0, payload(3, total); ; {
				most = max(most, s.unread)
				n, err := s.Read(b)
				if err == io.EOF {
					if got != total {
						return fmt.Errorf("%d bytes of %d", got, total)
					}
					return nil
				}
				if err != nil {
					return err
				}
				if !bytes.Equal(b[:n], want[got:got+n]) {
					return fmt.Errorf("other bytes at %d", got)
				}
				got += n
			}
		})
		c := s.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(payload(3, total))
			_ = c.CloseWrite()
			sent <- err
		}()
		// It is stuck when nothing more comes.
		for before := uint64(0); ; time.Sleep(20 * time.Millisecond) {
			now := s.Stats().BytesReceived
			if now == before && now > 0 {
				break
			}
			before = now
		}
		if n := s.Stats().BytesReceived; n > 3<<20 {
			t.Errorf("%d bytes were received of which nobody has read any", n)
		}
		close(begin)
		if err := await(t, sent, "the peer to have sent everything"); err != nil {
			t.Error(err)
		}
		s.wantEnd(io.EOF)
		if most > 1<<20 {
			t.Errorf("%d bytes were held", most)
		}
	})
}

func TestStreamDeadlines(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		outcome := make(chan error, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) (err error) {
			defer func() { outcome <- err }()
			b := make([]byte, 10)
			if n, err := io.ReadFull(s, b[:1]); n != 1 {
				return fmt.Errorf("the first byte: %w", err)
			}
			timesOut := func(what string, f func() (int, error)) error {
				n, err := f()
				var ne stdnet.Error
				if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
					return fmt.Errorf("%s: %d, %w: want a timeout", what, n, err)
				}
				return nil
			}
			read := func() (int, error) { return s.Read(b) }
			write := func() (int, error) { return s.Write(b) }
			_ = s.SetDeadline(time.Now().Add(-time.Second))
			if err := errors.Join(timesOut("read, long past", read), timesOut("write, long past", write)); err != nil {
				return err
			}
			_ = s.SetDeadline(time.Time{})
			if _, err := s.Write([]byte{1}); err != nil {
				return fmt.Errorf("after the deadline was taken back: %w", err)
			}
			begin := time.Now()
			_ = s.SetReadDeadline(begin.Add(20 * time.Millisecond))
			for range 3 { // it stays over
				if err := timesOut("read", read); err != nil {
					return err
				}
			}
			if d := time.Since(begin); d < 20*time.Millisecond {
				return fmt.Errorf("a deadline of 20 ms was over after %v", d)
			}
			// Moved by another fiber while this one waits: put off, and then made past.
			_ = s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := s.Spawn(func() error {
				_ = s.SetReadDeadline(time.Now().Add(time.Hour))
				if err := s.Sleep(30 * time.Millisecond); err != nil {
					return err
				}
				return s.SetReadDeadline(time.Unix(1, 0))
			}); err != nil {
				return err
			}
			begin = time.Now()
			if err := timesOut("read, moved", read); err != nil {
				return err
			}
			if d := time.Since(begin); d < 30*time.Millisecond {
				return fmt.Errorf("a deadline that was put off was over after %v", d)
			}
			// And the connection is as it was.
			_ = s.SetDeadline(time.Time{})
			if _, err := s.Write([]byte{2}); err != nil {
				return err
			}
			if n, err := io.ReadFull(s, b[:3]); n != 3 || string(b[:3]) != "end" {
				return fmt.Errorf("%q, %w", b[:n], err)
			}
			return nil
		})
		c := s.dial()
		write(t, c, []byte{1})
		wantRead(t, c, []byte{1, 2})
		write(t, c, []byte("end"))
		if err := await(t, outcome, "the function to return"); err != nil {
			t.Error(err)
		}
		s.wantEnd(nil)
	})
}

// A write that waits for the peer is cut short by its deadline, by the Close of another
// fiber and by the end of the connection; what it says was sent is what comes.
func TestStreamWriteIsCutShort(t *testing.T) {
	for _, how := range []struct {
		name string
		cut  func(s *Stream) error
		want error
	}{
		{name: "deadline", want: os.ErrDeadlineExceeded, cut: func(s *Stream) error {
			return s.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
		}},
		{name: "close", want: ErrClosed, cut: func(s *Stream) error {
			if err := s.Sleep(30 * time.Millisecond); err != nil {
				return err
			}
			return s.Close()
		}},
		{name: "abort", want: errOops, cut: func(s *Stream) error {
			if err := s.Sleep(30 * time.Millisecond); err != nil {
				return err
			}
			s.Conn().Abort(errOops)
			return nil
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				for _, piece := range []int{1000, 1 << 20} {
					t.Run(fmt.Sprint(piece), func(t *testing.T) {
						all := payload(5, 16<<20)
						type outcome struct {
							n   int
							err error
						}
						got := make(chan outcome, 1)
						s := serveBlocking(t, v.Options, func(s *Stream) error {
							if _, err := s.Read(make([]byte, 1)); err != nil {
								return err
							}
							if _, err := s.Spawn(func() error { return how.cut(s) }); err != nil {
								return err
							}
							n := 0
							for n < len(all) {
								m, err := s.Write(all[n : n+min(piece, len(all)-n)])
								n += m
								if err != nil {
									got <- outcome{n, err}
									_ = s.SetWriteDeadline(time.Time{})
									return nil
								}
							}
							got <- outcome{n, nil}
							return nil
						})
						c := s.dial()
						write(t, c, []byte{1})
						o := await(t, got, "the write to end")
						if !errors.Is(o.err, how.want) || o.n == len(all) {
							t.Errorf("%d bytes written, %v: want %v", o.n, o.err, how.want)
						}
						if how.want == errOops {
							_ = c.Close()
							return
						}
						rest, err := io.ReadAll(c)
						if err != nil {
							t.Error(err)
						}
						if err := differ(rest, all[:o.n]); err != nil {
							t.Errorf("of %d bytes: %v", o.n, err)
						}
					})
				}
			}, "default", "epoll", "no features", "low water marks", "small buffers", "queues of 1 and 2", "unix", "unix epoll")
		})
	}
}

var errOops = errors.New("oops")

// How a connection ends, and what is heard of it.
func TestBlockingFunctionEnds(t *testing.T) {
	type ended struct {
		name string
		f    func(s *Stream) error
		want error
		all  bool // the peer gets what was written
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range []ended{
			{name: "with nil", f: func(*Stream) error { return nil }, all: true},
			{name: "with an error", f: func(*Stream) error { return errOops }, want: errOops, all: true},
			{name: "by Close", f: func(s *Stream) error { return s.Close() }, all: true},
			{name: "by a panic", f: func(*Stream) error { panic(errOops) }, want: errPanic},
			{name: "by Goexit", f: func(*Stream) error { runtime.Goexit(); return nil }, want: errPanic},
			{name: "by a panic in what it spawned", want: errPanic, f: func(s *Stream) error {
				if _, err := s.Spawn(func() error { panic(errOops) }); err != nil {
					return err
				}
				if err := s.Sleep(time.Hour); !errors.Is(err, ErrClosed) {
					t.Errorf("sleep: %v", err)
				}
				return nil
			}},
			{name: "by Goexit in what it spawned", want: errPanic, f: func(s *Stream) error {
				f, err := s.Spawn(func() error { runtime.Goexit(); return nil })
				if err != nil {
					return err
				}
				return f.Wait()
			}},
		} {
			t.Run(e.name, func(t *testing.T) {
				s := serveBlocking(t, v.Options, func(s *Stream) error {
					if _, err := s.Read(make([]byte, 10)); err != nil {
						return err
					}
					if _, err := s.Write(make([]byte, 70_000)); err != nil {
						return err
					}
					return e.f(s)
				})
				for range 3 { // the loop goes on
					c := s.dial()
					write(t, c, []byte("hello"))
					got, err := io.ReadAll(c)
					if e.all && (err != nil || len(got) != 70_000) {
						t.Errorf("the peer got %d bytes, %v", len(got), err)
					}
					cause := await(t, s.causes, "OnClose")
					var p *PanicError
					if e.want == errPanic {
						if !errors.As(cause, &p) {
							t.Errorf("OnClose was told %v, want a panic", cause)
						}
					} else if !errors.Is(cause, e.want) {
						t.Errorf("OnClose was told %v, want %v", cause, e.want)
					}
					_ = c.Close()
				}
				s.wantFibers(0)
			})
		}
	}, "default", "epoll", "loops", "no features", "queues of 1 and 2", "unix")
}

var errPanic = errors.New("a panic")

// Whatever fibers wait for, the end of their connection ends it, however it comes.
func TestEndOfConnectionWakesItsFibers(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, end := range []struct {
			name string
			by   func(srv *blockingServer, s *Stream, c peerConn)
			want error
		}{
			{name: "reset", want: syscall.ECONNRESET, by: func(_ *blockingServer, _ *Stream, c peerConn) {
				_ = c.SetLinger(0)
				_ = c.Close()
			}},
			{name: "close from another goroutine", want: ErrClosed, by: func(_ *blockingServer, s *Stream, _ peerConn) {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}},
			{name: "server closed", want: ErrServerClosed, by: func(srv *blockingServer, _ *Stream, _ peerConn) {
				go srv.Close()
			}},
		} {
			t.Run(end.name, func(t *testing.T) {
				if end.want == syscall.ECONNRESET {
					needTCP(t, "reset")
				}
				nowhere, err := stdnet.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = nowhere.Close() })
				full := fullListener(t)
				ready := make(chan *Stream)
				errs := make(chan error, 100)
				release := make(chan struct{})
				defer close(release)
				s := serveBlocking(t, v.Options, func(s *Stream) error {
					if _, err := s.Read(make([]byte, 1)); err != nil {
						return err
					}
					// Two each: one waits for what the other waits for.
					waits := map[string]func() error{
						"sleep": func() error { return s.Sleep(time.Hour) },
						"await": func() error {
							_, err := Await(s, func() (int, error) { <-release; return 0, nil })
							return err
						},
						"dial": func() error {
							up, err := s.Dial(full, Dialer{})
							if err == nil {
								_ = up.Close()
								err = errors.New("connected")
							}
							return err
						},
						"read": func() error { _, err := s.Read(make([]byte, 1)); return err },
						"next": func() error { _, err := s.Next(); return err },
						"write": func() error {
							for {
								if _, err := s.Write(make([]byte, 100_000)); err != nil {
									return err
								}
							}
						},
						"small write": func() error {
							for {
								if _, err := s.Write(make([]byte, 1000)); err != nil {
									return err
								}
							}
						},
						"another stream": func() error {
							up, err := s.Dial(nowhere.Addr().String(), Dialer{})
							if err != nil {
								return err
							}
							defer up.Close()
							_, err = up.Read(make([]byte, 1))
							return err
						},
					}
					for name, f := range waits {
						for range 2 {
							fiber, err := s.Spawn(func() error {
								err := f()
								if err != nil {
									err = fmt.Errorf("%s: %w", name, err)
								}
								errs <- err
								return err
							})
							if err != nil {
								return err
							}
							if _, err := s.Spawn(fiber.Wait); err != nil {
								return err
							}
						}
					}
					if err := s.Sleep(20 * time.Millisecond); err != nil {
						return err
					}
					ready <- s
					err := s.Sleep(time.Hour)
					errs <- err
					return err
				})
				c := s.dial()
				write(t, c, []byte{1})
				end.by(s, await(t, ready, "the fibers to wait"), c)
				for range 17 {
					if err := await(t, errs, "fibers to return"); !errors.Is(err, end.want) && !errors.Is(err, ErrClosed) && !errors.Is(err, syscall.EPIPE) {
						t.Errorf("%v, want %v", err, end.want)
					}
				}
				if end.name != "server closed" {
					s.wantFibers(0)
				}
			})
		}
	}, "default", "epoll", "loops", "no features", "queues of 1 and 2", "small buffers", "unix", "unix epoll")
}

// A function that has ended its direction can read to the end, at its leisure.
func TestStreamLivesWhenBothDirectionsHaveEnded(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		all := payload(9, 3000)
		outcome := make(chan error, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) (err error) {
			defer func() { outcome <- err }()
			if err := s.CloseWrite(); err != nil {
				return err
			}
			if _, err := s.Write([]byte{1}); !errors.Is(err, ErrClosed) {
				return fmt.Errorf("a write after CloseWrite: %w", err)
			}
			for !s.eof { // the end has come, and nothing but the first bytes was read
				if err := s.Sleep(time.Millisecond); err != nil {
					return err
				}
			}
			got, err := io.ReadAll(s)
			return errors.Join(err, differ(got, all))
		})
		c := s.dial()
		write(t, c, all)
		_ = c.CloseWrite()
		wantRest(t, c, nil)
		if err := await(t, outcome, "the function to return"); err != nil {
			t.Error(err)
		}
		s.wantEnd(io.EOF)
	})
}

// What comes before the first byte: nothing, and it costs no fiber.
func TestBlockingFunctionBeginsWithTheFirstByte(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		began := make(chan struct{}, 10)
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			began <- struct{}{}
			_, err := io.Copy(s, s)
			return err
		})
		silent, gone, ends, speaks := s.dial(), s.dial(), s.dial(), s.dial()
		until(t, "four connections", func() bool { return s.Stats().Connections == 4 })
		if n := s.Stats().FibersStarted; n != 0 {
			t.Errorf("%d fibers before any byte", n)
		}
		if !onUnix(t) {
			_ = gone.SetLinger(0)
			_ = gone.Close()
			s.wantEnd(syscall.ECONNRESET)
			if n := s.Stats().FibersStarted; n != 0 {
				t.Errorf("%d fibers after a reset", n)
			}
		}
		_ = ends.CloseWrite()
		await(t, began, "a function to begin with the end of the stream")
		wantRest(t, ends, nil)
		write(t, speaks, []byte("hello"))
		await(t, began, "a function to begin with the first byte")
		wantRead(t, speaks, []byte("hello"))
		if n := s.Stats().FibersStarted; n != 2 {
			t.Errorf("%d fibers, want 2", n)
		}
		_ = silent
	})
}

func TestBlockingAtOpenSpeaksFirst(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		s := serveAtOpen(t, v.Options, func(s *Stream) error {
			if _, err := s.Write([]byte("welcome")); err != nil {
				return err
			}
			_, err := io.Copy(s, s)
			return err
		})
		c := s.dial()
		wantRead(t, c, []byte("welcome"))
		wantEcho(t, c, payload(1, 10_000))
	})
}

// Shutdown ends functions that wait for their peer, and lets others finish.
func TestShutdownLetsBlockingFunctionsFinish(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		working, begun := make(chan struct{}), make(chan *Stream, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			b := make([]byte, 4)
			for {
				if _, err := io.ReadFull(s, b); err != nil {
					return err
				}
				if string(b) == "work" {
					begun <- s
					if _, err := Await(s, func() (int, error) { <-working; return 0, nil }); err != nil {
						return err
					}
					if !s.ShuttingDown() {
						t.Error("it is not told of the shutdown")
					}
				}
				if _, err := s.Write(b); err != nil {
					return err
				}
			}
		})
		idle, busy, silent := s.dial(), s.dial(), s.dial()
		wantEcho(t, idle, []byte("idle"))
		write(t, busy, []byte("work"))
		works := await(t, begun, "the work to begin").l.index
		until(t, "all to be open", func() bool { return s.Stats().Connections == 3 })
		ended := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			ended <- s.Shutdown(ctx)
		}()
		wantRest(t, idle, nil)
		wantRest(t, silent, nil)
		// Those may be of other loops.
		until(t, "the loop to be told of the shutdown", func() bool {
			told := false
			s.onLoop(works, func(l *loop) { told = l.draining })
			return told
		})
		close(working)
		wantRest(t, busy, []byte("work"))
		if err := await(t, ended, "the shutdown"); err != nil {
			t.Error(err)
		}
		for range 3 {
			if err := await(t, s.causes, "OnClose"); !errors.Is(err, ErrServerClosed) {
				t.Errorf("OnClose was told %v", err)
			}
		}
	})
}

// A Stream off its loop answers an error, and nothing of the loop is touched: the race
// detector would see that.
func TestStreamOffItsLoopIsAnError(t *testing.T) {
	s := serveBlocking(t, Options{Loops: 2, poison: true}, func(s *Stream) error {
		errs := make(chan error, 100)
		var wrong atomic.Int32
		all := func() {
			b := make([]byte, 10)
			check := func(err error) {
				if !errors.Is(err, ErrOffLoop) {
					wrong.Add(1)
					errs <- err
				}
			}
			_, err := s.Read(b)
			check(err)
			_, err = s.Write(b)
			check(err)
			_, err = s.Next()
			check(err)
			_, err = s.WriteTo(io.Discard)
			check(err)
			_, err = s.ReadFrom(bytes.NewReader(b))
			check(err)
			_, err = s.SendFile(nil, 0, 0)
			check(err)
			_, err = s.SyscallConn()
			check(err)
			_, err = s.Dial("127.0.0.1:1", Dialer{})
			check(err)
			_, err = s.Spawn(func() error { return nil })
			check(err)
			_, err = Await(s, func() (int, error) { return 0, nil })
			check(err)
			check(s.Sleep(0))
			check(s.CloseRead())
			check(s.CloseWrite())
			if s.Conn() != nil || s.LocalAddr() != (Addr{}) || s.ShuttingDown() {
				errs <- errors.New("something is told")
			}
			_ = s.RemoteAddr().String()
			_ = s.SetDeadline(time.Now().Add(time.Hour))
			_ = s.SetReadDeadline(time.Time{})
		}
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 200 {
				all()
			}
			close(stop)
		}()
		b := make([]byte, 100)
		for { // meanwhile the fiber works
			n, err := s.Read(b)
			if err != nil {
				return err
			}
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
			select {
			case <-stop:
				<-done
				if wrong.Load() > 0 || len(errs) > 0 {
					return fmt.Errorf("on another goroutine: %d wrong answers, such as %w", wrong.Load(), <-errs)
				}
				return nil
			default:
			}
		}
	})
	c := s.dial()
	for {
		if err := exchange(c, []byte("hello")); err != nil {
			break
		}
	}
	s.wantEnd(nil)
}

// Else a fiber that does not look at errors would keep its loop for ever.
func TestFiberThatIgnoresItsEndIsEnded(t *testing.T) {
	for name, f := range map[string]func(s *Stream){
		"sleep": func(s *Stream) { _ = s.Sleep(time.Hour) },
		"read":  func(s *Stream) { _, _ = s.Read(make([]byte, 1)) },
		"write": func(s *Stream) { _, _ = s.Write(make([]byte, 1)) },
		"spawn": func(s *Stream) { _, _ = s.Spawn(func() error { return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
				_ = s.Close()
				for {
					f(s)
				}
			})
			c := s.dial()
			write(t, c, []byte{1})
			await(t, s.causes, "OnClose")
			s.wantFibers(0)
			if !strings.Contains(s.log.String(), "does not look at errors") {
				t.Errorf("the log does not say why:\n%s", s.log)
			}
		})
	}
}

// What a function has not read goes with the connection, wherever it was by then.
func TestStreamIsHandedOverWithWhatIsUnread(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		all := payload(6, 20_000)
		for _, how := range []struct {
			name  string
			pause time.Duration // what comes in it is held
		}{{name: "at once"}, {name: "later", pause: 10 * time.Millisecond}} {
			t.Run(how.name, func(t *testing.T) {
				outcome := make(chan error, 1)
				s := serveBlocking(t, v.Options, func(s *Stream) error {
					if _, err := io.ReadFull(s, make([]byte, 100)); err != nil {
						return err
					}
					if how.pause > 0 {
						if err := s.Sleep(how.pause); err != nil {
							return err
						}
					}
					if _, err := s.Spawn(func() error { _, err := s.Read(make([]byte, 1)); return err }); err != nil {
						return err
					}
					if _, err := s.Write([]byte("first")); err != nil {
						return err
					}
					err := s.HandOver(func(c stdnet.Conn, err error) {
						if err != nil {
							outcome <- err
							return
						}
						_ = c.SetDeadline(time.Now().Add(patience))
						got, err := io.ReadAll(c)
						_, writeErr := c.Write([]byte(" second"))
						outcome <- errors.Join(err, differ(got, all[100:]), writeErr, c.Close())
					})
					if _, readErr := s.Read(make([]byte, 1)); !errors.Is(readErr, ErrClosed) {
						return fmt.Errorf("a read after it: %w", readErr)
					}
					return err
				})
				c := s.dial()
				sent := make(chan error, 1)
				go func() {
					_, err := c.Write(all)
					sent <- errors.Join(err, c.CloseWrite())
				}()
				wantRest(t, c, []byte("first second"))
				if err := errors.Join(await(t, sent, "the peer"), await(t, outcome, "the new owner")); err != nil {
					t.Error(err)
				}
				s.wantEnd(ErrHandedOver)
				s.wantFibers(0)
			})
		}
	})
}

func TestWaitingInACallbackIsAnError(t *testing.T) {
	errs := make(chan error, 1)
	s := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
		s.Conn().AfterFunc(0, func(*Conn) {
			b := make([]byte, 10)
			n, firstErr := s.Read(b) // what is there
			_, readErr := s.Read(b)
			sleepErr := s.Sleep(time.Millisecond)
			_, writeErr := s.Write([]byte("from a callback"))
			switch {
			case n != 2 || firstErr != nil:
				errs <- fmt.Errorf("the first read: %d, %w", n, firstErr)
			case !errors.Is(readErr, ErrNotOnFiber) || !errors.Is(sleepErr, ErrNotOnFiber):
				errs <- fmt.Errorf("read: %w; sleep: %w", readErr, sleepErr)
			default:
				errs <- writeErr
			}
		})
		if err := s.Sleep(10 * time.Millisecond); err != nil {
			return err
		}
		_, err := s.Read(make([]byte, 1))
		return err
	})
	c := s.dial()
	write(t, c, []byte{1, 2})
	if err := await(t, errs, "the callback"); err != nil {
		t.Error(err)
	}
	wantRead(t, c, []byte("from a callback"))
}
