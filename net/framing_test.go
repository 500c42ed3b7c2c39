//go:build linux

package net

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	stdnet "net"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/ringnet/bufring"
)

// frames is a stream of n frames, each a length in four bytes and so many bytes.
func frames(seed uint64, n, largest int) []byte {
	random := rand.New(rand.NewPCG(seed, 5))
	var stream []byte
	for i := range n {
		size := random.IntN(200)
		if i%5 == 0 {
			size = random.IntN(largest + 1)
		}
		stream = binary.BigEndian.AppendUint32(stream, uint32(size))
		stream = append(stream, payload(seed+uint64(i), size)...)
	}
	return stream
}

// wholeFrames is how many bytes of b are whole frames.
func wholeFrames(b []byte) int {
	n := 0
	for len(b)-n >= 4 {
		size := int(binary.BigEndian.Uint32(b[n:]))
		if len(b)-n-4 < size {
			break
		}
		n += 4 + size
	}
	return n
}

// writeInPieces writes b with a call for each of many pieces, small and large.
func writeInPieces(c io.Writer, b []byte, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 3))
	for len(b) > 0 {
		n := 1 + random.IntN(50)
		if random.IntN(4) == 0 {
			n = 1 + random.IntN(30000)
		}
		n = min(n, len(b))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func TestUnconsumedBytesComeBackInFrontAndInOnePiece(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		n := few(400)
		if v.slow {
			n = few(60)
		}
		// A connection's context is what it has consumed.
		srv := serve(t, v.Options, script{
			open: func(c *Conn) { c.SetContext([]byte(nil)) },
			data: func(c *Conn, b []byte) int {
				whole := wholeFrames(b)
				c.SetContext(append(c.Context().([]byte), b[:whole]...))
				if _, err := c.Write(b[:whole]); err != nil {
					t.Errorf("write: %v", err)
				}
				return whole
			},
			close: func(c *Conn, err error) {
				if consumed := c.Context().([]byte); wholeFrames(consumed) != len(consumed) {
					t.Error("what was consumed is not whole frames")
				}
			},
		})
		err := crowd(4, func(i int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			stream := frames(uint64(i), n, 20000)
			written := make(chan error, 1)
			go func() { written <- writeInPieces(c, stream, uint64(i)) }()
			got := make([]byte, len(stream))
			if n, err := io.ReadFull(c, got); err != nil {
				return fmt.Errorf("read %d of %d bytes: %w", n, len(got), err)
			}
			return errors.Join(<-written, differ(got, stream))
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestHandlerThatConsumesNothingIsOfferedEverything(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const total = 50000
		want := payload(1, total)
		offered := 0 // in this round
		done := make(chan struct{}, 1)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if len(b) <= offered {
				t.Errorf("offered %d bytes, and %d before that", len(b), offered)
			}
			if err := differ(b, want[:min(len(b), total)]); err != nil {
				t.Error(err)
			}
			if offered = len(b); offered < total {
				return 0
			}
			offered = 0
			done <- struct{}{}
			return total
		}})
		c := srv.dial()
		for range 3 {
			go func() { _ = writeInPieces(c, want, 9) }()
			await(t, done, "all to be offered")
		}
	})
}

func TestTooMuchUnconsumedClosesTheConnection(t *testing.T) {
	cases := []struct {
		name  string
		sent  int
		cause error
	}{
		{name: "as much as is allowed", sent: 1000, cause: io.EOF},
		{name: "one byte more", sent: 1001, cause: ErrUnconsumed},
		{name: "far more", sent: 100000, cause: ErrUnconsumed},
	}
	overVariants(t, func(t *testing.T, v variant) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				o := v.Options
				o.MaxUnconsumed = 1000
				seen := make(chan int, 1000)
				srv := serve(t, o, script{data: func(_ *Conn, b []byte) int { seen <- len(b); return 0 }})
				client := srv.dial()
				_, _ = client.Write(payload(1, c.sent)) // the server may close meanwhile
				if c.cause == io.EOF {
					for n := 0; n < c.sent; {
						n = await(t, seen, "bytes to be offered")
					}
					_ = client.Close()
				}
				srv.wantCause(c.cause)
			})
		}
	})
}

// A handler that answers an oversized request and closes must get its answer out,
// although it leaves more unconsumed than is allowed.
func TestAnswerToWhatWasTooMuchGoesOutBeforeClose(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		o := v.Options
		o.MaxUnconsumed = 1000
		answer := payload(3, 60000)
		refused := false
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			if len(b) > o.MaxUnconsumed && !refused {
				refused = true
				if _, err := c.Write(answer); err != nil {
					t.Error(err)
				}
				c.Close()
			}
			return 0
		}})
		c := srv.dial()
		write(t, c, payload(1, 1000))
		write(t, c, payload(2, 1))
		wantRest(t, c, answer)
		srv.wantCause(nil)
	})
}

func TestWrongReturnOfOnDataClosesTheConnection(t *testing.T) {
	cases := []struct {
		name string
		of   func(n int) int
	}{
		{name: "negative", of: func(int) int { return -1 }},
		{name: "one too many", of: func(n int) int { return n + 1 }},
		{name: "far too many", of: func(int) int { return math.MaxInt }},
		{name: "far too few", of: func(int) int { return math.MinInt }},
	}
	for _, m := range modes {
		for _, c := range cases {
			for _, kept := range []bool{false, true} {
				name := m.name + " " + c.name
				if kept {
					name += " of kept bytes"
				}
				t.Run(name, func(t *testing.T) {
					// The handler echoes, until a byte 0xff says that it is to keep
					// what comes, or 0xfe that it is to answer wrongly.
					srv := serve(t, m.Options, script{data: func(cn *Conn, b []byte) int {
						switch b[len(b)-1] {
						case 0xff:
							return 0
						case 0xfe:
							return c.of(len(b))
						}
						_, _ = cn.Write(b)
						return len(b)
					}})
					client := srv.dial()
					if m.bulk {
						srv.toBulk(client)
					}
					if kept {
						seen := srv.Stats().BytesReceived
						write(t, client, []byte{1, 2, 0xff})
						until(t, "the bytes to be kept", func() bool { return srv.Stats().BytesReceived == seen+3 })
					}
					write(t, client, []byte{3, 0xfe})
					err := srv.cause()
					if err == nil || !strings.Contains(err.Error(), "OnData returned") || !strings.Contains(err.Error(), "must return") {
						t.Errorf("OnClose was told %v, want what OnData must return", err)
					}
				})
			}
		}
	}
}

func TestDetachWithoutReceivedBytes(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			want := func(c *Conn, where string) {
				lease, err := c.Detach()
				if !errors.Is(err, ErrNoData) {
					t.Errorf("detach in %s: %v, want %v", where, err, ErrNoData)
				}
				if lease.Valid() || lease.Len() != 0 {
					t.Errorf("detach in %s: the error came with a lease of %d bytes", where, lease.Len())
				}
			}
			var first *Conn
			srv := serve(t, m.Options, script{
				open: func(c *Conn) {
					want(c, "OnOpen")
					if first == nil {
						first = c
					}
				},
				data: func(c *Conn, b []byte) int {
					if c != first {
						want(first, "OnData of another connection")
					}
					lease, err := c.Detach()
					if err != nil {
						t.Errorf("detach: %v", err)
					}
					want(c, "OnData for the second time")
					if err := c.Send(lease); err != nil {
						t.Errorf("send: %v", err)
					}
					want(c, "OnData after Send")
					return 0 // all of it counts as consumed
				},
				eof:      func(c *Conn) { want(c, "OnEOF"); c.Close() },
				writable: func(c *Conn) { want(c, "OnWritable") },
				close:    func(c *Conn, _ error) { want(c, "OnClose") },
			})
			for range 2 {
				c := srv.dial()
				if m.bulk {
					srv.toBulk(c)
				}
				wantEcho(t, c, payload(1, 100))
				defer func() { _ = c.CloseWrite() }()
			}
			srv.onLoop(0, func(l *loop) { want(first, "a posted function") })
		})
	}
}

func TestDetachOfKeptBytesGivesThemInOnePiece(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			const size = 9000
			leases := make(chan bufring.Lease, 10)
			echo := true
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				if echo {
					_, _ = c.Write(b)
					return len(b)
				}
				if len(b) < size {
					return 0
				}
				lease, err := c.Detach()
				if err != nil {
					t.Errorf("detach: %v", err)
				}
				leases <- lease
				return 0
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(*loop) { echo = false })
			var all []bufring.Lease
			for i := range uint64(5) {
				before := srv.Stats().BytesReceived
				p := payload(i, size)
				for j, piece := range [][]byte{p[:10], p[10:500], p[500:size]} {
					write(t, c, piece)
					if j < 2 {
						before += uint64(len(piece))
						until(t, "the piece to be kept", func() bool { return srv.Stats().BytesReceived == before })
					}
				}
				all = append(all, await(t, leases, "the kept bytes to be detached"))
			}
			for i, lease := range all {
				if err := differ(lease.Bytes(), payload(uint64(i), size)); err != nil {
					t.Errorf("lease %d: %v", i, err)
				}
				lease.Release()
			}
		})
	}
}

func TestLeasesKeepTheirBytesWhileTrafficGoesOn(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		// One message in three is kept, the others are echoed.
		const size, rounds = 60, 90
		count := 0
		var kept []bufring.Lease
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if len(b) < size {
				return 0
			}
			lease, err := c.Detach()
			if err != nil {
				t.Errorf("detach: %v", err)
			}
			if count++; count%3 == 0 && len(kept) < keptAtMost(v) {
				kept = append(kept, lease)
				_, _ = c.Write(lease.Bytes())
			} else if err := c.Send(lease); err != nil {
				t.Errorf("send: %v", err)
			}
			return size
		}})
		c := srv.dial()
		for i := range uint64(rounds) {
			wantEcho(t, c, payload(i, size))
		}
		_ = c.Close()
		srv.wantCause(io.EOF)
		var leases []bufring.Lease
		srv.onLoop(0, func(*loop) { leases = kept })
		if v.Loops == 1 {
			if st := srv.Stats(); st.LeasesOut+st.CopiesOut < len(leases) && v.name != "all small" && v.name != "small buffers no bulk" {
				t.Errorf("stats say that %d buffers are out: %d are kept", st.LeasesOut+st.CopiesOut, len(leases))
			}
		}
		for i, lease := range leases {
			if err := differ(lease.Bytes(), payload(uint64(3*i+2), size)); err != nil {
				t.Errorf("lease %d: %v", i, err)
			}
			lease.Release() // on another goroutine than the loop's
		}
	})
}

// keptAtMost is how many buffers one connection may keep and still be read from.
func keptAtMost(v variant) int {
	if v.RecvBufs == 0 {
		return math.MaxInt
	}
	return v.RecvBufs / 8
}

// A handler that keeps what one connection sends does not take the buffers from all
// the others.
func TestConnectionOverItsShareIsNotReadFrom(t *testing.T) {
	const bufs, share = 32, 4
	overVariants(t, func(t *testing.T, v variant) {
		var greedy *Conn
		var kept []bufring.Lease
		got := make(chan struct{}, bufs)
		o := v.Options
		o.Loops, o.RecvBufs, o.RecvBufBytes, o.NoBulk = 1, bufs, 64, true
		srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
			if greedy == nil {
				greedy = c
			}
			if c != greedy {
				_, _ = c.Write(b)
				return len(b)
			}
			lease, err := c.Detach()
			if err != nil {
				t.Errorf("detach: %v", err)
			}
			kept = append(kept, lease)
			got <- struct{}{}
			return len(b)
		}})
		c := srv.dial()
		for i := range share + 1 {
			write(t, c, []byte{byte(i)})
			await(t, got, fmt.Sprintf("message %d", i))
		}
		until(t, "the receive to be over", func() bool {
			armed := false
			srv.onLoop(0, func(*loop) { armed = greedy.state&recvArmed != 0 })
			return !armed
		})
		write(t, c, []byte("more"))
		other := srv.dial()
		for i := range uint64(20) {
			wantEcho(t, other, payload(i, 50))
		}
		srv.onLoop(0, func(l *loop) {
			if len(kept) != share+1 {
				t.Errorf("%d buffers are kept for one connection, its share is %d", len(kept), share)
			}
			for _, lease := range kept {
				lease.Release()
			}
			kept = nil
		})
		await(t, got, "the rest")
		srv.onLoop(0, func(*loop) {
			for _, lease := range kept {
				lease.Release()
			}
		})
	}, "default", "epoll", "no recv multishot", "queues of 1 and 2")
}

// The last lease of a connection that is at its share comes back on another
// goroutine, and nothing else wakes the loop.
func TestConnectionAtItsShareGoesOnWhenLeasesComeBack(t *testing.T) {
	leases := make(chan bufring.Lease, 100)
	got := make(chan byte, 100)
	srv := serve(t, Options{Loops: 1, RecvBufs: 16, RecvBufBytes: 64, NoBulk: true, poison: true}, script{
		data: func(c *Conn, b []byte) int {
			for _, x := range b {
				got <- x
			}
			lease, err := c.Detach()
			if err != nil {
				t.Errorf("detach: %v", err)
			}
			leases <- lease
			return len(b)
		}})
	c := srv.dial()
	for round := range 20 {
		// A share is an eighth of 16. The connection is read from until it holds
		// more than that.
		for i := range byte(3) {
			write(t, c, []byte{i})
			if x := await(t, got, fmt.Sprintf("message %d of round %d", i, round)); x != i {
				t.Fatalf("got %d, want %d", x, i)
			}
		}
		for range 3 {
			await(t, leases, "a lease").Release()
		}
	}
}

func TestLeaseReleasedElsewhereWakesStarvedConnections(t *testing.T) {
	for _, bufs := range []int{1, 4, 16} {
		t.Run(fmt.Sprint(bufs), func(t *testing.T) {
			leases := make(chan bufring.Lease, 1000)
			srv := serve(t, Options{Loops: 1, RecvBufs: bufs, RecvBufBytes: 64, NoBulk: true, poison: true}, script{
				data: func(c *Conn, b []byte) int {
					_, _ = c.Write(b)
					lease, err := c.Detach()
					if err != nil {
						t.Errorf("detach: %v", err)
					}
					leases <- lease
					return len(b)
				}})
			// More connections send than there are buffers, and each buffer is
			// released by another goroutine after it was looked at.
			var releasing sync.WaitGroup
			stop := make(chan struct{})
			for range 2 {
				releasing.Go(func() {
					for {
						select {
						case lease := <-leases:
							lease.Release()
						case <-stop:
							return
						}
					}
				})
			}
			err := crowd(3*bufs+2, func(i int) error {
				c, err := connect(srv.addr())
				if err != nil {
					return err
				}
				defer c.Close()
				for round := range few(50) {
					if err := exchange(c, payload(uint64(i*50+round), 1+(round*7)%150)); err != nil {
						return fmt.Errorf("round %d: %w", round, err)
					}
				}
				return nil
			})
			for range 3*bufs + 2 {
				srv.cause()
			}
			close(stop)
			releasing.Wait()
			for len(leases) > 0 {
				(<-leases).Release()
			}
			if err != nil {
				t.Fatalf("%v\nstats: %+v", err, srv.Stats())
			}
		})
	}
}

// While every buffer is leased nothing is received and nothing is lost; a loop
// with nothing to do does not spin.
func TestGroupHeldByHandlersParksConnectionsWithoutSpinning(t *testing.T) {
	const bufs, conns = 4, 8
	leases := make(chan bufring.Lease, 100)
	srv := serve(t, Options{Loops: 1, RecvBufs: bufs, RecvBufBytes: 64, NoBulk: true, poison: true}, script{
		data: func(c *Conn, b []byte) int {
			_, _ = c.Write(b)
			lease, err := c.Detach()
			if err != nil {
				t.Errorf("detach: %v", err)
			}
			leases <- lease
			return len(b)
		}})
	clients := make([]stdnet.Conn, conns)
	for i := range clients {
		clients[i] = srv.dial()
		write(t, clients[i], payload(uint64(i), 10))
	}
	held := make([]bufring.Lease, bufs)
	for i := range held {
		held[i] = await(t, leases, "a lease")
	}
	// All the others' bytes are there, and there is no buffer for them.
	until(t, "the others to be parked", func() bool { return srv.Stats().Starved >= conns-bufs })
	before := srv.Stats()
	for range 100 {
		srv.Stats() // a turn each
	}
	after := srv.Stats()
	if arms := after.Arms - before.Arms; arms > 0 {
		t.Errorf("%d receives were armed while no buffer was there", arms)
	}
	if st := after; st.LeasesOut != bufs {
		t.Errorf("stats say %d leases are out, %d are", st.LeasesOut, bufs)
	}
	for _, lease := range held {
		lease.Release()
	}
	for range conns - bufs {
		await(t, leases, "a parked connection to be served").Release()
	}
	for i, c := range clients {
		wantRead(t, c, payload(uint64(i), 10))
	}
}

// Bytes that were lent are not the handler's after OnData: with poison they show
// it. This tests the test's own means.
func TestLentBytesArePoisonedAfterOnData(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			var lent []byte
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				_, _ = c.Write(b)
				lent = b
				return len(b)
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			p := payload(1, 50)
			wantEcho(t, c, p)
			srv.onLoop(0, func(*loop) {
				if len(lent) != len(p) || bytes.Equal(lent, p) || !slices.Equal(lent, bytes.Repeat(lent[:1], len(p))) {
					t.Errorf("bytes that were lent are still there, or half: %x", lent)
				}
			})
		})
	}
}
