//go:build linux

package net

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"example.com/ringnet/internal/engine/sim"
	"example.com/ringnet/ring"
)

// TestSimulatedFibers runs blocking code over the simulated kernel: worlds as those of
// TestSimulatedWorlds, with fibers in them. -sim.seed, -sim.worlds and -sim.trace are for
// both.
func TestSimulatedFibers(t *testing.T) {
	if *simSeed != 0 {
		trace := io.Writer(nil)
		if *simTrace {
			trace = os.Stdout
		}
		out := runFiberWorld(*simSeed, trace)
		if err := out.report(); err != nil {
			t.Fatal(err)
		}
		return
	}
	worlds := 3000
	if simRace {
		worlds = 300
	}
	if testing.Short() {
		worlds = 50
	}
	if *simWorlds != 0 {
		worlds = *simWorlds
	}
	var fibers, panics, highWater uint64
	for seed := *simFirst; seed < *simFirst+uint64(worlds); seed++ {
		out := runFiberWorld(seed, nil)
		if err := out.report(); err != nil {
			t.Fatalf("%v (there: TestSimulatedFibers)", err)
		}
		fibers += out.stats.FibersStarted
		panics += out.stats.Panics
		highWater += out.stats.HighWater
	}
	t.Logf("%d worlds: %d fibers, %d panics, %d waits for room", worlds, fibers, panics, highWater)
	if worlds >= 1000 && (panics == 0 || highWater == 0) {
		t.Error("the worlds do not reach what they are there for")
	}
}

// runFiberWorld is runWorld for blocking code.
func runFiberWorld(seed uint64, trace io.Writer) (out simOutcome) {
	out.seed = seed
	w := &world{seed: seed, r: rand.New(rand.NewPCG(seed, 0xf1be5)), conns: map[*Conn]*simConn{}}
	o, have := drawOptions(w.r)
	if seed%3 == 0 {
		have |= ring.RecvMultishotLate
	}
	o, err := o.check()
	if err != nil {
		out.faults = []string{err.Error()}
		return out
	}
	w.o = &o
	kernel := sim.Options{Seed: seed, EntryCount: o.EntryCount, CompletionCount: o.CompletionCount, Faults: sim.DrawFaults(w.r), Trace: trace,
		ForgetsResets: have&ring.RecvMultishotReset == 0, ForgetsLate: have&ring.RecvMultishotLate == 0}
	w.e = sim.New(kernel)
	o.over = func(_ int, c ring.Config) (*ring.Ring, error) { return ring.Over(w.e, ring.Sim, have, c), nil }
	if w.e.Tracing() {
		w.e.Note("seed %d: faults %v, features %v, options %+v", seed, kernel.Faults, have, plain(o))
	}
	w.serves = func() *handlers {
		h := simFibers{w: w, blocking: newBlocking(w.fiber, w.r.IntN(2) == 0)}
		return newHandlers(h)
	}
	w.populate(2 + w.r.IntN(48))
	w.run()
	out.counts, out.faults, out.spent = w.e.Counts(), w.e.Violations(), w.e.Clock()
	if w.l != nil {
		out.stats = w.l.final
		if n := out.stats.Fibers; n != 0 && len(out.faults) == 0 {
			out.faults = append(out.faults, "fibers are left")
		}
	}
	return out
}

// simFibers holds the callbacks behind Streams to the rules, and has the bytes that come
// looked at.
type simFibers struct {
	*blocking
	w *world
}

func (h simFibers) OnOpen(c *Conn) {
	w := h.w
	k := w.enter(c, "OnOpen")
	defer w.leave()
	if addr := c.RemoteAddr(); addr.IsValid() {
		k.peer = w.peers[int(addr.AddrPort().Port())]
		k.peer.conn = k
	}
	c.SetContext(k)
	h.blocking.OnOpen(c)
}

func (h simFibers) OnData(c *Conn, b []byte) int {
	k := h.w.enter(c, "OnData")
	defer h.w.leave()
	k.offered += len(b)
	return h.blocking.OnData(c, b)
}

func (h simFibers) OnEOF(c *Conn) {
	k := h.w.enter(c, "OnEOF")
	defer h.w.leave()
	k.sawEOF = true
	h.blocking.OnEOF(c)
}

func (h simFibers) OnShutdown(c *Conn) {
	k := h.w.enter(c, "OnShutdown")
	defer h.w.leave()
	k.closing = k.closing || c.stream == nil
	h.blocking.OnShutdown(c)
}

func (h simFibers) OnClose(c *Conn, err error) {
	w := h.w
	k := w.enter(c, "OnClose")
	defer w.leave()
	w.e.Note("connection %d: cause %v", k.n, err)
	k.closed, k.cause, k.causeAt = true, err, w.e.Clock()
	h.blocking.OnClose(c, err)
	var op *OpError
	var panicked *PanicError
	p := k.peer
	switch {
	case err == nil || errors.Is(err, io.EOF):
		if !k.closing {
			w.e.Violate("connection %d ends with %v, and nobody has ended it", k.n, err)
		}
	case errors.Is(err, ErrServerClosed):
		if !w.draining {
			w.e.Violate("connection %d ends with a shutdown that is none", k.n)
		}
	case errors.Is(err, errSimAbort), errors.Is(err, errSimFull):
		if !k.closing {
			w.e.Violate("connection %d ends with %v, and nobody has ended it", k.n, err)
		}
	case errors.As(err, &panicked):
		if !k.aborted {
			w.e.Violate("connection %d: %v\n%s", k.n, err, panicked.Stack)
		}
	case errors.Is(err, ErrClosed) && k.writeEnded:
	case errors.As(err, &op):
		if p != nil && !p.p.WasReset() && !p.p.Closed() {
			w.e.Violate("connection %d fails with %v, its peer is well", k.n, err)
		}
	case errors.Is(err, ErrCloseTimeout):
	default:
		w.e.Violate("connection %d ends with %v", k.n, err)
	}
}

// simCode is the blocking code of one connection.
type simCode struct {
	w       *world
	s       *Stream
	k       *simConn
	b       []byte
	readBy  time.Duration // its deadline; 0: none
	writeBy time.Duration
	shut    bool // CloseRead
	beside  bool // another fiber may move the deadlines, also after a timeout and before it is heard of
}

// fiber is the function of all connections.
func (w *world) fiber(s *Stream) error {
	k := s.Conn().Context().(*simConn)
	some := func(choices ...int) int { return choices[w.r.IntN(len(choices))] }
	x := &simCode{w: w, s: s, k: k, b: make([]byte, some(1, 10, 1000, 5000, 60_000))}
	if len(x.b) < 1000 && k.peer != nil {
		x.b = make([]byte, max(len(x.b), k.peer.total/500))
	}
	if w.r.IntN(3) == 0 {
		x.beside = true
		if _, err := s.Spawn(x.meddle); err != nil && s.c.state&closing == 0 {
			w.e.Violate("spawn: %v", err)
		}
	}
	var err error
	switch w.r.IntN(5) {
	case 0:
		err = x.echo()
	case 1:
		err = x.leases()
	case 2:
		err = x.stream(some(1000, 30_000, 200_000), some(100, 5000, 17_000, 20_000, 100_000))
	case 3:
		err = x.copies(some(1, 100, 5000, 100_000))
	case 4: // both at once
		x.beside = true
		f, spawnErr := s.Spawn(func() error { return x.stream(some(1000, 30_000, 200_000), some(1000, 17_000, 100_000)) })
		err = x.sink()
		if spawnErr == nil {
			if waitErr := f.Wait(); err == nil {
				err = waitErr
			}
		}
	}
	switch w.r.IntN(12) {
	case 0:
		k.closing, k.aborted = true, true
		w.panics++
		panic(errSimAbort)
	case 1:
		k.closing, k.aborted = true, true
		w.panics++
		runtime.Goexit()
	case 2:
		if err == nil {
			err = errSimFull
		}
	}
	k.closing = true
	if w.r.IntN(8) == 0 {
		_ = s.Close()
		_ = s.Sleep(time.Millisecond)
	}
	w.e.Note("connection %d: its function returns %v", k.n, err)
	return err
}

// pause does what code does between its reads and writes.
func (x *simCode) pause() error {
	r := x.w.r
	if r.IntN(6) == 0 {
		if err := x.s.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond); err != nil {
			return err
		}
	}
	if r.IntN(8) == 0 {
		x.readBy = x.deadline()
		_ = x.s.moveDeadlineTo(int64(x.readBy), true, false)
	}
	if r.IntN(8) == 0 {
		x.writeBy = x.deadline()
		_ = x.s.moveDeadlineTo(int64(x.writeBy), false, true)
	}
	return nil
}

func (x *simCode) deadline() time.Duration {
	switch x.w.r.IntN(4) {
	case 0:
		return 0
	case 1:
		return longPast
	}
	return x.w.e.Clock() + time.Duration(1+x.w.r.IntN(20_000))*time.Microsecond
}

// late holds a timeout to its deadline, and takes that back.
func (x *simCode) late(err error, by *time.Duration, read bool) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if !x.beside && (*by == 0 || x.w.e.Clock() < *by) {
		x.w.e.Violate("connection %d: %v at %v, the deadline is %v", x.k.n, err, x.w.e.Clock(), *by)
	}
	*by = 0
	_ = x.s.moveDeadlineTo(0, read, !read)
	return true
}

// got looks at bytes that were read.
func (x *simCode) got(b []byte) {
	k := x.k
	if p := k.peer; p != nil {
		at := p.at + k.consumed
		if !bytes.Equal(b, patternBytes[at:at+len(b)]) {
			x.w.e.Violate("connection %d: the %d bytes from %d on are not what the peer sent", k.n, len(b), k.consumed)
		}
	}
	k.consumed += len(b)
}

// read reads something. It returns io.EOF at the end.
func (x *simCode) read() ([]byte, error) {
	for {
		if err := x.pause(); err != nil {
			return nil, err
		}
		n, err := x.s.Read(x.b)
		x.got(x.b[:n])
		switch {
		case err == nil:
			if n == 0 {
				x.w.e.Violate("connection %d: no bytes, and no error", x.k.n)
			}
			return x.b[:n], nil
		case err == io.EOF:
			if !x.shut && (!x.k.sawEOF || x.k.consumed != x.k.offered) {
				x.w.e.Violate("connection %d: the end of the stream after %d bytes of %d", x.k.n, x.k.consumed, x.k.offered)
			}
			return nil, err
		case !x.late(err, &x.readBy, true):
			return nil, err
		}
	}
}

// write writes what lies in the pattern at a place.
func (x *simCode) write(at, n int) error {
	for n > 0 {
		if err := x.pause(); err != nil {
			return err
		}
		if x.w.r.IntN(4) == 0 {
			x.w.e.After(time.Duration(x.w.r.IntN(400))*time.Microsecond, func() {
				if !x.w.over {
					_ = x.w.l.mail.post(x.hurry)
				}
			})
		}
		x.k.put(at, n)
		m, err := x.s.Write(patternBytes[at : at+n])
		x.k.unput(n - m)
		if err == nil && m != n {
			x.w.e.Violate("connection %d: %d of %d bytes written, and no error", x.k.n, m, n)
		}
		at, n = at+m, n-m
		if err != nil && !x.late(err, &x.writeBy, false) {
			return err
		}
	}
	return nil
}

// hurry has a Write that waits for a send in flight give up.
func (x *simCode) hurry() {
	if f := x.s.writers.head; f != nil && f.seg != nil && f.seg.sealed {
		x.beside = true
		_ = x.s.moveDeadlineTo(longPast, false, true)
	}
}

// unput takes the last n bytes of output back.
func (k *simConn) unput(n int) {
	k.wrote -= n
	for n > 0 {
		last := &k.out[len(k.out)-1]
		m := min(n, last.n)
		if last.n -= m; last.n == 0 {
			k.out = k.out[:len(k.out)-1]
		}
		n -= m
	}
}

func (x *simCode) echo() error {
	for {
		b, err := x.read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := x.write(x.place(len(b)), len(b)); err != nil {
			return err
		}
	}
}

// place is where in the pattern the last n bytes that were read are.
func (x *simCode) place(n int) int {
	at := x.k.consumed - n
	if x.k.peer != nil {
		at += x.k.peer.at
	}
	return at
}

// leases is io.Copy to itself, step by step.
func (x *simCode) leases() error {
	for {
		lease, err := x.s.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && x.late(err, &x.readBy, true):
			continue
		case err != nil:
			return err
		}
		n := lease.Len()
		x.got(lease.Bytes())
		if err := x.pause(); err != nil {
			lease.Release()
			return err
		}
		x.k.put(x.place(n), n)
		if err := x.s.sendLease(lease); err != nil {
			x.k.unput(n) // it was sent whole, or not at all
			if x.late(err, &x.writeBy, false) {
				return errSimFull // the rest would be out of order
			}
			return err
		}
	}
}

// copies is io.CopyN to itself, again and again.
func (x *simCode) copies(most int) error {
	if x.k.peer != nil {
		most = max(most, x.k.peer.total/500)
	}
	for {
		if err := x.pause(); err != nil {
			return err
		}
		at := x.place(0)
		most = min(most, len(patternBytes)-at)
		x.k.put(at, most)
		m, err := io.CopyN(x.s, x.s, int64(most))
		x.k.unput(most - int(m))
		x.k.consumed += int(m)
		var op *OpError
		switch {
		case err == nil:
			if int(m) != most {
				x.w.e.Violate("connection %d: %d of %d bytes copied, and no error", x.k.n, m, most)
			}
		case err == io.EOF:
			if !x.shut && (!x.k.sawEOF || x.k.consumed != x.k.offered) {
				x.w.e.Violate("connection %d: a copy sees the end of the stream after %d bytes of %d", x.k.n, x.k.consumed, x.k.offered)
			}
			return nil
		case errors.As(err, &op) && op.Op == "read" && x.late(err, &x.readBy, true):
		case errors.As(err, &op) && op.Op == "write" && x.late(err, &x.writeBy, false):
		default:
			return err
		}
	}
}

func (x *simCode) sink() error {
	for {
		if _, err := x.read(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stream writes output of its own.
func (x *simCode) stream(total, piece int) error {
	for at := x.k.own(); total > 0; {
		n := min(piece, total)
		if err := x.write(at, n); err != nil {
			return err
		}
		at, total = at+n, total-n
	}
	return nil
}

// meddle is a fiber beside the function.
func (x *simCode) meddle() error {
	w, k, s := x.w, x.k, x.s
	for range 1 + w.r.IntN(3) {
		if err := s.Sleep(time.Duration(w.r.IntN(20_000)) * time.Microsecond); err != nil {
			return err
		}
		switch w.r.IntN(8) {
		case 0:
			k.closing = true
			return s.Close()
		case 1:
			k.closing, k.aborted = true, true
			s.Conn().Abort(errSimAbort)
			return nil
		case 2:
			k.closing, k.aborted = true, true
			w.panics++
			panic(errSimAbort)
		case 3:
			x.shut = true
			_ = s.CloseRead()
		case 4:
			k.writeEnded = true
			_ = s.CloseWrite()
		case 5:
			x.readBy = longPast
			_ = s.moveDeadlineTo(longPast, true, false)
		case 6:
			x.writeBy = longPast
			_ = s.moveDeadlineTo(longPast, false, true)
		}
	}
	return nil
}

// Else a seed that fails would be of no use.
func TestSimulatedFibersAreTheSameEachTime(t *testing.T) {
	for seed := uint64(1); seed <= uint64(few(40)); seed++ {
		var a, b bytes.Buffer
		runFiberWorld(seed, &a)
		runFiberWorld(seed, &b)
		if err := differ(b.Bytes(), a.Bytes()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
