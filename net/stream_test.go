//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A loop that may hold little makes its fibers wait, and refuses nothing.
func TestStreamsWaitWhereTheLoopHoldsTooMuch(t *testing.T) {
	for _, e := range blockingEchoes[:3] {
		t.Run(e.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) {
				o := v.Options
				o.MaxLoopBytes, o.HighWater, o.LowWater, o.MaxBuffered = 64<<10, 16<<10, 4<<10, 32<<10
				s := serveBlocking(t, o, e.f)
				err := crowd(12, func(i int) error {
					c, err := connect(s.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					return exchange(c, payload(uint64(i), 600_000))
				})
				if err != nil {
					t.Error(err)
				}
			}, "default", "epoll", "no bulk", "unix")
		})
	}
}

// inFiber runs f for a connection that sends a byte, and returns what it returned.
func inFiber(t *testing.T, o Options, f func(s *Stream) error) error {
	t.Helper()
	outcome := make(chan error, 1)
	s := serveBlocking(t, o, func(s *Stream) (err error) {
		defer func() { outcome <- err }()
		if _, err := s.Read(make([]byte, 1)); err != nil {
			return err
		}
		return f(s)
	})
	c := s.dial()
	write(t, c, []byte{1})
	return await(t, outcome, "the function to return")
}

func TestStreamSyscallConn(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		err := inFiber(t, v.Options, func(s *Stream) error {
			raw, err := s.SyscallConn()
			if err != nil {
				return err
			}
			var size int
			var optErr error
			if err := raw.Control(func(fd uintptr) { size, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); err != nil || optErr != nil || size <= 0 {
				return fmt.Errorf("control: %d, %w, %w", size, optErr, err)
			}
			readErr := raw.Read(func(uintptr) bool { return true })
			writeErr := raw.Write(func(uintptr) bool { return true })
			if !errors.Is(readErr, errors.ErrUnsupported) || !errors.Is(writeErr, errors.ErrUnsupported) {
				return fmt.Errorf("read: %w; write: %w", readErr, writeErr)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "unix")
}

func TestStreamContextEndsWithItsConnection(t *testing.T) {
	contexts := make(chan context.Context, 2)
	s := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
		contexts <- s.Context()
		_, _ = s.Read(make([]byte, 1))
		if err := s.Context().Err(); err != nil {
			t.Errorf("it has ended before the connection: %v", err)
		}
		_, err := Await(s, func() (struct{}, error) { return struct{}{}, nil })
		if err == nil {
			err = errOops
		}
		return err
	})
	write(t, s.dial(), []byte{1})
	ctx := await(t, contexts, "the context")
	await(t, ctx.Done(), "its end")
	if cause := context.Cause(ctx); !errors.Is(cause, ErrClosed) || !errors.Is(cause, errOops) {
		t.Errorf("it ended with %v", cause)
	}
}

func TestAwaitOnAFiber(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		err := inFiber(t, v.Options, func(s *Stream) error {
			if n, err := Await(s, func() (int, error) { return 42, nil }); n != 42 || err != nil {
				return fmt.Errorf("%d, %w", n, err)
			}
			if n, err := Await(s, func() (int, error) { return 7, errOops }); n != 7 || !errors.Is(err, errOops) {
				return fmt.Errorf("%d, %w, want the error of the work", n, err)
			}
			_, err := Await(s, func() (int, error) { panic(errOops) })
			var p *PanicError
			if !errors.As(err, &p) || !errors.Is(err, ErrClosed) {
				return fmt.Errorf("a panic: %w", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "loops")
}

// released is a result that wants to be released.
type releasedResult struct{ c chan struct{} }

func (r releasedResult) Release() { close(r.c) }

func TestAwaitedResultOfAnEndedConnectionIsReleased(t *testing.T) {
	r, begun, free := releasedResult{make(chan struct{})}, make(chan struct{}), make(chan struct{})
	s := serveBlocking(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
		_, err := Await(s, func() (releasedResult, error) { close(begun); <-free; return r, nil })
		return err
	})
	c := s.dial()
	write(t, c, []byte{1})
	await(t, begun, "the work")
	_ = c.SetLinger(0)
	_ = c.Close()
	s.wantFibers(0)
	close(free)
	await(t, r.c, "the release")
}

func TestDialOnAFiberFails(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		nobody, full := refusing(t), fullListener(t)
		err := inFiber(t, v.Options, func(s *Stream) error {
			up, err := s.Dial(nobody, Dialer{})
			var op *OpError
			if up != nil || !errors.Is(err, unix.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
				return fmt.Errorf("to where nobody listens: %v, %w", up, err)
			}
			if _, err := s.Dial(full, Dialer{Timeout: 10 * time.Millisecond}); !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("to where nobody answers: %w", err)
			}
			if _, err := s.Dial("nowhere", Dialer{}); err == nil {
				return errors.New("to no address: no error")
			}
			if _, err := s.Dial(nobody, Dialer{Handler: Events{}}); err == nil || !strings.Contains(err.Error(), "Dialer.Handler") {
				return fmt.Errorf("with a handler: %w", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "no features", "queues of 1 and 2")
}

// What is dialled and left open ends with the server at the latest, and is usable on any
// fiber of its loop before.
func TestDialledStreamIsAnyFibers(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		behind := serveBlocking(t, v.Options, echoBlocking)
		var kept *Stream
		s := serveBlocking(t, v.Options, func(s *Stream) error {
			b := make([]byte, 5)
			if _, err := io.ReadFull(s, b); err != nil {
				return err
			}
			if kept == nil {
				var err error
				if kept, err = s.Dial(behind.addr().String(), Dialer{Context: "kept"}); err != nil {
					return err
				}
			}
			if kept.Conn().Context() != "kept" {
				return errors.New("the context of the Dialer is lost")
			}
			if _, err := kept.Write(b); err != nil {
				return err
			}
			if _, err := io.ReadFull(kept, b); err != nil {
				return err
			}
			_, err := s.Write(b)
			return err
		})
		for range 3 {
			c := s.dial()
			write(t, c, []byte("hello"))
			wantRest(t, c, []byte("hello"))
		}
		if n := s.Stats().Dialled; n != 1 {
			t.Errorf("%d were dialled", n)
		}
	}, "default", "epoll", "unix")
}

// The errors of a connection that is over are those that code for std's net looks for.
func TestErrorsOfAStreamAreStds(t *testing.T) {
	err := inFiber(t, Options{Loops: 1, poison: true}, func(s *Stream) error {
		_ = s.SetReadDeadline(time.Unix(1, 0))
		_, err := s.Read(make([]byte, 1))
		if ne, ok := err.(stdnet.Error); !ok || !ne.Timeout() {
			return fmt.Errorf("a timeout is %T, %w", err, err)
		}
		if err := s.Close(); err != nil {
			return err
		}
		_, readErr := s.Read(make([]byte, 1))
		_, writeErr := s.Write(make([]byte, 1))
		for _, err := range []error{readErr, writeErr, s.Close(), s.CloseRead(), s.CloseWrite(), s.SetDeadline(time.Now()), s.Sleep(1)} {
			if ne, ok := err.(stdnet.Error); !ok || ne.Timeout() || !errors.Is(err, stdnet.ErrClosed) || !strings.Contains(err.Error(), "use of closed network connection") {
				return fmt.Errorf("after Close: %T, %w", err, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
