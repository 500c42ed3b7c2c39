//go:build linux

package net

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"example.com/ringnet/bufring"
)

// simConduct is how the handler of a simulated world treats one connection.
type simConduct struct {
	way      simWay
	pieces   bool // writes in several pieces
	frame    int  // of simFrames
	greeting int  // bytes that OnOpen writes
	stream   int  // bytes that simStream writes
	chunk    int  // at a time

	holdMost int           // leases kept at once
	holdFor  time.Duration // at most
	keepOne  bool          // until OnClose

	pause    int // in a thousand OnData, so many pause reading
	pauseFor time.Duration

	meddle int // in a thousand callbacks, so many do something to another connection

	dials simCallback // in which one it dials, once; simCallbacks: none

	act   simAct // once, and where
	actIn simCallback
	actAt int // with simInData: after so many bytes

	atEOF   simAct // what OnEOF does; simNothing: end later
	trailer int    // bytes that it writes first
}

type simWay uint8

const (
	simEchoWrite simWay = iota
	simEchoSend
	simHold   // detaches, and sends later
	simFrames // consumes whole frames only
	simRelay  // sends to other connections
	simSink
	simStream
	simWays
)

type simAct uint8

const (
	simNothing simAct = iota
	simClose
	simAbort
	simCloseWrite
	simPanic
	simPauseResume
	simLinger
	simMisconsume
	simActs
)

type simCallback uint8

const (
	simInOpen simCallback = iota
	simInData
	simInEOF
	simInWritable
	simInShutdown
	simInClose
	simCallbacks
)

// drawConduct draws what a connection's handler does.
func drawConduct(r *rand.Rand, o *Options) simConduct {
	some := func(choices ...int) int { return choices[r.IntN(len(choices))] }
	u := simConduct{
		way:      simWay(r.IntN(int(simWays))),
		pieces:   r.IntN(4) == 0,
		holdMost: some(1, 1, 2, 5), holdFor: time.Duration(r.IntN(3000)) * time.Microsecond,
		pauseFor: time.Duration(1+r.IntN(2000)) * time.Microsecond,
		chunk:    some(1, 100, 1000, 5000, 20000, 100_000),
		stream:   some(0, 1, 1000, 30_000, 120_000),
		trailer:  some(0, 0, 10, 3000),
		atEOF:    simAct(some(int(simClose), int(simClose), int(simCloseWrite), int(simNothing), int(simAbort))),
	}
	u.stream = min(u.stream, 200*u.chunk)
	u.frame = min(some(2, 10, 100, 1000, 4000), o.MaxUnconsumed)
	if r.IntN(10) == 0 {
		u.frame = 2 * u.frame // may be more than MaxUnconsumed allows
	}
	if r.IntN(4) == 0 {
		u.greeting = some(1, 50, 3000, 30_000)
	}
	if o.RecvBufs >= 64 && r.IntN(4) == 0 {
		u.keepOne = true
	}
	if r.IntN(4) == 0 {
		u.pause = some(10, 100, 500)
	}
	if r.IntN(4) == 0 {
		u.meddle = some(10, 100)
	}
	if u.dials = simCallbacks; r.IntN(4) == 0 {
		u.dials = simCallback(r.IntN(int(simCallbacks)))
	}
	if r.IntN(3) == 0 {
		u.act, u.actIn = simAct(1+r.IntN(int(simActs)-1)), simCallback(r.IntN(int(simCallbacks)))
		u.actAt = some(0, 1, 500, 10_000)
	}
	return u
}

// simHandler is the handler of a world. It holds every callback to the rules, and
// every byte to its place.
type simHandler struct{ w *world }

// simConn is what the handler knows of a connection.
type simConn struct {
	w    *world
	c    *Conn
	n    int
	peer *simPeer // nil if it had gone before we could ask who it was
	do   simConduct

	consumed, offered int // of what the peer sends
	resumed           bool
	paused            bool
	sawEOF            bool
	closing           bool // Close or Abort was called
	closeAt           time.Duration
	aborted           bool // what was written may be lost
	writeEnded        bool
	closed            bool
	high              bool
	acted             bool
	misconsume        int // what OnData adds to what it returns
	cause             error
	causeAt           time.Duration
	lim               simLimits
	part              *simParting // nil: it is not handed over

	owed  int // calls of done that have to come
	dones int

	held     []bufring.Lease
	kept     bufring.Lease
	streamed int
	pumping  bool

	wrote int      // accepted by Write and Send
	out   []simRun // what that was
}

// simRun is n bytes of output, which are those of the pattern from at on.
type simRun struct{ at, n int }

// patternBytes are what all worlds send: each stream from another place on, so
// that a byte that is lost, doubled or another stream's shows.
var patternBytes = payload(2026, 4<<20)

// put notes that output was accepted, which is the pattern's from at on.
func (k *simConn) put(at, n int) {
	if last := len(k.out) - 1; last >= 0 && k.out[last].at+k.out[last].n == at {
		k.out[last].n += n
	} else {
		k.out = append(k.out, simRun{at, n})
	}
	k.wrote += n
}

// wants is whether b is what was written from position pos on.
func (k *simConn) wants(pos int, b []byte) bool {
	for _, run := range k.out {
		if len(b) == 0 {
			return true
		}
		if pos >= run.n {
			pos -= run.n
			continue
		}
		n := min(len(b), run.n-pos)
		if !bytes.Equal(b[:n], patternBytes[run.at+pos:run.at+pos+n]) {
			return false
		}
		b, pos = b[n:], 0
	}
	return len(b) == 0
}

// own is where the connection's own output lies in the pattern, as opposed to what
// it echoes.
func (k *simConn) own() int { return 1<<20 + k.n*4099 }

var (
	errSimAbort = errors.New("the world's handler aborts")
	errSimFull  = errors.New("the world's handler has nowhere to put its output")
)

// enter checks that a callback may come now.
func (w *world) enter(c *Conn, callback string) *simConn {
	k := w.conns[c]
	if w.e.Tracing() {
		w.e.Note("%s of connection %d", callback, w.number(k))
	}
	if w.running != nil {
		w.e.Violate("%s is called within another callback", callback)
	}
	w.running = c
	if callback == "OnOpen" {
		if k != nil {
			w.e.Violate("OnOpen is called twice")
		}
		k = &simConn{w: w, c: c, n: len(w.list)}
		w.conns[c] = k
		w.list = append(w.list, k)
		return k
	}
	switch {
	case k == nil:
		w.e.Violate("%s is called before OnOpen", callback)
		k = &simConn{w: w, c: c}
		w.conns[c] = k
	case k.closed:
		w.e.Violate("%s of connection %d is called after OnClose", callback, k.n)
	case k.closing && callback != "OnClose":
		w.e.Violate("%s of connection %d is called after Close", callback, k.n)
	case k.sawEOF && (callback == "OnEOF" || callback == "OnData"):
		w.e.Violate("%s of connection %d is called after OnEOF", callback, k.n)
	case k.paused && (callback == "OnEOF" || callback == "OnData"):
		w.e.Violate("%s of connection %d is called although reading is paused", callback, k.n)
	}
	return k
}

func (w *world) number(k *simConn) int {
	if k == nil {
		return len(w.list)
	}
	return k.n
}

func (w *world) leave() { w.running = nil }

func (h simHandler) OnOpen(c *Conn) {
	w := h.w
	k := w.enter(c, "OnOpen")
	defer w.leave()
	w.team.check()
	if s, ok := c.Context().(*simDial); ok {
		w.running = nil
		s.once("OnOpen")
		w.running = c
		k.peer = s.peer
		k.peer.conn = k
	} else if addr := c.RemoteAddr(); addr.IsValid() {
		id := int(addr.AddrPort().Port())
		if id >= len(w.peers) || w.peers[id].conn != nil {
			w.e.Violate("a connection from %v, which is no peer or has one already", addr)
			return
		}
		k.peer = w.peers[id]
		k.peer.conn = k
	}
	k.do = drawConduct(w.r, w.o)
	if w.e.Tracing() {
		w.e.Note("connection %d: %+v", k.n, k.do)
	}
	c.SetContext(k)
	w.std.draw(k)
	k.write(k.do.greeting)
	if k.do.way == simStream {
		k.pump()
	}
	k.clocksAtOpen()
	k.actIf(simInOpen)
}

func (h simHandler) OnData(c *Conn, b []byte) int {
	w := h.w
	k := w.enter(c, "OnData")
	defer w.leave()
	if k.c.Context() != k {
		w.e.Violate("OnData: another connection's context")
	}
	if len(b) == 0 {
		w.e.Violate("OnData is lent no bytes")
	}
	if to := k.consumed + len(b); to <= k.offered && !k.resumed || to < k.offered {
		w.e.Violate("OnData of connection %d is offered bytes %d to %d, it was offered those up to %d", k.n, k.consumed, to, k.offered)
	}
	k.resumed = false
	k.came()
	k.wind()
	at := k.consumed
	if p := k.peer; p != nil {
		at += p.at
		if !bytes.Equal(b, patternBytes[at:at+len(b)]) {
			w.e.Violate("OnData of connection %d: the %d bytes from %d on are not what the peer sent: %v", k.n, len(b), k.consumed,
				differ(b, patternBytes[at:at+len(b)]))
		}
		if k.consumed+len(b) > p.sent {
			w.e.Violate("OnData of connection %d: %d bytes, the peer has sent %d", k.n, k.consumed+len(b), p.sent)
		}
	}
	k.offered = k.consumed + len(b)
	detaches := k.do.way == simEchoSend || k.do.way == simHold || k.do.way == simRelay
	n := k.take(b, at)
	if !k.closing && w.r.IntN(1000) < k.do.pause {
		k.pause()
	}
	if k.offered >= k.do.actAt {
		k.actIf(simInData)
	}
	k.meddle()
	if m := k.misconsume; m != 0 && !detaches {
		k.misconsume = 0
		if !k.closing || k.part != nil && k.part.asked {
			k.closing, k.aborted = true, true
		}
		if m < 0 {
			return -1
		}
		return len(b) + m
	}
	return n
}

// meddle asks things, and sometimes does something to another connection.
func (k *simConn) meddle() {
	w := k.w
	if w.r.IntN(1000) >= k.do.meddle {
		return
	}
	if !k.closed && !k.c.LocalAddr().IsValid() {
		w.e.Violate("connection %d has no address", k.n)
	}
	other := w.list[w.r.IntN(len(w.list))]
	act := w.r.IntN(8)
	w.e.Note("connection %d meddles with %d: %d", k.n, other.n, act)
	switch {
	case other.closed:
		if err := other.c.SetNoDelay(true); !errors.Is(err, ErrClosed) {
			w.e.Violate("an option of a closed connection is set: %v", err)
		}
		if err := other.c.CloseWrite(); !errors.Is(err, ErrClosed) {
			w.e.Violate("a closed connection ends its direction: %v", err)
		}
		other.c.Close()
		other.c.Abort(errSimAbort)
		other.c.PauseRead()
		other.c.ResumeRead()
	case other.closing:
	case act == 0:
		other.close()
	case act == 1:
		other.abort(errSimAbort)
	case act == 2:
		other.closeWrite()
	case act == 3:
		other.pause()
	case act == 4 && other.paused:
		other.resume()
	case act == 5:
		other.write(w.r.IntN(20_000))
	default:
		_, _ = other.c.Option(1, 2)
		_ = other.c.SetKeepAlive(time.Second, time.Second, 3)
	}
}

// relay sends a lease to another connection.
func (k *simConn) relay(lease bufring.Lease, at int) {
	w := k.w
	to := w.list[w.r.IntN(len(w.list))]
	if to.closed || k.peer == nil {
		lease.Release()
		return
	}
	n, buffered := lease.Len(), to.c.Buffered()
	if to.judge(to.c.Send(lease), n, buffered) {
		to.put(at, n)
	}
}

// take does with received bytes what the connection's conduct says.
func (k *simConn) take(b []byte, at int) int {
	all := len(b)
	switch k.do.way {
	case simEchoWrite:
		k.consumed += len(b)
		if half := len(b) / 2; k.do.pieces && half > 0 {
			k.writeAt(at, b[:half])
			b, at = b[half:], at+half
		}
		k.writeAt(at, b)
	case simEchoSend, simHold, simRelay:
		k.consumed += len(b)
		lease, err := k.c.Detach()
		if err != nil {
			k.w.e.Violate("Detach: %v", err)
			return len(b)
		}
		if !bytes.Equal(lease.Bytes(), b) {
			k.w.e.Violate("Detach gives %d other bytes than OnData's %d", lease.Len(), len(b))
		}
		if _, err := k.c.Detach(); !errors.Is(err, ErrNoData) {
			k.w.e.Violate("a second Detach: %v", err)
		}
		if k.do.keepOne && !k.kept.Valid() && k.peer != nil {
			k.kept = lease
			k.writeAt(at, lease.Bytes())
			return k.w.r.IntN(len(b) + 1)
		}
		if k.do.way == simRelay {
			k.relay(lease, at)
			return len(b)
		}
		k.held = append(k.held, lease)
		if k.do.way == simEchoSend {
			k.flush()
		} else if len(k.held) > k.do.holdMost {
			k.flush()
		} else {
			k.later(k.do.holdFor, k.flush)
		}
		return k.w.r.IntN(len(b) + 1) // which counts for nothing after Detach
	case simFrames:
		n := len(b) / k.do.frame * k.do.frame
		k.consumed += n
		for i := 0; i < n; {
			m := min(n-i, k.do.frame*(1+k.w.r.IntN(20)))
			k.writeAt(at+i, b[i:i+m])
			i += m
		}
		return n
	default:
		k.consumed += len(b)
	}
	return all
}

// flush sends what was detached.
func (k *simConn) flush() {
	held := k.held
	k.held = nil
	at := k.consumed
	for _, lease := range held {
		at -= lease.Len()
	}
	base := 0
	if k.peer != nil {
		base = k.peer.at
	}
	for _, lease := range held {
		all := lease.Len()
		if k.w.r.IntN(50) == 0 {
			lease = lease.Slice(0, k.w.r.IntN(all)) // the rest is dropped
		}
		n, buffered := lease.Len(), k.c.Buffered()
		err := k.c.Send(lease)
		if k.judge(err, n, buffered) {
			k.put(base+at, n)
		}
		at += all
	}
}

// writeAt writes b, which is the pattern's from at on.
func (k *simConn) writeAt(at int, b []byte) bool {
	buffered := k.c.Buffered()
	n, err := k.c.Write(b)
	if err == nil && n != len(b) || err != nil && n != 0 {
		k.w.e.Violate("Write of %d bytes: %d, %v", len(b), n, err)
	}
	if !k.judge(err, len(b), buffered) {
		return false
	}
	k.put(at, n)
	return true
}

// judge holds the outcome of a write to the rules, and reports whether the bytes
// were taken.
func (k *simConn) judge(err error, n, buffered int) bool {
	o := k.w.o
	if k.c.Buffered() > o.HighWater || k.c.seldom().files > filesMax {
		k.high = true
	}
	switch {
	case err == nil:
		if k.closing || k.writeEnded || k.closed {
			k.w.e.Violate("connection %d takes output after its end", k.n)
		}
		if buffered > 0 && buffered+n > o.MaxBuffered {
			k.w.e.Violate("connection %d takes %d bytes where %d wait, more than %d", k.n, n, buffered, o.MaxBuffered)
		}
		return true
	case errors.Is(err, ErrBacklog):
		held := k.w.l.held
		if (buffered == 0 || buffered+n <= o.MaxBuffered) && (held == 0 || held+n <= o.MaxLoopBytes) {
			k.w.e.Violate("connection %d refuses %d bytes where %d wait", k.n, n, buffered)
		}
		if k.do.way != simStream {
			k.abort(errSimFull)
		}
	case errors.Is(err, ErrClosed):
		// Also when the loop has closed it: a failed write, a shutdown.
	default:
		k.w.e.Violate("Write: %v", err)
	}
	return false
}

// write writes n bytes of the connection's own.
func (k *simConn) write(n int) {
	if n > 0 && !k.closing {
		at := k.own()
		for _, run := range k.out {
			if run.at >= 1<<20 {
				at += run.n
			}
		}
		switch b := patternBytes[at : at+n]; k.w.r.IntN(8) {
		case 0:
			k.sendMemory(at, b)
		case 1:
			k.sendStatic(at, b)
		case 2:
			k.sendFile(at, b)
		default:
			k.writeAt(at, b)
		}
	}
}

// done is what is called when something that was sent is no longer needed.
func (k *simConn) done(err error) {
	w := k.w
	w.e.Note("connection %d: done, %v", k.n, err)
	if k.owed--; k.owed < 0 {
		w.e.Violate("connection %d is told twice that something is no longer needed", k.n)
	}
	if w.running != nil {
		w.e.Violate("done of connection %d is called within a callback", k.n)
	}
	if k.closed {
		w.e.Violate("done of connection %d is called after OnClose", k.n)
	}
	if err == nil && k.dones < 5 && !k.closing && !k.writeEnded && w.r.IntN(4) == 0 {
		k.dones++
		k.write(1 + w.r.IntN(2000))
	}
}

// sendMemory sends memory that is overwritten as soon as that is allowed.
func (k *simConn) sendMemory(at int, b []byte) {
	mem := append([]byte(nil), b...)
	buffered := k.c.Buffered()
	k.owed++
	if err := k.c.SendMemory(mem, func(err error) { clear(mem); k.done(err) }); !k.judge(err, len(b), buffered) {
		k.owed--
		return
	}
	k.put(at, len(b))
}

// sendStatic sends memory that is unmapped as soon as that is allowed.
func (k *simConn) sendStatic(at int, b []byte) {
	s, err := NewStatic(b)
	if err != nil {
		k.w.e.Violate("NewStatic of %d bytes: %v", len(b), err)
		return
	}
	buffered := k.c.Buffered()
	if k.judge(k.c.SendStatic(s, 0, -1), len(b), buffered) {
		k.put(at, len(b))
	}
	if err := s.Close(); err != nil {
		k.w.e.Violate("close a Static: %v", err)
	}
}

// sendFile sends a file, which sometimes becomes shorter.
func (k *simConn) sendFile(at int, b []byte) {
	w := k.w
	truncate := w.r.IntN(10) == 0
	if truncate {
		b = append([]byte(nil), b...) // the pattern stays as it is
	}
	fd := w.e.AddFile(b)
	f := &File{fd: fd, borrowed: true, asked: true}
	if w.r.IntN(2) == 0 {
		f.pages = b
	}
	if truncate {
		w.truncated = true
		w.e.After(time.Duration(w.r.IntN(1000))*time.Microsecond, func() { w.e.Truncate(fd, int64(w.r.IntN(len(b)))) })
	}
	buffered := k.c.Buffered()
	k.owed++
	if !k.judge(k.c.SendFile(f, 0, -1, k.done), 0, buffered) {
		k.owed--
		return
	}
	k.put(at, len(b))
	_ = f.Close()
}

// pump writes the stream, as far as it goes.
func (k *simConn) pump() {
	for !k.closing && !k.writeEnded && !k.closed && k.streamed < k.do.stream {
		if k.c.Buffered() > k.w.o.HighWater {
			if k.w.l.h.writable == nil || k.w.r.IntN(4) == 0 {
				k.pumpLater()
			}
			return
		}
		n := min(k.do.chunk, k.do.stream-k.streamed)
		before := k.wrote
		k.write(n)
		if k.wrote == before {
			k.pumpLater()
			return
		}
		k.streamed += n
	}
	if !k.closing && !k.closed && k.streamed == k.do.stream && k.do.stream > 0 {
		k.do.stream = 0
		switch k.w.r.IntN(3) {
		case 0:
			k.close()
		case 1:
			k.closeWrite()
		}
	}
}

func (k *simConn) pumpLater() {
	if k.pumping {
		return
	}
	k.pumping = true
	k.later(time.Millisecond, func() {
		k.pumping = false
		k.pump()
	})
}

// later has f called on the loop, outside callbacks, within d, unless the
// connection has ended by then.
func (k *simConn) later(d time.Duration, f func()) {
	d = time.Duration(k.w.r.Int64N(int64(d) + 1))
	k.w.e.After(d, func() {
		_ = k.w.l.mail.post(func() {
			if !k.closed {
				f()
			}
		})
	})
}

func (k *simConn) pause() {
	if k.c.state&dead != 0 {
		return // it has been cut, a timeout perhaps, and OnClose is still to come
	}
	k.paused = true
	k.lim.pausedLate = k.c.state&dead != 0
	k.c.PauseRead()
	k.later(k.do.pauseFor, k.resume)
}

func (k *simConn) resume() {
	if k.paused {
		k.paused, k.resumed = false, true
		if k.c.state&dead == 0 { // else it has been cut, and by what came before
			k.lim.lastIn = max(k.lim.lastIn, k.w.e.Clock())
		}
		k.c.ResumeRead()
	}
}

func (k *simConn) close() {
	k.closing, k.closeAt = true, k.w.e.Clock()
	k.c.Close()
	if _, err := k.c.Write([]byte{1}); !errors.Is(err, ErrClosed) {
		k.w.e.Violate("Write after Close: %v", err)
	}
}

func (k *simConn) abort(cause error) {
	k.closing, k.aborted = true, true
	k.c.Abort(cause)
}

func (k *simConn) closeWrite() {
	if err := k.c.CloseWrite(); err == nil {
		k.writeEnded = true
	} else if !errors.Is(err, ErrClosed) {
		k.w.e.Violate("CloseWrite: %v", err)
	}
	// Nothing says that the peer will end, too.
	k.later(time.Second, func() {
		if !k.closing {
			k.close()
		}
	})
}

// actIf does what the conduct has for this callback.
func (k *simConn) actIf(in simCallback) {
	k.w.std.act(k, in)
	if k.do.dials == in {
		k.do.dials = simCallbacks
		k.w.dialFrom(k)
	}
	if k.acted || k.do.act == simNothing || k.do.actIn != in {
		return
	}
	k.acted = true
	k.act(k.do.act)
}

func (k *simConn) act(a simAct) {
	if k.closed && a != simPanic {
		return
	}
	k.w.e.Note("connection %d: act %d", k.n, a)
	switch a {
	case simClose:
		k.close()
	case simAbort:
		k.abort(errSimAbort)
	case simCloseWrite:
		k.closeWrite()
	case simPanic:
		k.closing, k.aborted = true, true
		k.w.panics++
		panic("the world's handler panics")
	case simPauseResume:
		k.pause()
		if k.w.r.IntN(2) == 0 {
			k.resume()
		}
	case simMisconsume:
		k.misconsume = k.w.r.IntN(3) - 1
	case simLinger:
		k.aborted = true // close(2) drops what is on its way
		_ = k.c.SetLinger(0)
	}
}

func (h simHandler) OnEOF(c *Conn) {
	w := h.w
	k := w.enter(c, "OnEOF")
	defer w.leave()
	k.sawEOF = true
	k.checkWhole("OnEOF")
	if k.do.way == simHold {
		k.flush()
	}
	k.write(k.do.trailer)
	k.meddle()
	k.actIf(simInEOF)
	if k.closing {
		return
	}
	if k.do.way == simStream && k.streamed < k.do.stream {
		k.atEnd()
		return
	}
	switch k.do.atEOF {
	case simNothing:
		k.atEnd()
	default:
		k.act(k.do.atEOF)
	}
}

// atEnd closes the connection some time after the peer's end.
func (k *simConn) atEnd() {
	k.later(5*time.Millisecond, func() {
		switch {
		case k.closing:
		case k.do.way == simStream && k.streamed < k.do.stream && !k.writeEnded:
			k.atEnd()
		default:
			k.close()
		}
	})
}

// checkWhole wants everything that the peer sent before its end to have come.
func (k *simConn) checkWhole(where string) {
	p := k.peer
	if p == nil || p.p.WasReset() {
		return
	}
	if !p.ended {
		k.w.e.Violate("%s of connection %d: its peer has not ended", where, k.n)
	} else if k.offered != p.sent {
		k.w.e.Violate("%s of connection %d: %d bytes were offered, the peer sent %d", where, k.n, k.offered, p.sent)
	}
}

func (h simHandler) OnWritable(c *Conn) {
	w := h.w
	k := w.enter(c, "OnWritable")
	defer w.leave()
	if !k.high && w.l.stats.Heavy == 0 && c.state&layered == 0 { // a session adds to what is written
		w.e.Violate("OnWritable of connection %d, whose output was not above HighWater", k.n)
	}
	if n := c.Buffered(); n > w.o.LowWater {
		w.e.Violate("OnWritable of connection %d with %d bytes of output, more than LowWater (%d)", k.n, n, w.o.LowWater)
	}
	k.high = false
	k.meddle()
	k.actIf(simInWritable)
	if k.do.way == simStream && !k.closing {
		k.pump()
	}
}

func (h simHandler) OnShutdown(c *Conn) {
	w := h.w
	k := w.enter(c, "OnShutdown")
	defer w.leave()
	k.actIf(simInShutdown)
	if k.closing {
		return
	}
	switch w.r.IntN(3) {
	case 0:
		k.write(10)
		k.close()
	case 1:
		k.atEnd()
	}
}

func (h simHandler) OnClose(c *Conn, err error) {
	w := h.w
	k := w.enter(c, "OnClose")
	defer w.leave()
	w.team.check()
	if w.e.Tracing() {
		w.e.Note("connection %d: cause %v", k.n, err)
	}
	k.closed, k.cause, k.causeAt = true, err, w.e.Clock()
	if k.owed > 0 {
		w.e.Violate("connection %d ends, and %d calls of done have not come", k.n, k.owed)
	}
	for _, lease := range k.held {
		lease.Release()
	}
	k.held = nil
	k.kept.Release()
	k.judgeCause()
	k.judgeTime()
	if _, err := c.Write([]byte{1}); !errors.Is(err, ErrClosed) {
		w.e.Violate("Write in OnClose: %v", err)
	}
	k.meddle()
	k.actIf(simInClose)
}

// judgeCause wants the cause of the end to be true.
func (k *simConn) judgeCause() {
	var op *OpError
	var panicked *PanicError
	var file *FileError
	p := k.peer
	switch err := k.cause; {
	case err == nil:
		if !k.closing && !k.writeEnded {
			k.w.e.Violate("connection %d ends without a cause", k.n)
		}
	case errors.Is(err, ErrHandedOver):
		if k.part == nil || !k.part.asked {
			k.w.e.Violate("connection %d was not to be handed over", k.n)
		}
	case errors.Is(err, io.EOF):
		if !k.aborted {
			k.checkWhole("the end")
		}
	case k.timedOut(err):
	case errors.As(err, &op):
		if p != nil && !p.p.WasReset() && !p.p.Closed() {
			k.w.e.Violate("connection %d fails with %v, its peer is well", k.n, err)
		}
	case errors.As(err, &file):
		if !k.w.truncated && k.w.e.Counts().DiskErrors == 0 {
			k.w.e.Violate("connection %d ends with %v, and all files are well", k.n, err)
		}
	case errors.As(err, &panicked):
		if !k.aborted {
			k.w.e.Violate("connection %d: %v\n%s", k.n, err, panicked.Stack)
		}
	case errors.Is(err, ErrServerClosed):
		if !k.w.draining {
			k.w.e.Violate("connection %d ends with a shutdown that is none", k.n)
		}
	case errors.Is(err, ErrUnconsumed):
		if k.offered-k.consumed <= k.w.o.MaxUnconsumed && k.w.l.stats.Evicted == 0 {
			k.w.e.Violate("connection %d left %d bytes unconsumed, which is allowed", k.n, k.offered-k.consumed)
		}
	case errors.Is(err, ErrCloseTimeout):
		if k.w.o.CloseTimeout < 0 {
			k.w.e.Violate("connection %d: %v although there is none", k.n, err)
		}
	case err == errSimAbort, err == errSimFull:
		if !k.aborted {
			k.w.e.Violate("connection %d was not aborted", k.n)
		}
	case strings.Contains(err.Error(), "OnData returned"):
		if !k.aborted {
			k.w.e.Violate("connection %d: %v", k.n, err)
		}
	default:
		k.w.e.Violate("connection %d ends with %v", k.n, err)
	}
}

// judgeTime wants a connection that was closed to have ended in time.
func (k *simConn) judgeTime() {
	// Cancels that come too late take theirs, and zero-copy sends what is on the wire:
	// a route stalls for up to 200 ms.
	const slack = 500 * time.Millisecond
	most := k.w.o.CloseTimeout
	if k.closeAt == 0 || most < 0 {
		return
	}
	since := k.closeAt
	if g := k.c.timing; g != nil {
		since = max(since, time.Duration(g.writeAt)) // the peer has taken some
	}
	if took := k.causeAt - since; took > most+slack {
		k.w.e.Violate("connection %d ends %v after Close, CloseTimeout is %v", k.n, took, most)
	}
}

// whole reports that the peer must have everything that was written.
func (k *simConn) whole() bool {
	o := k.w.o
	switch {
	case k.aborted:
		return false
	case errors.Is(k.cause, ErrHandedOver):
		return k.part.whole
	case k.cause == nil, errors.Is(k.cause, io.EOF):
		return true
	case errors.Is(k.cause, ErrServerClosed):
		// A timeout may end it before its output is out; the first cause stays.
		return !k.w.cutting && !k.lim.anyWrite && k.lim.idle == 0 && (o.CloseTimeout < 0 || k.causeAt < k.w.drainAt+o.CloseTimeout)
	}
	return false
}
