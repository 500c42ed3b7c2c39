//go:build linux

package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/ringnet/bufring"
	"example.com/ringnet/internal/engine/sim"
	"example.com/ringnet/ring"
)

// postWorld is a simulated world in which other goroutines post to a loop at every
// point of its turns: between its steps, before and within the engine's calls,
// and while it sleeps. As a rule it has nothing else to do, and nothing comes for
// long after a post, so that a wake-up that is lost stays lost.
type postWorld struct {
	r    *rand.Rand
	e    *sim.Engine
	l    *loop
	srv  Server // for Broadcast
	work []func()

	refs   []Ref // of connections that are open, or have been
	open   map[Ref]*Conn
	peers  map[int]*postPeer
	nextID int

	posts, ran, wakes int
	offloads, results int
	busy              bool // posting: posts make no posts
	over              bool
}

// postPeer is a client that reads posts.
type postPeer struct {
	w    *postWorld
	p    *sim.Peer
	part []byte
	last uint32 // the number of the last post
	got  int
	gone bool
}

// postLatency is how long a post may take to be carried out. Faults hold the loop
// up for some tens of microseconds each; a lost wake-up does for ever.
const postLatency = 20 * time.Millisecond

// hookedEngine posts before the engine's calls.
type hookedEngine struct {
	*sim.Engine
	w *postWorld
}

func (h hookedEngine) Now() time.Duration                   { h.w.point(); return h.Engine.Now() }
func (h hookedEngine) Submit(n uint32) (int, syscall.Errno) { h.w.point(); return h.Engine.Submit(n) }
func (h hookedEngine) Poll(n uint32) (int, syscall.Errno)   { h.w.point(); return h.Engine.Poll(n) }
func (h hookedEngine) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	h.w.point()
	return h.Engine.Wait(n, min, timeout)
}

// point is where another goroutine may post.
func (w *postWorld) point() {
	if w.r.IntN(100) == 0 {
		w.post()
	}
}

type postHandler struct {
	Events
	w *postWorld
}

func (h postHandler) OnOpen(c *Conn) {
	w := h.w
	ref := c.Ref()
	w.open[ref] = c
	w.refs = append(w.refs, ref)
	if len(w.refs) > 20 {
		w.refs = w.refs[1:]
	}
}

func (h postHandler) OnClose(c *Conn, err error) {
	if h.w.open[c.Ref()] != c {
		h.w.e.Violate("a connection ends that was not open")
	}
	delete(h.w.open, c.Ref())
}

func (h postHandler) OnWake(c *Conn) { h.w.wakes++ }

// expect wants the function that it returns to be called in time.
func (w *postWorld) expect(what string) (called func()) {
	done := false
	at := w.e.Clock()
	w.posts++
	w.e.After(postLatency, func() {
		if !done && !w.over {
			w.e.Violate("%s, posted at %v, is not carried out by %v", what, at, w.e.Clock())
		}
	})
	return func() {
		if done {
			w.e.Violate("%s, posted at %v, is carried out twice", what, at)
		}
		done = true
		w.ran++
	}
}

// post does what some other goroutine may do.
func (w *postWorld) post() {
	if w.busy || w.over || len(w.refs) == 0 {
		return
	}
	w.busy = true
	defer func() { w.busy = false }()
	ref := w.refs[w.r.IntN(len(w.refs))]
	_, open := w.open[ref]
	w.posts++
	seq := uint32(w.posts)
	b := func() []byte { return newPost(0, seq, w.r.IntN(30)*w.r.IntN(30)*w.r.IntN(10)) }
	var err error
	act := w.r.IntN(14)
	w.e.Note("post %d of kind %d", seq, act)
	switch act {
	case 0, 1:
		err = ref.Send(b())
	case 2:
		err = ref.SendMessage(NewMessage(b()))
	case 3:
		err = ref.SendLease(bufring.Wrap(b()))
	case 4:
		_, err = w.srv.Broadcast(slices.Clone(w.refs), NewMessage(b()))
		open = true
	case 5:
		err = w.srv.BroadcastAll(NewMessage(b()))
		open = true
	case 6:
		before := w.wakes
		if err = ref.Wake(); err == nil {
			called := w.expect("a wake")
			w.e.After(postLatency/2, func() {
				if _, still := w.open[ref]; !still || w.wakes > before {
					called()
				}
			})
		}
	case 7:
		if w.r.IntN(10) == 0 {
			err = ref.Close()
		} else {
			err = ref.Post(func(c *Conn) { _, _ = c.Write(nil) })
		}
	case 8:
		if w.r.IntN(10) == 0 {
			err = ref.Abort(errSimAbort)
		} else {
			err = ref.Send(nil)
		}
	case 9:
		err = ref.Post(func(c *Conn) { w.offload(c) })
	default:
		called := w.expect("a function")
		if err = ref.PostOr(func(c *Conn) {
			if c != nil && w.open[ref] != c {
				w.e.Violate("a function gets another connection")
			}
			called()
		}); err != nil {
			called()
		}
	}
	switch {
	case err == nil, errors.Is(err, ErrBusy), errors.Is(err, ErrBacklog):
	case errors.Is(err, ErrClosed):
		if open && ref.may(refClosing) == nil {
			w.e.Violate("an open connection is said to be closed")
		}
	default:
		w.e.Violate("post: %v", err)
	}
}

// offload has work come back at any time.
func (w *postWorld) offload(c *Conn) {
	came := func() { w.results++ }
	if err := Offload(c, func() (resource, error) { return resource{func(string) { came() }}, nil },
		func(*Conn, resource, error) { came() }); err == nil {
		w.offloads++
	} else if !errors.Is(err, ErrBusy) {
		w.e.Violate("offload: %v", err)
	}
}

// dial brings a client, which leaves some time.
func (w *postWorld) dial() {
	if w.over {
		return
	}
	w.nextID++
	p := &postPeer{w: w}
	w.peers[w.nextID] = p
	w.e.Dial(w.nextID, drawRoute(w.r), func(peer *sim.Peer) {
		if peer == nil {
			return
		}
		p.p = peer
		peer.Notify = p.look
		w.e.After(time.Duration(w.r.Int64N(int64(10*time.Second))), func() {
			if p.gone {
				return
			}
			p.gone = true
			if w.r.IntN(2) == 0 {
				peer.Reset()
			} else {
				peer.Close()
			}
			w.e.After(time.Duration(w.r.Int64N(int64(time.Second))), w.dial)
		})
		p.look()
	})
}

// look reads what is there, and holds the posts to their numbers and bytes.
func (p *postPeer) look() {
	var b [4096]byte
	for !p.gone {
		n, err := p.p.Read(b[:])
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil {
			p.gone = true
			p.p.Close()
			p.w.e.After(time.Millisecond, p.w.dial)
			return
		}
		p.part = append(p.part, b[:n]...)
		for len(p.part) >= postHead {
			all := postHead + int(binary.LittleEndian.Uint32(p.part[8:]))
			if all > 1<<20 || len(p.part) < all {
				break
			}
			seq := binary.LittleEndian.Uint32(p.part[4:])
			if err := differ(p.part[:all], newPost(0, seq, all-postHead)); err != nil || seq <= p.last {
				p.w.e.Violate("post %d comes after %d: %v", seq, p.last, err)
				p.gone = true
				return
			}
			p.last = seq
			p.got++
			p.part = p.part[all:]
		}
	}
}

// run runs the loop until the world's end.
func (w *postWorld) run(o Options, have ring.Features, long time.Duration) {
	defer func() {
		if v := recover(); v != nil {
			if stop, ok := v.(sim.Stop); ok {
				w.e.Violate("%s", stop.Reason)
				return
			}
			w.e.Violate("panic: %v\n%s", v, debug.Stack())
		}
	}()
	r := w.r
	o.MaxBuffered, o.HighWater, o.LowWater = 0, 0, 0
	o.MaxPosted = []int{2, 100, 100_000}[r.IntN(3)]
	o.Logger = slog.New(slog.DiscardHandler)
	o, err := o.check()
	if err != nil {
		w.e.Violate("%v", err)
		return
	}
	o.over = func(_ int, c ring.Config) (*ring.Ring, error) {
		return ring.Over(hookedEngine{w.e, w}, ring.Sim, have, c), nil
	}
	l, err := newLoop(0, &o, newHandlers(postHandler{w: w}))
	if err != nil {
		w.e.Violate("newLoop: %v", err)
		return
	}
	w.l = l
	l.spin.sample[0].Name = "none"
	l.crew = &crew{instead: func(f func()) error {
		if r.IntN(10) == 0 {
			f() // it has ended already
			return nil
		}
		w.work = append(w.work, f)
		w.e.After(time.Duration(r.Int64N(int64(time.Second))), func() {
			f, rest := w.work[0], w.work[1:]
			w.work = rest
			f()
		})
		return nil
	}}
	w.srv.serving.Store(&[]*loop{l})
	if _, err := listenAll([]*loop{l}, listenAddr{AddrPort: netip.MustParseAddrPort("10.0.0.1:0")}); err != nil {
		w.e.Violate("listen: %v", err)
		return
	}
	for range 1 + r.IntN(8) {
		w.dial()
	}
	// Posts while the loop sleeps, most of them long after another.
	var tick func()
	gap := []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond}[r.IntN(3)]
	tick = func() {
		for range 1 + r.IntN(1+r.IntN(4)) {
			w.post()
		}
		if !w.over {
			w.e.After(time.Duration(r.Int64N(int64(2*gap))), tick)
		}
	}
	tick()
	w.e.After(long, func() { _ = l.mail.demand(letter{what: l.drain}) })
	w.e.After(long+time.Minute, func() { _ = l.mail.demand(letter{what: l.cut}) })
	if err := l.start(); err != nil {
		w.e.Violate("start: %v", err)
		return
	}
	for !l.stopped {
		l.wait()
		w.point()
		l.dispatch()
		w.point()
		l.runPosted()
		w.point()
		l.expire()
		w.point()
	}
	w.post() // at the last moment
	l.teardown()
	w.over = true
	w.e.Finish()
	if l.err != nil {
		w.e.Violate("the loop ended with: %v", l.err)
	}
	if st := l.final; st.InFlight != 0 || st.Connections != 0 || st.LeasesOut != 0 || st.CopiesOut != 0 || len(w.open) != 0 {
		w.e.Violate("after the end: %d operations in flight, %d connections, %d leases and %d copies out", st.InFlight, st.Connections, st.LeasesOut, st.CopiesOut)
	}
	if w.offloads != w.results {
		w.e.Violate("%d pieces of work were offloaded, %d results came back or were released", w.offloads, w.results)
	}
}

// An hour of their own time, at least, in which goroutines post at every point of
// a loop's turn.
func TestSimulatedPosters(t *testing.T) {
	const long, least = 45 * time.Second, time.Hour
	worlds := uint64(least/long) + 10
	if testing.Short() || simRace {
		worlds /= 8
	}
	first, last := uint64(1), worlds
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	var spent time.Duration
	var posts, ran, got, dropped int
	for seed := first; seed <= last; seed++ {
		w := &postWorld{r: rand.New(rand.NewPCG(seed, 0x9057)), open: map[Ref]*Conn{}, peers: map[int]*postPeer{}}
		o, have := drawOptions(w.r)
		w.e = sim.New(sim.Options{Seed: seed, EntryCount: o.EntryCount, CompletionCount: o.CompletionCount, Faults: sim.DrawFaults(w.r), MaxSteps: 50_000_000})
		w.run(o, have, long)
		if faults := w.e.Violations(); len(faults) > 0 {
			t.Errorf("seed %d: %s\nto see it again: go test ./net -run TestSimulatedPosters -sim.seed=%d", seed, faults[0], seed)
			for _, f := range faults[1:min(len(faults), 5)] {
				t.Error(fmt.Sprint("\t", f))
			}
			if t.Failed() && seed > first+5 {
				break
			}
		}
		spent += w.e.Clock()
		posts += w.posts
		ran += w.ran
		for _, p := range w.peers {
			got += p.got
		}
		if w.l != nil {
			dropped += int(w.l.final.PostsDropped)
		}
	}
	t.Logf("%v of their own time: %d posts, %d functions and wakes, %d messages arrived, %d dropped", spent.Round(time.Second), posts, ran, got, dropped)
	if *simSeed == 0 && worlds*uint64(long) >= uint64(least) && spent < least {
		t.Errorf("only %v of simulated time", spent)
	}
}
