//go:build linux

package net

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// placedSeeds is where the seeds begin of worlds with placement and limits. They are
// as others, and besides the loop is one of a crew.
const placedSeeds = 1 << 62

// simTeam is what surrounds the loop of such a world: loops that are only played, in
// the events of the engine. They take what is dealt to them and close it after a
// while, deal connections of a listener of their own, and may end at any time.
type simTeam struct {
	w       *world
	r       *rand.Rand
	c       *team
	ghosts  []*loop
	fds     map[int32]*loop // that they have
	ln      int             // listener of the first; 0: none
	retires bool            // the end begins with Retire
	over    bool
}

// drawPlaced draws what such a world has beyond others. Its draws are its own, so
// that the rest is drawn as without it.
func drawPlaced(w *world, size int, o *Options) {
	if w.seed < placedSeeds {
		return
	}
	r := rand.New(rand.NewPCG(w.seed, 0x91ace))
	some := func(choices ...int) int { return choices[r.IntN(len(choices))] }
	o.MaxConns = some(0, 0, 1, 2, 5)
	if size == simCrowd {
		o.MaxConns *= 10 // else it takes the crowd a minute
	}
	o.MaxLoopBytes = some(0, 64<<10, 64<<10, 200_000)
	o.Placement = Placement(some(int(Reuseport), int(RoundRobin), int(LeastConnections)))
	w.team = &simTeam{w: w, r: r, fds: map[int32]*loop{}, retires: r.IntN(2) == 0}
}

// join makes the loop one of the crew, when it has its listener.
func (s *simTeam) join(l *loop) {
	if s == nil {
		return
	}
	all := []*loop{l}
	for i := range s.r.IntN(3) {
		g := &loop{index: i + 1, o: l.o, r: l.r}
		g.mail.wake = func() { s.w.e.After(s.upTo(300*time.Microsecond), func() { s.look(g) }) }
		g.mail.state.Store(mailAsleep)
		s.ghosts = append(s.ghosts, g)
		all = append(all, g)
		if s.r.IntN(4) == 0 {
			s.w.e.After(s.upTo(5*time.Millisecond), func() { s.end(g) })
		}
	}
	s.c = newTeam(l.o, all)
	for _, m := range all {
		m.team = s.c
	}
	l.listeners[0].dealt = l.o.Placement != Reuseport || s.r.IntN(2) == 0
	if len(s.ghosts) > 0 && s.r.IntN(2) == 0 {
		ln, err := s.w.e.ListenTCP(netip.MustParseAddrPort("10.0.0.1:0"), 1, true, false)
		if err != nil {
			s.w.e.Violate("listen: %v", err)
		}
		s.ln = ln
	}
}

func (s *simTeam) upTo(d time.Duration) time.Duration { return time.Duration(s.r.Int64N(int64(d))) }

// connected has a connection accepted by the first ghost, if it came to it.
func (s *simTeam) connected() {
	if s == nil || s.ln == 0 {
		return
	}
	s.w.e.After(s.upTo(200*time.Microsecond), func() {
		if s.over {
			return
		}
		g := s.ghosts[0]
		if s.c.limit != nil && !s.c.limit.tryTake() {
			s.again()
			return
		}
		fd, errno := s.w.e.Accept(s.ln)
		if errno != 0 {
			if s.c.limit != nil {
				s.c.limit.give()
			}
			if errno != unix.EAGAIN {
				s.again()
			}
			return
		}
		s.c.count(s.w.l, 1)
		if s.w.l.in.put(arrival{fd: int32(fd), h: s.w.l.h}) {
			s.w.l.mail.rouse()
			return
		}
		s.c.count(s.w.l, -1)
		s.c.count(g, 1)
		s.serve(g, int32(fd))
	})
}

func (s *simTeam) again() { s.w.e.After(time.Millisecond, s.connected) }

// look is a ghost's turn.
func (s *simTeam) look(g *loop) {
	if s.over {
		return
	}
	g.mail.state.Store(mailAsleep)
	for _, a := range g.in.take(nil) {
		s.serve(g, a.fd)
	}
}

// serve closes a connection after a while.
func (s *simTeam) serve(g *loop, fd int32) {
	s.fds[fd] = g
	s.w.e.After(s.upTo(3*time.Millisecond), func() {
		if !s.over {
			s.close(fd)
		}
	})
}

func (s *simTeam) close(fd int32) {
	g := s.fds[fd]
	delete(s.fds, fd)
	_ = s.w.e.CloseFd(int(fd))
	g.left()
}

// end has a ghost take nothing more.
func (s *simTeam) end(g *loop) {
	for !g.in.closeEmpty() {
		for _, a := range g.in.take(nil) {
			s.serve(g, a.fd)
		}
	}
}

// endAll ends the ghosts and all that they have.
func (s *simTeam) endAll() {
	if s == nil || s.over || s.c == nil {
		return
	}
	for _, g := range s.ghosts {
		s.end(g)
	}
	for _, fd := range slices.Sorted(maps.Keys(s.fds)) { // so that worlds are the same each time
		s.close(fd)
	}
	if s.ln != 0 {
		_ = s.w.e.CloseFd(s.ln)
	}
	s.over = true
}

// drain is how such a world ends: often by Retire first.
func (s *simTeam) drain() bool {
	s.endAll()
	if s == nil || !s.retires {
		return false
	}
	_ = s.w.l.mail.post(s.w.l.retire)
	s.w.e.After(s.upTo(20*time.Millisecond), func() {
		if !s.w.over {
			_ = s.w.l.mail.post(s.w.l.drain)
		}
	})
	return true
}

// check holds the loop to its limits, whenever a connection is opened or closed.
func (s *simTeam) check() {
	if s == nil {
		return
	}
	l := s.w.l
	if m := s.c.limit; m != nil {
		accepted := 0
		l.table.each(func(c *Conn) {
			if c.accepted {
				accepted++
			}
		})
		if used := int(m.used.Load()); used > l.o.MaxConns || accepted > used {
			s.w.e.Violate("%d places are used and %d accepted connections are open, MaxConns is %d", used, accepted, l.o.MaxConns)
		}
	}
	kept := 0
	l.table.each(func(c *Conn) { kept += len(c.seldom().kept) })
	if kept != l.heldInput {
		s.w.e.Violate("%d bytes of input are kept, %d are counted", kept, l.heldInput)
	}
	if l.held < l.heldInput {
		s.w.e.Violate("%d bytes are held, %d of them are input", l.held, l.heldInput)
	}
}

// judge wants nothing to be left of the limits' counts.
func (s *simTeam) judge() {
	if s == nil {
		return
	}
	if m := s.c.limit; m != nil && m.used.Load() != 0 {
		s.w.e.Violate("after the end: %d places are used", m.used.Load())
	}
	for i, l := range s.c.loops {
		if n := l.in.load.Load(); n != 0 {
			s.w.e.Violate("after the end: loop %d is counted to have %d connections", i, n)
		}
	}
}

// TestSimulatedWorldsWithPlacementAndLimits runs worlds in which other loops deal
// connections and are dealt some, and in which connections and memory are limited.
func TestSimulatedWorldsWithPlacementAndLimits(t *testing.T) {
	worlds := 3000
	if simRace {
		worlds = 500
	}
	if testing.Short() {
		worlds = 50 // the same on every kernel
	}
	var sum simSum
	runWorlds(t, placedSeeds, worlds, func(out *simOutcome) { sum.add(out) })
	if t.Failed() || worlds < 3000 {
		return
	}
	st := sum.stats
	for name, n := range map[string]uint64{"AtLimit": st.AtLimit, "Dealt": st.Dealt, "Heavy": st.Heavy, "Evicted": st.Evicted} {
		if n == 0 {
			t.Errorf("no world had any %s", name)
		}
	}
	t.Logf("the server: %+v", st)
}
