//go:build linux

package net

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

func TestConnectionGoesOverToBulkAndBack(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				c := srv.dial()
				for round := range uint64(few(4)) {
					for i := range uint64(6) {
						wantEcho(t, c, payload(round*10+i, 300000))
					}
					if n := srv.Stats().ToBulk; n != round+1 {
						t.Fatalf("after bulk in round %d: %d moves to bulk, want %d", round, n, round+1)
					}
					for i := range uint64(3 * smallEnter) {
						wantEcho(t, c, payload(i, 1+int(i)))
					}
					if n := srv.Stats().ToSmall; n != round+1 {
						t.Fatalf("after small messages in round %d: %d moves back, want %d", round, n, round+1)
					}
				}
				if st := srv.Stats(); st.DirectReceives == 0 {
					t.Error("no direct receive was counted")
				}
			})
		}
	}, "default", "poisoned", "no recv multishot", "no poll multishot", "no features", "queues of 1 and 2")
}

func TestNoBulkKeepsConnectionsOnReceiveBuffers(t *testing.T) {
	srv := serve(t, Options{Loops: 1, NoBulk: true, poison: true}, echoLease(t))
	c := srv.dial()
	for i := range uint64(20) {
		wantEcho(t, c, payload(i, 300000))
	}
	if st := srv.Stats(); st.ToBulk != 0 || st.DirectReceives != 0 {
		t.Errorf("%d moves to bulk and %d direct receives: want none", st.ToBulk, st.DirectReceives)
	}
}

func TestConnectionThatAlternatesDoesNotMoveEachTime(t *testing.T) {
	for _, e := range echoes {
		t.Run(e.name, func(t *testing.T) {
			srv := serve(t, Options{Loops: 1, poison: true}, e.of(t))
			c := srv.dial()
			rounds := uint64(few(200))
			for i := range rounds {
				wantEcho(t, c, payload(i, 64))
				wantEcho(t, c, payload(i, 100000))
			}
			if st := srv.Stats(); st.ToBulk+st.ToSmall > rounds/20 {
				t.Errorf("%d moves to bulk and %d back in %d rounds", st.ToBulk, st.ToSmall, rounds)
			}
		})
	}
}

// Sizes jump between both ways to receive while requests are pipelined, so that a
// move always happens with bytes on their way.
func TestMovesBetweenSmallAndBulkInAPipelinedStream(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				err := crowd(4, func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					random := rand.New(rand.NewPCG(uint64(i), 13))
					for round := range few(8) {
						if err := exchange(c, payload(uint64(round), 1+random.IntN(200000))); err != nil {
							return fmt.Errorf("bulk in round %d: %w", round, err)
						}
						for n := range few(random.IntN(400)) {
							if err := exchange(c, payload(uint64(n), 1+random.IntN(100))); err != nil {
								return fmt.Errorf("small message %d in round %d: %w", n, round, err)
							}
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	}, "default", "loops", "no features", "one large buffer", "low water marks", "small buffers", "queues of 1 and 2")
}

// When handlers keep the large buffers, the heap gives others; none is lost and
// every byte stays.
func TestLargeBuffersKeptByTheHandler(t *testing.T) {
	const bufs = 3
	var kept []bufring.Lease
	var sums []int
	keep := false
	srv := serve(t, Options{Loops: 1, BulkBufs: bufs, poison: true}, script{data: func(c *Conn, b []byte) int {
		n := len(b)
		lease, err := c.Detach()
		if err != nil {
			t.Errorf("detach: %v", err)
		}
		if !keep {
			if err := c.Send(lease); err != nil {
				t.Errorf("send: %v", err)
			}
			return 0
		}
		if _, err := c.Write(lease.Bytes()); err != nil {
			t.Errorf("write: %v", err)
		}
		kept = append(kept, lease)
		sums = append(sums, n)
		return 0
	}})
	c := srv.dial()
	srv.toBulk(c)
	srv.onLoop(0, func(*loop) { keep = true })
	var stream []byte
	for i := range uint64(10) {
		p := payload(i, 50000)
		wantEcho(t, c, p)
		stream = append(stream, p...)
	}
	if n := srv.Stats().HeapBuffers; n == 0 {
		t.Errorf("the heap gave no buffer although %d are kept and %d are there", len(kept), bufs)
	}
	var leases []bufring.Lease
	srv.onLoop(0, func(*loop) { keep, leases = false, kept })
	at := 0
	for i, lease := range leases {
		if err := differ(lease.Bytes(), stream[at:at+lease.Len()]); err != nil {
			t.Errorf("lease %d: %v", i, err)
		}
		at += lease.Len()
		lease.Release()
	}
	if at != len(stream) {
		t.Errorf("%d bytes were kept, want %d", at, len(stream))
	}
	wantEcho(t, c, payload(1, 100000))
}

// A firehose has megabytes in its socket, and another connection one small request.
func TestBulkConnectionTakesNoMoreThanItsTurn(t *testing.T) {
	const backlog = 3 << 20
	needSocketBuffers(t, backlog)
	var hose *Conn
	poured, atRequest := 0, -1
	done := make(chan struct{})
	srv := serve(t, Options{Loops: 1, poison: true}, script{
		open: func(c *Conn) {
			if err := c.SetReadBuffer(backlog); err != nil {
				t.Error(err)
			}
		},
		data: func(c *Conn, b []byte) int {
			switch {
			case hose == nil:
				_, _ = c.Write(b)
			case c != hose:
				atRequest = poured
			default:
				if poured += len(b); poured == backlog {
					close(done)
				}
			}
			return len(b)
		},
	})
	c := srv.dial()
	_ = c.SetWriteBuffer(backlog)
	srv.toBulk(c)
	srv.onLoop(0, func(l *loop) {
		hose = l.testConns()[0]
		hose.PauseRead()
	})
	other := srv.dial()
	until(t, "both connections to be open", func() bool { return srv.Stats().Connections == 2 })
	write(t, c, make([]byte, backlog))
	until(t, "the socket to hold what was sent", func() bool { return srv.inSocket(hose) == backlog })
	release := srv.hold(0)
	write(t, other, []byte("x"))
	l := srv.loops[0]
	if err := l.mail.post(hose.ResumeRead); err != nil {
		t.Fatal(err)
	}
	release()
	await(t, done, "all to be received")
	srv.onLoop(0, func(*loop) {
		if limit := 2 * (bulkBudget + l.large.BufBytes()); atRequest < 0 || atRequest > limit {
			t.Errorf("the small request was served after %d bytes of the large one: want at most %d", atRequest, limit)
		}
	})
}

// inSocket is how many bytes wait to be received from a connection.
func (s *server) inSocket(c *Conn) (n int) {
	s.t.Helper()
	s.onLoop(c.Loop(), func(*loop) {
		var err error
		if n, err = unix.IoctlGetInt(int(c.fd), unix.TIOCINQ); err != nil {
			s.t.Error(err)
		}
	})
	return n
}
