//go:build linux

package net

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/ring"
)

// limits are the ways to serve a limited number of connections.
var limits = []struct {
	name string
	Options
}{
	{name: "one loop", Options: Options{Loops: 1}},
	{name: "loops", Options: Options{Loops: 3}},
	{name: "round robin", Options: Options{Loops: 3, Placement: RoundRobin}},
	{name: "least connections", Options: Options{Loops: 3, Placement: LeastConnections}},
	{name: "epoll", Options: Options{Loops: 1, Engine: ring.Epoll}},
	{name: "epoll loops", Options: Options{Loops: 3, Engine: ring.Epoll}},
	{name: "no poll multishot", Options: Options{Loops: 2, Mask: ring.PollMultishot}},
	{name: "no features", Options: Options{Loops: 2, Mask: maskAll}},
	{name: "queues of 1 and 2", Options: Options{Loops: 2, EntryCount: 1, CompletionCount: 2}},
}

// census counts the connections that are open, and the most there have been.
type census struct{ now, most atomic.Int64 }

func (n *census) of(s script) script {
	s.open = func(*Conn) {
		now := n.now.Add(1)
		for most := n.most.Load(); now > most && !n.most.CompareAndSwap(most, now); most = n.most.Load() {
		}
	}
	s.close = func(*Conn, error) { n.now.Add(-1) }
	return s
}

func TestNoConnectionBeyondTheLimit(t *testing.T) {
	for _, cs := range limits {
		for _, most := range []int{1, 5} {
			t.Run(fmt.Sprintf("%s %d", cs.name, most), func(t *testing.T) {
				o := cs.Options
				o.MaxConns, o.poison = most, true
				var n census
				srv := serve(t, o, n.of(echoLease(t)))
				err := crowd(few(40), func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					for round := range uint64(3) {
						if err := exchange(c, payload(uint64(i)<<8|round, 1000)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Errorf("%v\nstats: %+v", err, srv.Stats())
				}
				if got := n.most.Load(); got > int64(most) {
					t.Errorf("%d connections were open at once, %d are allowed", got, most)
				}
				until(t, "all to be closed", func() bool { return srv.Stats().Connections == 0 })
				if used := srv.loops[0].team.limit.used.Load(); used != 0 {
					t.Errorf("%d places are taken by nobody", used)
				}
			})
		}
	}
}

// The loops share the places: a client that the kernel gives to one loop need not
// wait while there is room, whichever loops the others are on.
func TestEveryPlaceCanBeHad(t *testing.T) {
	for _, cs := range limits {
		t.Run(cs.name, func(t *testing.T) {
			const most = 8
			o := cs.Options
			o.MaxConns, o.poison = most, true
			srv := serve(t, o, echoWrite(t))
			var conns []peerConn
			for i := range 5 * most {
				c := srv.dial()
				conns = append(conns, c)
				if len(conns) > most {
					// Others have to go first.
					write(t, c, payload(uint64(i), 100))
					_ = conns[0].Close()
					conns = conns[1:]
					wantRead(t, c, payload(uint64(i), 100))
				} else {
					wantEcho(t, c, payload(uint64(i), 100))
				}
			}
			if st := srv.Stats(); st.Connections > most {
				t.Errorf("%d connections are open", st.Connections)
			}
		})
	}
}

// At the limit a server waits, and does not look again and again.
func TestFullServerRestsAndTellsOnce(t *testing.T) {
	for _, cs := range limits {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.MaxConns, o.poison, o.Spin = 2, true, -1
			srv := serve(t, o, echoWrite(t))
			var conns []peerConn
			for i := range 10 {
				c := srv.dial()
				conns = append(conns, c)
				if i < 2 {
					wantEcho(t, c, payload(uint64(i), 100))
				}
			}
			until(t, "the limit to be noticed", func() bool { return srv.Stats().AtLimit > 0 })
			waits := func() uint64 { return srv.Stats().Ring.Enters }
			before, begin := waits(), time.Now()
			for time.Since(begin) < 50*time.Millisecond {
				time.Sleep(10 * time.Millisecond)
			}
			// What the question itself costs, for each loop, and something over.
			if n := waits() - before; n > uint64(20*o.Loops) {
				t.Errorf("%d enters in 50 ms with nothing to do", n)
			}
			text := srv.log.String()
			if n := strings.Count(text, "MaxConns"); n < 1 || n > 2*o.Loops || !strings.Contains(text, "max=2") {
				t.Errorf("the log says it %d times:\n%s", n, text)
			}
			// Those that wait are served, in some order, as places become free.
			for len(conns) > 2 {
				_ = conns[0].Close()
				conns = conns[1:]
			}
			for i, c := range conns {
				wantEcho(t, c, payload(uint64(i), 100))
			}
		})
	}
}

// A loop that was called, and has no use for the place, calls the next.
func TestPlacesAreOfferedToAllWhoWait(t *testing.T) {
	m := &connLimit{max: 2}
	loops := make([]*loop, 3)
	woken := make([]int, len(loops))
	for i := range loops {
		loops[i] = &loop{index: i}
		loops[i].mail.wake = func() { woken[i]++ }
		loops[i].mail.state.Store(mailAsleep)
	}
	for range 2 {
		if !m.take(loops[0]) {
			t.Fatal("there are two places")
		}
	}
	for _, l := range loops {
		for range 3 {
			if m.take(l) {
				t.Fatal("there is a third place")
			}
		}
	}
	m.give()
	if want := []int{1, 0, 0}; !slices.Equal(woken, want) {
		t.Fatalf("woken: %v, want %v", woken, want)
	}
	m.call()
	if want := []int{1, 1, 0}; !slices.Equal(woken, want) {
		t.Fatalf("woken: %v, want %v", woken, want)
	}
	if !m.take(loops[1]) || m.take(loops[0]) {
		t.Fatal("one place was free")
	}
	m.give()
	m.give()
	if got := []int{len(m.line), int(m.used.Load()), int(m.waiting.Load())}; !slices.Equal(got, []int{0, 0, 0}) {
		t.Errorf("the line, the places used, those who wait: %v", got)
	}
	if woken[2] != 1 || loops[2].in.inLine.Load() || !loops[2].in.called.Load() {
		t.Errorf("woken: %v", woken)
	}
}

func TestShutdownWithConnectionsThatWaitForAPlace(t *testing.T) {
	for _, cs := range limits {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.MaxConns, o.poison = 1, true
			srv := serve(t, o, echoWrite(t))
			first := srv.dial()
			wantEcho(t, first, payload(1, 100))
			var conns []peerConn
			for range 10 {
				conns = append(conns, srv.dial())
			}
			until(t, "the limit to be noticed", func() bool { return srv.Stats().AtLimit > 0 })
			if err := srv.shutdown(); err != nil {
				t.Error(err)
			}
			for _, c := range append(conns, first) {
				if n, err := io.Copy(io.Discard, c); n != 0 {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
			// A place may come free while other loops have yet to hear of the end.
			if st := srv.Stats(); st.Accepted > uint64(o.Loops) {
				t.Errorf("%d connections were opened", st.Accepted)
			}
		})
	}
}
