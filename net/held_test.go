//go:build linux

package net

import (
	"errors"
	"fmt"
	"testing"

	"example.com/ringnet/ring"
)

// loads are the ways to hold bytes for connections.
var loads = []struct {
	name string
	Options
}{
	{name: "default", Options: Options{}},
	{name: "epoll", Options: Options{Engine: ring.Epoll}},
	{name: "no bulk", Options: Options{NoBulk: true}},
	{name: "no features", Options: Options{Mask: maskAll}},
	{name: "small buffers", Options: Options{RecvBufs: 64, RecvBufBytes: 256, NoBulk: true}},
	{name: "queues of 1 and 2", Options: Options{EntryCount: 1, CompletionCount: 2}},
}

// Peers that do not read make a loop hold output: no more than it may, and others
// are served meanwhile. When they read at last they get everything that was taken.
func TestLoopHoldsNoMoreOutputThanItMay(t *testing.T) {
	for _, cs := range loads {
		t.Run(cs.name, func(t *testing.T) {
			const most, heavy, piece = 1 << 20, 8, 10_000
			stream := func(i int) []byte { return patternBytes[i*1000:] }
			o := cs.Options
			o.Loops, o.MaxLoopBytes, o.poison = 1, most, true
			taken := make([]int, heavy) // on the loop's goroutine
			refused := 0
			s := script{data: func(c *Conn, b []byte) int {
				if b[0] == 'e' {
					if _, err := c.Write(b); err != nil {
						t.Errorf("a light connection cannot write: %v", err)
					}
					return len(b)
				}
				i := int(b[0] - '0')
				// As much as the loop takes.
				for {
					if _, err := c.Write(stream(i)[taken[i] : taken[i]+piece]); err != nil {
						if !errors.Is(err, ErrBacklog) {
							t.Errorf("write: %v", err)
						}
						refused++
						break
					}
					taken[i] += piece
				}
				if held := c.l.held; held > most {
					t.Errorf("the loop holds %d bytes, %d are allowed", held, most)
				}
				return len(b)
			}, open: func(c *Conn) { _ = c.SetWriteBuffer(4096) }}
			srv := serve(t, o, s)
			var conns []peerConn
			for i := range heavy {
				c := srv.dial()
				conns = append(conns, c)
				write(t, c, []byte{byte('0' + i)})
				until(t, "a write to be refused", func() bool {
					n := 0
					srv.onLoop(0, func(*loop) { n = refused })
					return n > i
				})
			}
			st := srv.Stats()
			if st.HeldBytes > most || st.HeldBytes < most/2 || st.Heavy == 0 {
				t.Errorf("the loop holds %d bytes, went over the half %d times", st.HeldBytes, st.Heavy)
			}
			for i, c := range conns {
				n := 0
				srv.onLoop(0, func(*loop) { n = taken[i] })
				wantRead(t, c, stream(i)[:n])
			}
			until(t, "nothing to be held", func() bool { return srv.Stats().HeldBytes == 0 })
			srv.onLoop(0, func(l *loop) {
				if l.heavy() || l.high != l.o.HighWater || l.low != l.o.LowWater {
					t.Errorf("the loop holds nothing, and its marks are %d and %d", l.high, l.low)
				}
			})
			wantEcho(t, srv.dial(), []byte("e and some more"))
		})
	}
}

// A loop that holds more than half stops reading from those it holds much for, and
// goes on with the others.
func TestLoadedLoopReadsFromLightConnectionsOnly(t *testing.T) {
	for _, cs := range loads {
		t.Run(cs.name, func(t *testing.T) {
			const most, answer = 800_000, 300_000
			o := cs.Options
			o.Loops, o.MaxLoopBytes, o.HighWater, o.MaxBuffered, o.poison = 1, most, most, most, true
			srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
				n := 1
				if b[0] == 'h' {
					n = answer
				}
				if _, err := c.Write(payload(uint64(b[0]), n)); err != nil {
					t.Errorf("write: %v", err)
				}
				return 1
			}, open: func(c *Conn) { _ = c.SetWriteBuffer(4096) }})
			heavy := []peerConn{srv.dial(), srv.dial()}
			light := srv.dial()
			paused := func() (n int) {
				srv.onLoop(0, func(l *loop) {
					l.table.each(func(c *Conn) {
						if c.state&overHigh != 0 {
							n++
						}
					})
				})
				return n
			}
			for i, c := range heavy {
				if n := paused(); n != 0 {
					t.Errorf("%d connections are not read from, with one of two heavy", n)
				}
				write(t, c, []byte("h"))
				until(t, "the answer to be held", func() bool { return srv.Stats().HeldBytes > 200_000*(i+1) })
			}
			if n := paused(); n != 2 {
				t.Errorf("%d connections are not read from, want both heavy ones", n)
			}
			for range 10 {
				write(t, light, []byte("l"))
				wantRead(t, light, payload('l', 1))
			}
			for _, c := range heavy {
				wantRead(t, c, payload('h', answer))
			}
			for i, c := range heavy {
				write(t, c, []byte("l"))
				wantRead(t, c, payload('l', 1))
				if i == 1 && paused() != 0 {
					t.Error("connections are not read from although they have no output")
				}
			}
		})
	}
}

// Input that handlers leave unconsumed is bounded for all connections together: the
// one with most of it has to go.
func TestLoopKeepsNoMoreInputThanItMay(t *testing.T) {
	for _, cs := range loads {
		t.Run(cs.name, func(t *testing.T) {
			const most = 128 << 10
			o := cs.Options
			o.Loops, o.MaxLoopBytes, o.poison = 1, most, true
			var worst int
			srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
				worst = max(worst, c.l.heldInput)
				if b[len(b)-1] == '\n' {
					if _, err := c.Write(b); err != nil {
						t.Errorf("write: %v", err)
					}
					return len(b)
				}
				return 0
			}})
			line := func(i int) []byte {
				b := make([]byte, 10_000)
				for j := range b {
					b[j] = byte('a' + i)
				}
				return b
			}
			var conns []peerConn
			keep := func(n int) {
				until(t, fmt.Sprintf("%d bytes to be kept", n), func() bool { return srv.Stats().HeldBytes == n })
			}
			for i := range 5 {
				c := srv.dial()
				conns = append(conns, c)
				write(t, c, line(i))
				keep((i + 1) * 10_000)
			}
			// The third becomes the heaviest, and the next too much.
			write(t, conns[2], line(2))
			keep(60_000)
			big := srv.dial()
			write(t, big, line(7))
			srv.wantCause(ErrUnconsumed)
			keep(50_000)
			if n, err := conns[2].Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the heaviest connection is open: %d bytes, %v", n, err)
			}
			conns[2] = big
			for i, c := range conns {
				if i == 2 {
					i = 7
				}
				write(t, c, []byte("\n"))
				wantRead(t, c, append(line(i), '\n'))
			}
			if st := srv.Stats(); st.Evicted != 1 || st.HeldBytes != 0 {
				t.Errorf("%d connections were ended, %d bytes are held", st.Evicted, st.HeldBytes)
			}
			srv.onLoop(0, func(l *loop) {
				// The last bytes to come are offered before they count.
				if worst > most/2+l.group.BufBytes() {
					t.Errorf("%d bytes of input were kept, half of the bound is %d", worst, most/2)
				}
			})
		})
	}
}
