//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// placed are the ways in which one loop accepts for others.
var placed = []struct {
	name string
	Options
	alike bool // as of variants
}{
	{name: "default", Options: Options{}},
	{name: "epoll", Options: Options{Engine: ring.Epoll}},
	{name: "no accept multishot", Options: Options{Mask: ring.AcceptMultishot}, alike: true},
	{name: "no features", Options: Options{Mask: maskAll}},
	{name: "limited", Options: Options{MaxConns: 10_000}},
	{name: "limited, no poll multishot", Options: Options{MaxConns: 10_000, Mask: ring.PollMultishot}, alike: true},
	{name: "epoll limited", Options: Options{Engine: ring.Epoll, MaxConns: 10_000}, alike: true},
	{name: "queues of 1 and 2", Options: Options{EntryCount: 1, CompletionCount: 2}},
}

func overPlaced(t *testing.T, p Placement, test func(t *testing.T, o Options)) {
	for _, cs := range placed {
		if cs.alike && testing.Short() {
			continue
		}
		t.Run(fmt.Sprintf("%v %s", p, cs.name), func(t *testing.T) {
			o := cs.Options
			o.Loops, o.Placement, o.poison = 3, p, true
			test(t, o)
		})
	}
}

// spread is how many connections each loop has.
func (s *server) spread() []int {
	s.t.Helper()
	var n []int
	for _, st := range s.LoopStats() {
		n = append(n, int(st.Connections))
	}
	return n
}

func TestRoundRobinDealsInTurn(t *testing.T) {
	overPlaced(t, RoundRobin, func(t *testing.T, o Options) {
		srv := serve(t, o, echoLease(t), "127.0.0.1:0", "127.0.0.2:0")
		for i := range 9 {
			c := dialTo(t, srv.Addrs()[i%2])
			wantEcho(t, c, payload(uint64(i), 1000))
		}
		if got := srv.spread(); !slices.Equal(got, []int{3, 3, 3}) {
			t.Errorf("9 connections are on the loops as %v", got)
		}
		if st := srv.Stats(); st.Dealt != 5 {
			t.Errorf("%d connections were dealt, want 5: those for other loops than that which accepted them", st.Dealt)
		}
	})
}

func TestLeastConnectionsFillsWhatIsEmpty(t *testing.T) {
	overPlaced(t, LeastConnections, func(t *testing.T, o Options) {
		srv := serve(t, o, echoWrite(t))
		open := func(n int) {
			for i := range n {
				wantEcho(t, srv.dial(), payload(uint64(i), 1000))
			}
		}
		open(6)
		if got := srv.spread(); !slices.Equal(got, []int{2, 2, 2}) {
			t.Fatalf("6 connections are on the loops as %v", got)
		}
		srv.onLoop(1, func(l *loop) {
			for _, c := range l.testConns() {
				c.Abort(nil)
			}
		})
		until(t, "loop 1 to have none", func() bool { return srv.spread()[1] == 0 })
		open(2)
		if got := srv.spread(); !slices.Equal(got, []int{2, 2, 2}) {
			t.Errorf("two ended on loop 1 and two came: %v", got)
		}
		open(1)
		if got := srv.spread(); slices.Max(got) != 3 {
			t.Errorf("7 connections are on the loops as %v", got)
		}
		for i, l := range srv.loops {
			if n, has := int(l.in.load.Load()), srv.spread()[i]; n != has {
				t.Errorf("loop %d has %d connections, %d are counted", i, has, n)
			}
		}
	})
}

// What a loop cannot take goes to the next, at last to the one that accepted.
func TestLoopThatTakesNoConnectionsIsPassedOver(t *testing.T) {
	for _, p := range []Placement{RoundRobin, LeastConnections} {
		overPlaced(t, p, func(t *testing.T, o Options) {
			srv := serve(t, o, echoWrite(t))
			refuse := func(i int) {
				l := srv.loops[i]
				l.in.mu.Lock()
				defer l.in.mu.Unlock()
				l.in.closed = true
			}
			refuse(1)
			for i := range 6 {
				wantEcho(t, srv.dial(), payload(uint64(i), 100))
			}
			if got := srv.spread(); got[1] != 0 || got[0]+got[2] != 6 || got[2] == 0 {
				t.Errorf("6 connections are on the loops as %v, loop 1 takes none", got)
			}
			refuse(2)
			before := srv.spread()
			for i := range 6 {
				wantEcho(t, srv.dial(), payload(uint64(i), 100))
			}
			if got := srv.spread(); got[0] != before[0]+6 {
				t.Errorf("6 more connections are on the loops as %v, only loop 0 takes any", got)
			}
		})
	}
}

func TestInboxIsBounded(t *testing.T) {
	var b inbox
	for i := range int32(inboxMax) {
		if !b.put(arrival{fd: i}) {
			t.Fatalf("put %d is refused", i)
		}
	}
	if b.put(arrival{fd: -1}) {
		t.Error("a full inbox takes more")
	}
	if b.closeEmpty() {
		t.Error("an inbox that has something was closed")
	}
	got := b.take([]arrival{{fd: -7}})
	if len(got) != inboxMax+1 || got[0].fd != -7 || got[1].fd != 0 || got[inboxMax].fd != inboxMax-1 {
		t.Errorf("take gives %d: %v …", len(got), got[:3])
	}
	if len(b.take(nil)) != 0 || !b.put(arrival{fd: 1}) {
		t.Error("an inbox that was emptied has something, or takes nothing")
	}
	b.take(nil)
	if !b.closeEmpty() || b.put(arrival{fd: 1}) {
		t.Error("a closed inbox takes something")
	}
}

// Connections on their way to a loop that is busy may be reset meanwhile, or find
// the server ending.
func TestConnectionsOnTheirWayToALoop(t *testing.T) {
	for _, end := range []string{"reset", "shutdown", "close"} {
		overPlaced(t, RoundRobin, func(t *testing.T, o Options) {
			t.Run(end, func(t *testing.T) {
				srv := serve(t, o, echoWrite(t))
				const n = 30
				dropping := end == "shutdown"
				hold := srv.hold
				if dropping {
					// So that the loops hear of the end before they look for
					// connections, and open none of them.
					hold = srv.holdUntilDrained
				}
				release := []func(){hold(1), hold(2)}
				var conns []peerConn
				for range n {
					conns = append(conns, srv.dial())
				}
				waiting := func() (n int) {
					for _, l := range srv.loops[1:] {
						l.in.mu.Lock()
						n += len(l.in.queue)
						l.in.mu.Unlock()
					}
					return n
				}
				until(t, "20 connections to wait for the loops that are held", func() bool { return waiting() == n*2/3 })
				if end == "reset" {
					for _, c := range conns {
						_ = c.SetLinger(0)
						_ = c.Close()
					}
					for _, f := range release {
						f()
					}
					for range n {
						var op *OpError
						if err := srv.cause(); !errors.As(err, &op) || !errors.Is(err, unix.ECONNRESET) {
							t.Errorf("OnClose was told %v", err)
						}
					}
					return
				}
				ended := make(chan error, 1)
				go func() {
					if end == "close" {
						ended <- srv.Close()
					} else {
						ended <- srv.shutdown()
					}
				}()
				until(t, "loop 0 to end", func() bool {
					select {
					case <-srv.loops[0].done:
						return true
					default:
						return false
					}
				})
				for _, f := range release {
					f()
				}
				if err := await(t, ended, "the end"); err != nil {
					t.Error(err)
				}
				if st := srv.Stats(); st.Dropped+st.Accepted != n || dropping && st.Dropped != n*2/3 {
					t.Errorf("%d connections were dropped and %d opened, want 20 and 10", st.Dropped, st.Accepted)
				}
				for _, c := range conns {
					if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("after the end: %d bytes, %v", n, err)
					}
				}
			})
		})
	}
}

// So many that not all of them can be opened in one turn, nor wait in the loop.
func TestCrowdOfConnectionsAtOnce(t *testing.T) {
	var limit unix.Rlimit
	const n = inboxMax + 3*opensPerTurn
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*n+100 {
		t.Skipf("needs %d descriptors, has %d", 2*n+100, limit.Cur)
	}
	for _, p := range []Placement{Reuseport, RoundRobin} {
		overPlaced(t, p, func(t *testing.T, o Options) {
			if p == Reuseport {
				o.Loops = 1
			}
			srv := serve(t, o, echoWrite(t))
			var release []func()
			for i := range srv.loops {
				release = append(release, srv.hold(i))
			}
			var conns []stdnet.Conn
			for range n {
				c, err := stdnet.DialTimeout("tcp", srv.addr().String(), patience)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			for _, f := range release {
				f()
			}
			for i, c := range conns {
				if i%7 == 0 {
					wantEcho(t, c, payload(uint64(i), 10))
				}
			}
			until(t, "all to be open", func() bool { return srv.Stats().Connections == n })
			wantEcho(t, srv.dial(), payload(n, 10)) // it accepts again
		})
	}
}

// holdUntilDrained keeps a loop from doing anything until release is called, and then
// has it drain before all else.
func (s *server) holdUntilDrained(i int) (release func()) {
	s.t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	l := s.loops[i]
	if err := l.mail.post(func() { close(held); <-free; l.drain() }); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, held, "the loop to be held")
	return sync.OnceFunc(func() { close(free) })
}
