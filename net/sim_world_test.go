//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"example.com/ringnet/internal/engine/sim"
	"example.com/ringnet/ring"
)

// world is one simulated world: a server with one loop, some peers, a network and
// a kernel, all drawn from a seed. The loop runs on the goroutine that runs the
// world, and everything else happens inside the engine's calls.
type world struct {
	seed uint64
	r    *rand.Rand // the program's and the peers' draws; the engine has its own
	o    *Options
	e    *sim.Engine
	l    *loop
	team *simTeam // nil: the loop is alone

	peers    []*simPeer
	alive    int
	ends     int // how often all peers had gone
	dials    []*simDial
	conns    map[*Conn]*simConn
	list     []*simConn
	running  *Conn
	panics   int
	draining bool
	cutting  bool
	over     bool

	truncated bool // a file
	drainAt   time.Duration
	clocks    simClocks

	packets *simPackets // nil: no UDP
	std     *simStd     // nil: nothing is handed over

	serves func() *handlers // nil: a simHandler
}

// simOutcome is what became of a world.
type simOutcome struct {
	seed   uint64
	faults []string
	counts sim.Counts
	stats  Stats
	spent  time.Duration // of its own time
	untold int           // errors of UDP sockets that were only counted
}

// simFeatures are those that a world may or may not have.
var simFeatures = []ring.Features{ring.AcceptMultishot, ring.RecvMultishot, ring.PollMultishot, ring.DirectDescriptors,
	ring.RecvMultishotReset}

// drawOptions draws how the server is set up.
func drawOptions(r *rand.Rand) (Options, ring.Features) {
	some := func(choices ...int) int { return choices[r.IntN(len(choices))] }
	o := Options{Loops: 1, poison: r.IntN(8) > 0, Logger: slog.New(slog.DiscardHandler)}
	o.EntryCount = some(1, 2, 4, 16, 256)
	o.CompletionCount = max(o.EntryCount, some(2, 4, 8, 64, 1024))
	o.RecvBufBytes = some(16, 64, 200, 1000, 1000, 4096, 4096, 20_000)
	o.RecvBufs = some(1, 2, 4, 7, 32, 64, 256)
	o.BulkBufBytes = some(4096, 5000, 16384, 65536)
	o.BulkBufs = some(1, 2, 16)
	o.FileBufs = some(1, 2, 16)
	o.NoBulk = r.IntN(3) == 0
	o.HighWater = some(0, 1, 1000, 10_000, 60_000)
	if o.HighWater > 0 && r.IntN(2) == 0 {
		o.LowWater = max(1, some(1, o.HighWater/2, o.HighWater))
	}
	if o.HighWater > 0 {
		o.MaxBuffered = some(o.HighWater, 2*o.HighWater, 0)
	}
	o.MaxUnconsumed = some(0, 0, 20, 2000)
	o.CloseTimeout = time.Duration(some(0, 0, -1, 1, 50)) * time.Millisecond
	o.Spin = time.Duration(some(-1, -1, 0, 10)) * time.Microsecond
	o.Delay = r.IntN(2) == 0
	o.ZeroCopyFrom = some(1, 100, 5000, 0, -1)
	have := ring.BufferRings | ring.SyncMessage | ring.SendZC | ring.SendmsgZC | ring.UsageReport | ring.DirectRelease
	all := r.IntN(2) == 0
	for _, f := range simFeatures {
		if all || r.IntN(2) == 0 {
			have |= f
		}
	}
	return o, have
}

// runWorld runs the world of a seed to its end.
func runWorld(seed uint64, trace io.Writer) (out simOutcome) {
	out.seed = seed
	w := &world{seed: seed, r: rand.New(rand.NewPCG(seed, 0x3_0f_a_3319)), conns: map[*Conn]*simConn{}}
	size := w.r.IntN(50)
	o, have := drawOptions(w.r)
	if seed%3 == 0 {
		have |= ring.RecvMultishotLate
	}
	if size == simCrowd && seed%2 == 0 {
		o.EntryCount, o.CompletionCount = 256, 1024 // for batches that are flushed in their middle
		o.RecvBufBytes, o.RecvBufs = max(o.RecvBufBytes, 1000), max(o.RecvBufs, 64)
	}
	if size == simFat {
		o.NoBulk, o.RecvBufBytes, o.RecvBufs = false, 4096, 64
	}
	w.drawClocks(&o)
	drawPlaced(w, size, &o)
	o, err := o.check()
	if err != nil {
		out.faults = []string{err.Error()}
		return out
	}
	w.o = &o
	kernel := sim.Options{Seed: seed, EntryCount: o.EntryCount, CompletionCount: o.CompletionCount, Faults: sim.DrawFaults(w.r), Trace: trace,
		ForgetsResets: have&ring.RecvMultishotReset == 0, ForgetsLate: have&ring.RecvMultishotLate == 0}
	if size == simCrowd {
		kernel.MaxSteps = 3_000_000
	}
	if w.r.IntN(4) == 0 && size != simCrowd {
		kernel.Descriptors = 1 + w.r.IntN(3)
	}
	w.e = sim.New(kernel)
	w.e.OnConnect = w.answer
	drawStd(w)
	o.over = func(_ int, c ring.Config) (*ring.Ring, error) { return ring.Over(w.e, ring.Sim, have, c), nil }
	if w.e.Tracing() {
		w.e.Note("seed %d: faults %v", seed, kernel.Faults)
		w.e.Note("features %v, descriptors %d", have, kernel.Descriptors)
		w.e.Note("options %+v", plain(o))
	}
	w.populate(size)
	if seed%6 == 0 && size != simCrowd && size != simFat {
		w.populatePackets()
	}
	w.run()
	out.counts, out.faults, out.spent = w.e.Counts(), w.e.Violations(), w.e.Clock()
	if w.l != nil {
		out.stats = w.l.final
	}
	if w.packets != nil {
		out.untold = w.packets.untold
	}
	return out
}

// plain is options without what prints as an address.
func plain(o Options) Options {
	o.Logger, o.over = nil, nil
	return o
}

// Some worlds are larger than others.
const (
	simCrowd = iota // many peers, many of them at the same moment
	simFat          // one that sends more than a turn may take
)

// populate draws the peers and when they come.
func (w *world) populate(size int) {
	most := max(2000, min(300_000, 200*w.o.RecvBufBytes))
	n, within := 1+w.r.IntN(6), 3000
	switch size {
	case simCrowd:
		n, within, most = 30+w.r.IntN(60), 1+w.r.IntN(200), min(5000, 20*w.o.RecvBufBytes)
		if w.r.IntN(2) == 0 {
			within, most = 1, min(15_000, 20*w.o.RecvBufBytes)
		}
	case simFat:
		n, most = 1, 1_400_000+w.r.IntN(900_000)
	}
	w.peers = make([]*simPeer, n)
	w.alive = n
	shared := drawRoute(w.r)
	for i := range w.peers {
		p := drawPeer(w, i, most)
		w.peers[i] = p
		route := drawRoute(w.r)
		if size == simFat {
			p.total, p.drip, p.chunk, p.pingPong = most, most, most/2, true
			route.SendBytes, route.RecvBytes, route.Piece = 4<<20, 1<<20, 4<<20
		}
		if within == 1 {
			route, p.total, p.chunk, p.pingPong = shared, most, most, true
		}
		w.e.After(time.Duration(w.r.IntN(within))*time.Microsecond, func() { p.begin(route) })
	}
	if w.r.IntN(3) == 0 {
		at := time.Duration(w.r.IntN(20_000)) * time.Microsecond
		w.e.After(at, w.drain)
		if w.r.IntN(2) == 0 {
			w.e.After(at+time.Duration(w.r.IntN(20_000))*time.Microsecond, w.cut)
		}
	}
}

// drain is what Server.Shutdown does, cut what it does when its context ends.
func (w *world) drain() {
	if w.over || w.draining {
		return
	}
	w.e.Note("shutdown")
	w.draining, w.drainAt = true, w.e.Clock()
	if !w.team.drain() {
		_ = w.l.mail.post(w.l.drain)
	}
}

func (w *world) cut() {
	if w.over || w.cutting {
		return
	}
	w.e.Note("close")
	if !w.draining {
		w.draining, w.drainAt = true, w.e.Clock()
	}
	w.cutting = true
	w.team.endAll()
	_ = w.l.mail.post(w.l.cut)
}

// peerDone ends the world some time after the last peer has gone: the server must
// have noticed by then.
func (w *world) peerDone() {
	if w.alive--; w.alive > 0 {
		return
	}
	w.ends++
	end := w.ends
	w.e.After(patienceOfPeers, func() {
		if w.over || end != w.ends || w.alive > 0 {
			return
		}
		if w.l.table.used > 0 {
			for i := range w.l.table.slots {
				if c := w.l.table.slots[i].conn; c != nil {
					w.e.Violate("connection %d is open long after its peer has gone: state %b, %d bytes of output", w.number(w.conns[c]), c.state, c.out.bytes)
				}
			}
		}
		if w.packets != nil {
			w.packets.settled()
		}
		if w.draining {
			w.e.Violate("the loop goes on although it was to end")
		}
		w.drain()
	})
	w.e.After(2*patienceOfPeers, func() {
		if end == w.ends && w.alive == 0 {
			w.cut()
		}
	})
}

// run runs the loop on this goroutine, and then judges.
func (w *world) run() {
	defer func() {
		if v := recover(); v != nil {
			abandon(w)
			if stop, ok := v.(sim.Stop); ok {
				w.e.Violate("%s", stop.Reason)
				return
			}
			w.e.Violate("panic: %v\n%s", v, debug.Stack())
		}
	}()
	h := simHandler{w}
	hs := &handlers{Handler: h}
	if w.r.IntN(2) == 0 {
		hs.eof = h
	}
	if w.r.IntN(2) == 0 {
		hs.writable = h
	}
	if w.r.IntN(2) == 0 {
		hs.shutdown = h
	}
	if w.serves != nil {
		hs = w.serves()
	}
	if w.hasSessions() {
		hs.secure = simSecurer{w}
	}
	l, err := newLoop(0, w.o, hs)
	if err != nil {
		w.e.Violate("newLoop: %v", err)
		return
	}
	w.l = l
	// Whether other goroutines wait for a processor is not for a world to know.
	l.spin.sample[0].Name = "none"
	if _, err := listenAll([]*loop{l}, listenAddr{AddrPort: netip.MustParseAddrPort("10.0.0.1:0")}); err != nil {
		w.e.Violate("listen: %v", err)
		return
	}
	if w.packets != nil && !w.packets.listen() {
		return
	}
	w.team.join(l)
	ready := make(chan error, 1)
	l.run(ready)
	w.over = true
	if err := <-ready; err != nil {
		w.e.Violate("start: %v", err)
		return
	}
	w.e.Finish()
	w.judge()
}

// abandoned are worlds that ended in their middle. The memory that they have
// pinned would be missed if they were collected.
var abandoned struct {
	sync.Mutex
	worlds []*world
}

func abandon(w *world) {
	abandoned.Lock()
	defer abandoned.Unlock()
	abandoned.worlds = append(abandoned.worlds, w)
}

// judge holds the end of a world to what must hold after every end.
func (w *world) judge() {
	l, st := w.l, w.l.final
	w.team.judge()
	if l.err != nil {
		w.e.Violate("the loop ended with: %v", l.err)
	}
	if st.InFlight != 0 || st.Connections != 0 || st.LeasesOut != 0 || st.CopiesOut != 0 || st.HeldBytes != 0 {
		w.e.Violate("after the end: %d operations in flight, %d connections, %d leases and %d copies out", st.InFlight, st.Connections, st.LeasesOut, st.CopiesOut)
	}
	if n := st.Accepted + st.Dialled; n != st.Closed || n != uint64(len(w.list))+st.TLSHandshakeErrors || st.Dialling != 0 {
		w.e.Violate("after the end: %d connections accepted, %d dialled, %d closed, %d opened, %d are being made", st.Accepted, st.Dialled, st.Closed, len(w.list), st.Dialling)
	}
	if st.Panics != uint64(w.panics) {
		w.e.Violate("after the end: %d panics counted of %d", st.Panics, w.panics)
	}
	if st.TimersFired != uint64(w.clocks.fired) {
		w.e.Violate("after the end: %d timers counted of %d", st.TimersFired, w.clocks.fired)
	}
	if st.Stale > uint64(w.e.Counts().Stale) {
		w.e.Violate("after the end: %d stale completions, the engine made %d", st.Stale, w.e.Counts().Stale)
	}
	for _, k := range w.list {
		if !k.closed {
			w.e.Violate("after the end: OnClose of connection %d was not called", k.n)
		}
	}
	for _, p := range w.peers {
		p.judge()
	}
	if w.packets != nil {
		w.packets.judge()
	}
	for _, s := range w.dials {
		s.judge()
	}
	w.std.judge()
}

// report is what a failed world prints.
func (o *simOutcome) report() error {
	if len(o.faults) == 0 {
		return nil
	}
	err := fmt.Errorf("seed %d: %s", o.seed, o.faults[0])
	for _, f := range o.faults[1:] {
		err = errors.Join(err, errors.New("\t"+f))
	}
	return fmt.Errorf("%w\nto see it again: go test ./net -run TestSimulatedWorlds -sim.seed=%d -sim.trace", err, o.seed)
}
