//go:build linux

package net

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wantOpError waits for an OnClose and holds it to a failed operation on the
// connection with peer.
func (s *server) wantOpError(peer netip.AddrPort, ops []string, errnos ...syscall.Errno) {
	s.t.Helper()
	err := s.cause()
	var op *OpError
	if !errors.As(err, &op) {
		s.t.Errorf("OnClose was told %v (%T), want an *OpError", err, err)
		return
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) || !slices.Contains(errnos, errno) {
		s.t.Errorf("OnClose was told %v: its errno is %d, want one of %v", err, errno, errnos)
	}
	if !slices.Contains(ops, op.Op) {
		s.t.Errorf("OnClose was told of a failed %q, want one of %q", op.Op, ops)
	}
	if op.Addr != TCPAddr(peer) {
		s.t.Errorf("OnClose was told of the peer %v, want %v", op.Addr, peer)
	}
}

func TestPeerResetsIdleConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		for _, bulk := range []bool{false, true} {
			if bulk && (v.NoBulk || v.name == "low water marks") {
				continue // its connections do not go over, or only by chance
			}
			name := "small"
			if bulk {
				name = "bulk"
			}
			t.Run(name, func(t *testing.T) {
				srv := serve(t, v.Options, echoWrite(t))
				c := srv.dial()
				wantEcho(t, c, payload(1, 100))
				if bulk {
					srv.toBulk(c)
				}
				peer := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
				_ = c.SetLinger(0)
				_ = c.Close()
				srv.wantOpError(peer, []string{"read"}, unix.ECONNRESET)
			})
		}
	})
}

func TestPeerResetsInTheMiddleOfItsBytes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		var received atomic.Int64
		srv := serve(t, v.Options, script{data: func(_ *Conn, b []byte) int {
			received.Add(int64(len(b)))
			return len(b)
		}})
		for range 5 {
			received.Store(0)
			c := srv.dial()
			peer := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
			p := payload(1, 100000)
			write(t, c, p)
			until(t, "half of the bytes to come", func() bool { return received.Load() > int64(len(p)/2) })
			write(t, c, p)
			_ = c.SetLinger(0)
			_ = c.Close()
			srv.wantOpError(peer, []string{"read"}, unix.ECONNRESET)
		}
	})
}

// A kernel that forgets a reset behind many bytes forgets our own shutdown there as
// well: the receive stayed armed for ever, and with it the connection (Linux
// 6.12.117).
func TestAbortAheadOfManyBytes(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, script{
			open: func(c *Conn) {
				if err := c.SetReadBuffer(1 << 20); err != nil {
					t.Error(err)
				}
			},
			data: func(c *Conn, b []byte) int {
				c.Abort(errTest)
				return len(b)
			},
		})
		c := srv.dial()
		until(t, "the connection to be accepted", func() bool { return srv.Stats().Accepted == 1 })
		release := srv.hold(0)
		defer release()
		if _, err := fill(c, payload(1, 1<<20), func() uint64 { return 0 }); err != nil {
			t.Fatal(err)
		}
		release()
		srv.wantCause(errTest)
	}, "default", "no bulk", "no sync message", "no features", "epoll")
}

// Linux 6.18 forgets a reset that is there, behind bytes, when a receive begins to
// wait. The connection stayed for ever.
func TestPeerResetsBeforeTheFirstReceive(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		opened, peerDone, answers := make(chan struct{}), make(chan struct{}), false
		srv := serve(t, v.Options, script{
			open: func(*Conn) {
				opened <- struct{}{}
				<-peerDone // nothing is received yet
			},
			data: func(c *Conn, b []byte) int {
				if answers {
					_, _ = c.Write(b)
				}
				return len(b)
			},
		})
		// 40 small buffers are more than one look of the kernel takes.
		for _, n := range []int{0, 1, 100, 40 * 64, 20_000} {
			for _, answers = range []bool{false, true} {
				c := srv.dial()
				peer := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
				<-opened
				if n > 0 {
					write(t, c, payload(1, n))
				}
				_ = c.SetLinger(0)
				_ = c.Close()
				peerDone <- struct{}{}
				srv.wantOpError(peer, []string{"read", "write"}, unix.ECONNRESET, unix.EPIPE)
			}
		}
	})
}

// The same with what no handler sees: the reset is there when the connection is
// accepted.
func TestPeerResetsBeforeItIsAccepted(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		srv := serve(t, v.Options, script{})
		var release []func()
		for i := range max(1, v.Loops) {
			release = append(release, srv.hold(i))
		}
		c := srv.dial()
		write(t, c, payload(1, 100))
		_ = c.SetLinger(0)
		_ = c.Close()
		for _, f := range release {
			f()
		}
		if err := srv.cause(); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("OnClose was told %v, want a reset", err)
		}
	})
}

func TestPeerResetsWhileASendIsInFlight(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		p := payload(1, 1<<20)
		srv := serve(t, v.Options, script{open: func(c *Conn) {
			// More than any socket holds: the peer reads none of it.
			for range 16 {
				// The reset may come between two of them.
				if _, err := c.Write(p); err != nil && !errors.Is(err, ErrClosed) {
					t.Errorf("write: %v", err)
				}
			}
		}})
		for range few(3) {
			c := srv.dial()
			peer := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
			// The first bytes have come, so a send has been tried.
			var first [1]byte
			if _, err := c.Read(first[:]); err != nil {
				t.Fatal(err)
			}
			_ = c.SetLinger(0)
			_ = c.Close()
			srv.wantOpError(peer, []string{"read", "write"}, unix.ECONNRESET, unix.EPIPE)
		}
	})
}

// Both directions are full when the reset comes.
func TestPeerResetsAStalledEcho(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		needTCP(t, "resets")
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				c := srv.dial()
				peer := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
				stall(t, srv, c, make([]byte, 64<<20))
				_ = c.SetLinger(0)
				_ = c.Close()
				srv.wantOpError(peer, []string{"read", "write"}, unix.ECONNRESET, unix.EPIPE)
			})
		}
	}, "default", "loops", "no recv multishot", "no features", "no bulk", "one large buffer", "small buffers no bulk", "queues of 1 and 2")
}

func TestOthersLiveOnWhenSomeReset(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			srv := serve(t, m.Options, echoLease(t))
			err := crowd(40, func(i int) error {
				c, err := connect(srv.addr())
				if err != nil {
					return err
				}
				defer c.Close()
				for round := range 20 {
					if err := exchange(c, payload(uint64(i*20+round), 1+(i*7919+round*104729)%100000)); err != nil {
						return err
					}
					if i%2 == 0 && round == i/4 {
						_, _ = c.Write(payload(1, 50000))
						return c.SetLinger(0)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 40 {
				srv.cause()
			}
		})
	}
}
