//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proxy is two copies, one of them on a fiber of its own.
func proxy(to string) func(s *Stream) error {
	return func(s *Stream) error {
		up, err := s.Dial(to, Dialer{})
		if err != nil {
			return err
		}
		defer up.Close()
		back, err := s.Spawn(func() error {
			_, err := io.Copy(s, up)
			return errors.Join(err, s.CloseWrite())
		})
		if err != nil {
			return err
		}
		if _, err := io.Copy(up, s); err != nil {
			return err
		}
		return errors.Join(up.CloseWrite(), back.Wait())
	}
}

func TestProxyOfTwoCopies(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		behind := serveBlocking(t, v.Options, echoBlocking)
		s := serveBlocking(t, v.Options, proxy(behind.addr().String()))
		sizes := []int{1, 1000, 100_000, 2 << 20}
		if v.slow {
			sizes = []int{1, 1000, 20_000}
		}
		err := crowd(3, func(i int) error {
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
			// The end of the stream goes through, and what was on its way comes back.
			p := payload(uint64(i), sizes[2])
			if _, err := c.Write(p); err != nil {
				return err
			}
			if err := c.CloseWrite(); err != nil {
				return err
			}
			got, err := io.ReadAll(c)
			return errors.Join(err, differ(got, p))
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// One that reads slowly holds the other up, and nothing piles up between them.
func TestCopyPushesBack(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		total := 12 << 20
		if v.slow {
			total = 1 << 20
		}
		ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		// An armed receive takes what comes while there are buffers, on Linux 6.1 in
		// one go for as long as the peer sends.
		o := v.Options
		if o.RecvBufs == 0 && o.RecvBufBytes == 0 {
			o.RecvBufs = 256
		}
		s := serveBlocking(t, o, func(s *Stream) error {
			// All that the kernel holds may come in one turn, when the loop did not
			// get to run for a while, and sockets grow to 6 MiB by themselves.
			if err := s.Conn().SetReadBuffer(256 << 10); err != nil {
				return err
			}
			return proxy(ln.Addr().String())(s)
		})
		c := s.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(payload(8, total))
			sent <- errors.Join(err, c.CloseWrite())
		}()
		to, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		_ = to.SetDeadline(time.Now().Add(2 * patience))
		held := 0
		got := make([]byte, 0, total)
		for b := make([]byte, 100_000); len(got) < total; {
			if len(got) < 1<<20 {
				time.Sleep(2 * time.Millisecond)
				held = max(held, s.Stats().HeldBytes)
			}
			n, err := to.Read(b)
			got = append(got, b[:n]...)
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
		}
		if err := differ(got, payload(8, total)); err != nil {
			t.Error(err)
		}
		if held > 3<<20 {
			t.Errorf("%d bytes were held", held)
		}
		_ = to.Close()
		if err := await(t, sent, "the sender"); err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "no bulk", "low water marks", "small buffers", "all small", "queues of 1 and 2")
}

func TestCopyOfFiles(t *testing.T) {
	dir := t.TempDir()
	content := payload(4, 700_000)
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, content, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name string
		f    func(s *Stream, f *os.File) (int64, error)
		want []byte
		file bool
	}{
		{name: "whole", want: content, file: true, f: func(s *Stream, f *os.File) (int64, error) { return io.Copy(s, f) }},
		{name: "from an offset", want: content[1000:], file: true, f: func(s *Stream, f *os.File) (int64, error) {
			if _, err := f.Seek(1000, io.SeekStart); err != nil {
				return 0, err
			}
			return io.Copy(s, f)
		}},
		{name: "limited", want: content[:300_001], file: true, f: func(s *Stream, f *os.File) (int64, error) { return io.CopyN(s, f, 300_001) }},
		{name: "small", want: content[:10], file: true, f: func(s *Stream, f *os.File) (int64, error) { return io.CopyN(s, f, 10) }},
		{name: "in two parts", want: content, file: true, f: func(s *Stream, f *os.File) (int64, error) {
			n, err := io.CopyN(s, f, 100_000)
			if err != nil {
				return n, err
			}
			m, err := io.Copy(s, f)
			return n + m, err
		}},
		{name: "at its end", want: nil, file: true, f: func(s *Stream, f *os.File) (int64, error) {
			if _, err := f.Seek(0, io.SeekEnd); err != nil {
				return 0, err
			}
			return io.Copy(s, f)
		}},
		{name: "of something else", want: content, f: func(s *Stream, _ *os.File) (int64, error) {
			return io.Copy(s, struct{ io.Reader }{bytes.NewReader(content)})
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.Close() })
				var at int64
				s := serveBlocking(t, v.Options, func(s *Stream) error {
					if _, err := s.Read(make([]byte, 1)); err != nil {
						return err
					}
					if n, err := way.f(s, f); n != int64(len(way.want)) || err != nil {
						return fmt.Errorf("%d bytes, %w", n, err)
					}
					at, _ = f.Seek(0, io.SeekCurrent) // which shows besides that it is open still
					_, err := s.Write([]byte("behind"))
					return err
				})
				s.workers = !tellsOfWaiting(f)
				c := s.dial()
				write(t, c, []byte{1})
				wantRest(t, c, append(way.want[:len(way.want):len(way.want)], "behind"...))
				s.wantEnd(nil)
				files := s.Stats().Files
				if way.file && (files == 0 || at < 10) || !way.file && files != 0 {
					t.Errorf("%d files were sent as such, and it is at %d", files, at)
				}
			}, "default", "epoll", "no features", "low water marks", "small buffers", "queues of 1 and 2", "unix")
		})
	}
}

// Data that is copied between connections stays in the buffers that it came in.
func TestCopyBetweenStreamsCopiesNothing(t *testing.T) {
	s := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error { _, err := io.Copy(s, s); return err })
	c := s.dial()
	copies := 0
	for range 100 {
		wantEcho(t, c, payload(1, 1000))
		s.onLoop(0, func(l *loop) {
			for _, p := range l.copies {
				copies += p.Out()
			}
		})
	}
	if copies > 0 {
		t.Errorf("%d copies", copies)
	}
}

func TestStreamsOfTwoLoopsCannotBeCopied(t *testing.T) {
	streams := make(chan *Stream, 2)
	s := serveAtOpen(t, Options{Loops: 2, Placement: RoundRobin, poison: true}, func(s *Stream) error {
		if len(streams) == 0 {
			streams <- s
			_, err := s.Read(make([]byte, 1))
			return err
		}
		_, err := io.Copy(<-streams, s)
		return err
	})
	a := s.dial()
	until(t, "the first stream", func() bool { return len(streams) == 1 })
	b := s.dial()
	wantRest(t, b, nil)
	if err := await(t, s.causes, "OnClose"); !errors.Is(err, ErrOffLoop) || !strings.Contains(err.Error(), "lives on loop") {
		t.Errorf("it answers %v", err)
	}
	_ = a.Close()
}

// A copy within a limit takes what it may have, in the middle of a buffer, and what is
// behind that is read by who comes next.
func TestCopyWithinALimit(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		parts := []int{1, 100, 5000, 0, 200_000, 1}
		if v.slow {
			parts = []int{1, 100, 5000, 0, 1}
		}
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			b := make([]byte, 3)
			for _, n := range parts {
				if m, err := io.CopyN(s, s, int64(n)); m != int64(n) || err != nil {
					return fmt.Errorf("%d of %d bytes copied: %w", m, n, err)
				}
				if _, err := io.ReadFull(s, b); err != nil {
					return err
				}
				if _, err := s.Write(append([]byte("<"), append(b, '>')...)); err != nil {
					return err
				}
			}
			if m, err := io.CopyN(s, s, 100); m != 7 || err != io.EOF {
				return fmt.Errorf("%d bytes copied before the end of the stream: %w", m, err)
			}
			return nil
		})
		var in, want []byte
		for i, n := range parts {
			p := payload(uint64(i), n)
			in = append(append(in, p...), "abc"...)
			want = append(append(want, p...), "<abc>"...)
		}
		c := s.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(append(in, "the end"...))
			sent <- errors.Join(err, c.CloseWrite())
		}()
		wantRest(t, c, append(want, "the end"...))
		if err := await(t, sent, "the sender"); err != nil {
			t.Error(err)
		}
		s.wantEnd(io.EOF)
	})
}

// Whatever ends a copy, it tells how many bytes went over, and the others are still there.
func TestWhatEndsACopy(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		steps := make(chan string, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			copied := func(want int64, what error) error {
				n, err := io.Copy(s, s)
				if n != want || !errors.Is(err, what) {
					return fmt.Errorf("%d bytes copied, %w: want %d, %v", n, err, want, what)
				}
				return nil
			}
			// A deadline for reading, while it waits.
			f, err := s.Spawn(func() error {
				for s.c.out.bytes > 0 || len(steps) == 0 {
					if err := s.Sleep(time.Millisecond); err != nil {
						return err
					}
				}
				<-steps
				return s.moveDeadlineTo(longPast, true, false)
			})
			if err != nil {
				return err
			}
			if err := copied(5, os.ErrDeadlineExceeded); err != nil {
				return err
			}
			if err := f.Wait(); err != nil {
				return err
			}
			// One for writing, which was over before; and the bytes that came in vain.
			if err := s.moveDeadlineTo(0, true, true); err != nil {
				return err
			}
			if _, err := s.Write([]byte("2")); err != nil {
				return err
			}
			if err := s.moveDeadlineTo(longPast, false, true); err != nil {
				return err
			}
			if err := copied(0, os.ErrDeadlineExceeded); err != nil {
				return err
			}
			if err := s.moveDeadlineTo(0, false, true); err != nil {
				return err
			}
			b := make([]byte, 6)
			if _, err := io.ReadFull(s, b); err != nil || string(b) != "second" {
				return fmt.Errorf("read %q behind a copy that has failed: %w", b, err)
			}
			if _, err := s.Write([]byte("3")); err != nil {
				return err
			}
			// The end of reading, by another fiber.
			if _, err := s.Spawn(s.CloseRead); err != nil {
				return err
			}
			if err := copied(0, nil); err != nil {
				return err
			}
			// There is nothing to write, so it does not matter that nothing could be.
			if err := s.CloseWrite(); err != nil {
				return err
			}
			return copied(0, nil)
		})
		c := s.dial()
		wantEcho(t, c, []byte("first"))
		steps <- "it has come back"
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		write(t, c, []byte("second"))
		wantRest(t, c, []byte("3"))
		s.wantEnd(nil)
	})
}

// A loop that holds too much lets a copy have a piece at a time.
func TestCopyOfACrowdedLoop(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.MaxLoopBytes = 64 << 10
		o.HighWater, o.LowWater, o.MaxBuffered = 4<<20, 1<<20, 4<<20
		ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		s := serveBlocking(t, o, proxy(ln.Addr().String()))
		total := 4 << 20
		c := s.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(payload(8, total))
			sent <- errors.Join(err, c.CloseWrite())
		}()
		to, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		_ = to.SetDeadline(time.Now().Add(2 * patience))
		until(t, "the loop to hold what it may", func() bool { return s.Stats().HeldBytes > 32<<10 || len(sent) > 0 })
		got := make([]byte, total)
		if _, err := io.ReadFull(to, got); err != nil {
			t.Fatal(err)
		}
		if err := differ(got, payload(8, total)); err != nil {
			t.Error(err)
		}
		_ = to.Close()
		if err := await(t, sent, "the sender"); err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "no bulk", "unix")
}

// A copy finds out by itself that the peer has gone that it sends to, and its fiber
// belongs to that one.
func TestPeerGoesAwayDuringACopy(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		behind := serveAtOpen(t, v.Options, func(s *Stream) error {
			for b := payload(1, 300_000); ; {
				if _, err := s.Write(b); err != nil {
					return nil // as it must end
				}
			}
		})
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			if _, err := s.Read(make([]byte, 1)); err != nil {
				return err
			}
			up, err := s.Dial(behind.addr().String(), Dialer{})
			if err != nil {
				return err
			}
			defer up.Close()
			// A sender that finds the window shut asks an end that is closed, and has
			// nothing unread, for minutes; it is not told by a reset.
			if up.RemoteAddr().Network() == "tcp" {
				if err := up.Conn().SetLinger(0); err != nil {
					return err
				}
			}
			s.Conn().PauseRead() // or it would be told
			_, err = io.Copy(s, up)
			return err
		})
		c := s.dial()
		write(t, c, []byte{1})
		n := 1 << 20
		if v.slow {
			n = 20_000
		}
		if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
			t.Fatal(err)
		}
		var op *OpError
		if err := await(t, s.causes, "OnClose"); !errors.As(err, &op) || op.Op != "write" {
			t.Errorf("OnClose was told %v", err)
		}
		s.wantFibers(0)
		if n := s.Stats().Panics; n != 0 {
			t.Errorf("%d panics", n)
		}
	})
}

// In a callback nothing can wait, but what has come can be copied.
func TestCopyInACallback(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		done := make(chan error, 1)
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			s.Conn().AfterFunc(0, func(*Conn) {
				n, err := io.Copy(s, s)
				if n != 5 || !errors.Is(err, ErrNotOnFiber) {
					err = fmt.Errorf("%d bytes copied, %w", n, err)
				} else {
					err = nil
				}
				done <- err
				_ = s.Close()
			})
			_ = s.Sleep(time.Hour) // until then
			return nil
		})
		c := s.dial()
		wantEcho(t, c, []byte("hello"))
		if err := await(t, done, "the callback"); err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "unix")
}
