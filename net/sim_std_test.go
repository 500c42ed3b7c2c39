//go:build linux

package net

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/sim"
)

// handedSeeds is where the seeds begin of worlds in which connections are handed over.
// They are as others, and the handlers give many of their connections away, at any
// time. What std would make of them is played: it reads to the end, and writes.
const handedSeeds = 1 << 61

// simStd is that part of such a world.
type simStd struct {
	w     *world
	r     *rand.Rand
	given map[int]*sim.Peer // by descriptor: on its way to its owner
	conns []*simParted
	asked int // hand-overs that were begun
}

// drawStd makes such a world of w. Its draws are its own, so that the rest is drawn as
// without it.
func drawStd(w *world) {
	if w.seed < handedSeeds || w.seed >= placedSeeds {
		return
	}
	w.std = &simStd{w: w, r: rand.New(rand.NewPCG(w.seed, 0x57d)), given: map[int]*sim.Peer{}}
	w.e.OnForget = func(fd int, p *sim.Peer) {
		if w.std.given[fd] != nil {
			w.e.Violate("descriptor %d is given away twice", fd)
		}
		w.std.given[fd] = p
	}
}

// simParting is when a connection is handed over, and what comes of it.
type simParting struct {
	in simCallback // simCallbacks: by a function that is posted
	at int         // with simInData: after so many bytes

	asked bool
	told  int // take and miss
	whole bool
}

// draw says when a connection is handed over, if it is.
func (s *simStd) draw(k *simConn) {
	if s == nil || s.r.IntN(4) == 0 {
		return
	}
	some := func(choices ...int) int { return choices[s.r.IntN(len(choices))] }
	k.part = &simParting{
		in: simCallback(some(int(simInOpen), int(simInData), int(simInData), int(simInData), int(simInEOF), int(simInWritable), int(simInShutdown), int(simCallbacks), int(simCallbacks))),
		at: some(0, 0, 1, 500, 5000, 50_000),
	}
	if k.part.in == simCallbacks {
		k.later(time.Duration(some(10, 500, 5000, 50_000))*time.Microsecond, func() { s.handOver(k) })
	}
}

// act hands a connection over if this is the callback to do so.
func (s *simStd) act(k *simConn, in simCallback) {
	if s != nil && k.part != nil && k.part.in == in && (in != simInData || k.offered >= k.part.at) {
		s.handOver(k)
	}
}

func (s *simStd) handOver(k *simConn) {
	if k.part.asked || k.closing || k.closed {
		return
	}
	over := k.c.state&(closing|dead|finished) != 0
	s.w.e.Note("connection %d is handed over", k.n)
	err := s.w.l.handOver(k.c, simTaker{k})
	if (err != nil) != over {
		s.w.e.Violate("hand over connection %d: %v, in state %b", k.n, err, k.c.state)
	}
	if err == nil {
		s.asked++
		k.part.asked, k.closing = true, true
		if _, err := k.c.Write([]byte{1}); !errors.Is(err, ErrClosed) {
			s.w.e.Violate("Write after HandOver: %v", err)
		}
	}
}

// simTaker is who a connection is handed over to.
type simTaker struct{ k *simConn }

func (t simTaker) miss(err error) {
	k := t.k
	k.part.told++
	switch {
	case !k.closed:
		k.w.e.Violate("the hand-over of connection %d fails before OnClose", k.n)
	case k.cause != err && (k.cause != nil || err != ErrClosed):
		k.w.e.Violate("the hand-over of connection %d fails with %v, OnClose was told %v", k.n, err, k.cause)
	case errors.Is(err, ErrHandedOver):
		k.w.e.Violate("the hand-over of connection %d fails with %v", k.n, err)
	}
}

func (t simTaker) take(p *parted) {
	k, s := t.k, t.k.w.std
	k.part.told++
	if !k.closed || k.cause != ErrHandedOver {
		s.w.e.Violate("connection %d is handed over, OnClose: %v, %v", k.n, k.closed, k.cause)
	}
	end := s.given[p.fd]
	delete(s.given, p.fd)
	if end == nil {
		s.w.e.Violate("connection %d is handed over with descriptor %d, which was not given away", k.n, p.fd)
		return
	}
	g := &simParted{k: k, end: end, errno: p.errno}
	s.conns = append(s.conns, g)
	s.w.e.Note("connection %d: its new owner has %d bytes in front, %v", k.n, len(p.front), p.errno)
	g.check(p.front)
	if g.errno != 0 {
		if k.peer != nil && !k.peer.p.WasReset() && !k.peer.p.Closed() {
			s.w.e.Violate("connection %d comes with %v, its peer is well", k.n, g.errno)
		}
		g.close()
		return
	}
	end.Notify = g.look
	// On another goroutine, so some time later.
	s.w.e.After(time.Duration(s.r.IntN(200))*time.Microsecond, func() {
		g.ready = true
		g.write(s.r.IntN(2) * s.r.IntN(3000))
		g.look()
	})
}

// simParted is a connection that belongs to std.
type simParted struct {
	k      *simConn
	end    *sim.Peer
	errno  unix.Errno
	ready  bool
	closed bool
}

// check holds bytes to what the peer has sent.
func (g *simParted) check(b []byte) {
	k := g.k
	if p := k.peer; p != nil {
		at := p.at + k.consumed
		if k.consumed+len(b) > p.sent {
			k.w.e.Violate("connection %d: std reads %d bytes, the peer has sent %d", k.n, k.consumed+len(b), p.sent)
		} else if !bytes.Equal(b, patternBytes[at:at+len(b)]) {
			k.w.e.Violate("connection %d: the %d bytes from %d on that std reads are not what the peer sent: %v", k.n, len(b), k.consumed, differ(b, patternBytes[at:at+len(b)]))
		}
	}
	k.consumed += len(b)
	k.offered = max(k.offered, k.consumed)
}

// write writes n bytes of the connection's own, as far as there is room.
func (g *simParted) write(n int) {
	k := g.k
	at := k.own()
	for _, run := range k.out {
		if run.at >= 1<<20 {
			at += run.n
		}
	}
	if n > 0 && !k.writeEnded {
		if m, err := g.end.Write(patternBytes[at : at+n]); err == nil {
			k.put(at, m)
		}
	}
}

func (g *simParted) look() {
	var b [4096]byte
	for g.ready && !g.closed {
		n, err := g.end.Read(b[:])
		switch {
		case err == nil:
			g.check(b[:n])
		case errors.Is(err, unix.EAGAIN):
			return
		case err == io.EOF:
			g.k.offered = g.k.consumed
			g.k.checkWhole("std's end")
			g.k.part.whole = true
			g.write(10)
			g.close()
		default:
			if p := g.k.peer; p != nil && !p.p.WasReset() && !p.p.Closed() {
				g.k.w.e.Violate("connection %d: std reads %v, its peer is well", g.k.n, err)
			}
			g.close()
		}
	}
}

func (g *simParted) close() {
	if !g.closed {
		g.closed = true
		g.end.Close()
	}
}

// judge wants each hand-over to have come to one end.
func (s *simStd) judge() {
	if s == nil {
		return
	}
	for _, k := range s.w.list {
		if k.part == nil {
			continue
		}
		if want := map[bool]int{true: 1, false: 0}[k.part.asked]; k.part.told != want {
			s.w.e.Violate("connection %d: who it is handed over to is told %d times, want %d", k.n, k.part.told, want)
		}
	}
	for _, g := range s.conns {
		if !g.closed {
			s.w.e.Violate("connection %d: std hears nothing of its end", g.k.n)
			g.close()
		}
	}
	st := s.w.l.final
	if len(s.given) > 0 || st.HandedOver != uint64(len(s.conns)) || st.HandedOver+st.HandOversLost != uint64(s.asked) {
		s.w.e.Violate("%d hand-overs were begun, %d counted and %d lost; %d connections are std's, %d descriptors nobody's",
			s.asked, st.HandedOver, st.HandOversLost, len(s.conns), len(s.given))
	}
}

// TestSimulatedWorldsWithHandOvers runs worlds in which connections are handed over, at
// any time: every byte has to get to the handler or to std, once and in order, whatever
// completions come in what order around the cancel of the receive.
func TestSimulatedWorldsWithHandOvers(t *testing.T) {
	worlds := 3000
	if simRace {
		worlds = 500
	}
	if testing.Short() {
		worlds = 50 // the same on every kernel
	}
	var sum simSum
	runWorlds(t, handedSeeds, worlds, func(out *simOutcome) { sum.add(out) })
	if t.Failed() || worlds < 3000 {
		return
	}
	st := sum.stats
	for name, n := range map[string]uint64{"HandedOver": st.HandedOver, "HandOversLost": st.HandOversLost} {
		if n == 0 {
			t.Errorf("no world had any %s", name)
		}
	}
	t.Logf("%d handed over, %d lost", st.HandedOver, st.HandOversLost)
}
