//go:build linux

package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine"
	"example.com/ringnet/internal/sys"
)

// Options is what a world is made with.
type Options struct {
	Seed                        uint64
	EntryCount, CompletionCount int
	Faults                      Faults

	// Descriptors is how many connections may be open before accept answers
	// EMFILE; 0: no limit.
	Descriptors int

	// ForgetsResets makes a multishot receive forget a reset that it finds behind
	// bytes, and never tell of it.
	ForgetsResets bool

	// ForgetsLate makes a multishot receive that finds bytes when it begins to wait
	// forget what it finds behind them, a reset or its own side's shutdown, until
	// something else wakes it.
	ForgetsLate bool

	// MaxSteps bounds the calls into the engine and the events of its network;
	// a world that needs more makes no progress. Default 600,000.
	MaxSteps int

	// Trace gets a line for everything that happens; nil: none.
	Trace io.Writer
}

// Stop is what the engine panics with when a world cannot go on: nothing can ever
// happen any more, or too much has.
type Stop struct{ Reason string }

// Error implements error.
func (s Stop) Error() string { return s.Reason }

// Engine is a simulated io_uring and the network behind it. Everything belongs to
// one goroutine, except Wake.
type Engine struct {
	// OnConnect says what becomes of a connect. Without it all are refused.
	OnConnect func(to netip.AddrPort) Answer

	// OnForget is given the sockets of descriptors that the program gives away.
	OnForget func(fd int, p *Peer)

	host   *sys.Host
	o      Options
	rng    *rand.Rand
	faults Faults

	now    time.Duration
	events eventHeap
	seq    uint64
	steps  int

	work  []*op // deferred task work: operations to look at in the next enter
	armed []*op // every operation that has not had its last completion

	fds       []*socket // by number, from firstFd on
	openConns int
	listeners []*socket
	table     []*socket // direct descriptors
	groups    []*group
	fixed     [][]byte // registered buffers
	files     []*file
	gone      []uint64 // user data of connections that have been closed
	lastPort  uint16

	udpPeers         []*UDPPeer
	udpRecv, udpSend int
	ledgers          map[uint16]*Ledger // by port
	packetGroups     map[uint64]uint16  // by user data: what a receive of datagrams was armed on

	violations []string
	counts     Counts
	closed     bool
	inside     bool // a call

	mu    sync.Mutex
	woken []uint64 // from Wake on other goroutines
}

// Counts is what a world's faults amounted to.
type Counts struct {
	Enters, Events, Completions           int
	Stale                                 int // completions for connections that are gone
	Overflows                             int // completions that did not fit
	LastWithData, NoBuffers, ShortResults int
	RefusedEnters, ShortSubmits           int
	AcceptErrors, SendErrors, RecvErrors  int
	CancelsTooLate, LateSends, Spurious   int
	PollErrors                            int
	ColdReads, DiskErrors                 int
	Resets, ResetsForgotten               int
	LateForgotten                         int // ends that were there when a receive was armed
	Connects, ConnectErrors               int
	PacketsLost, PacketsJoined            int
	Unreachable, SegmentErrors            int // ICMP messages; segments that were refused
}

// Add sums two worlds.
func (c *Counts) Add(o Counts) {
	c.Enters += o.Enters
	c.Events += o.Events
	c.Completions += o.Completions
	c.Stale += o.Stale
	c.Overflows += o.Overflows
	c.LastWithData += o.LastWithData
	c.NoBuffers += o.NoBuffers
	c.ShortResults += o.ShortResults
	c.RefusedEnters += o.RefusedEnters
	c.ShortSubmits += o.ShortSubmits
	c.AcceptErrors += o.AcceptErrors
	c.SendErrors += o.SendErrors
	c.RecvErrors += o.RecvErrors
	c.CancelsTooLate += o.CancelsTooLate
	c.LateSends += o.LateSends
	c.Spurious += o.Spurious
	c.PollErrors += o.PollErrors
	c.ColdReads += o.ColdReads
	c.DiskErrors += o.DiskErrors
	c.Resets += o.Resets
	c.Connects += o.Connects
	c.ConnectErrors += o.ConnectErrors
	c.PacketsLost += o.PacketsLost
	c.PacketsJoined += o.PacketsJoined
	c.Unreachable += o.Unreachable
	c.SegmentErrors += o.SegmentErrors
	c.ResetsForgotten += o.ResetsForgotten
	c.LateForgotten += o.LateForgotten
}

var _ engine.Engine = (*Engine)(nil)

// New makes a world in which nothing has happened yet.
func New(o Options) *Engine {
	if o.MaxSteps == 0 {
		o.MaxSteps = 600_000
	}
	e := &Engine{o: o, faults: o.Faults, rng: rand.New(rand.NewPCG(o.Seed, 0x5eed_0f_a_3319)),
		host: sys.NewHost(uint32(o.EntryCount), uint32(o.CompletionCount)), lastPort: 40000,
		udpRecv: 200_000, udpSend: 200_000, ledgers: map[uint16]*Ledger{}, packetGroups: map[uint64]uint16{}}
	return e
}

// Queues implements engine.Engine.
func (e *Engine) Queues() *sys.Queues { return e.host.Queues }

// Enable implements engine.Engine.
func (e *Engine) Enable() error { return nil }

// Passive implements engine.Engine.
func (e *Engine) Passive() bool { return true }

// callCost is how long any call takes, and readCost a look at the clock. Neither
// is zero, so that whoever looks until a time has come sees it come.
const (
	callCost = time.Microsecond
	readCost = 20 * time.Nanosecond
)

// Now implements engine.Engine: the world's clock. Where task work is eager,
// completions come at any time, and this is the time between calls.
func (e *Engine) Now() time.Duration {
	if !e.inside && !e.closed && e.chance(e.faults.Eager) {
		e.inside = true
		e.pass(e.now + readCost)
		e.runWork()
		e.end()
		return e.now
	}
	e.now += readCost
	return e.now
}

// Counts tells what has happened.
func (e *Engine) Counts() Counts { return e.counts }

// Violations are the things that the program did and must never do.
func (e *Engine) Violations() []string { return e.violations }

// Violate notes a violation, also one that the world's test has found.
func (e *Engine) Violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.Note("VIOLATION: %s", text)
	if len(e.violations) < 20 {
		e.violations = append(e.violations, text)
	}
}

// Note writes a line to the trace.
func (e *Engine) Note(format string, args ...any) {
	if e.o.Trace == nil {
		return
	}
	fmt.Fprintf(e.o.Trace, "%12.3fµs  %s\n", float64(e.now)/1e3, fmt.Sprintf(format, args...))
}

// Tracing reports whether Note does anything, to spare what its arguments cost.
func (e *Engine) Tracing() bool { return e.o.Trace != nil }

func (e *Engine) stop(format string, args ...any) {
	s := Stop{fmt.Sprintf(format, args...)}
	e.Note("STOP: %s", s.Reason)
	panic(s)
}

// step counts one thing that happened, and ends a world that never does.
func (e *Engine) step() {
	if e.steps++; e.steps > e.o.MaxSteps {
		e.stop("no end after %d steps: %d operations armed, %d events to come", e.steps, len(e.armed), len(e.events))
	}
}

// begin is the first part of every enter.
func (e *Engine) begin() {
	e.inside = true
	e.step()
	e.counts.Enters++
	e.pass(e.now + callCost)
	e.messages()
	for _, g := range e.groups {
		e.look(g)
	}
	if len(e.work) > 0 && e.chance(e.faults.Eager) {
		e.runWork()
	}
	e.staleCompletion()
	e.spuriousEvent()
}

// end is the last.
func (e *Engine) end() {
	e.host.Deferred(len(e.work) > 0)
	e.inside = false
}

// refused reports whether this enter takes nothing, and why.
func (e *Engine) refused() syscall.Errno {
	switch {
	case e.chance(e.faults.EnterEINTR):
		e.counts.RefusedEnters++
		return unix.EINTR
	case e.chance(e.faults.EnterEBUSY):
		e.counts.RefusedEnters++
		return unix.EBUSY
	case e.chance(e.faults.EnterEAGAIN):
		e.counts.RefusedEnters++
		return unix.EAGAIN
	}
	return 0
}

// Submit implements engine.Engine.
func (e *Engine) Submit(n uint32) (int, syscall.Errno) {
	e.begin()
	defer e.end()
	if errno := e.refused(); errno != 0 {
		e.Note("submit %d: %v", n, errno)
		return 0, errno
	}
	took := e.take(n)
	e.Note("submit %d: %d", n, took)
	return took, 0
}

// Poll implements engine.Engine.
func (e *Engine) Poll(n uint32) (int, syscall.Errno) {
	e.begin()
	defer e.end()
	if errno := e.refused(); errno != 0 {
		e.Note("poll %d: %v", n, errno)
		e.host.Flush()
		return 0, errno
	}
	took := e.take(n)
	if uint32(took) == n {
		e.runWork()
	}
	e.host.Flush()
	if e.Tracing() && (n > 0 || e.host.Queues.Ready() > 0) {
		e.Note("poll %d: %d, %d ready, %d over", n, took, e.host.Queues.Ready(), e.host.Overflow())
	}
	return took, 0
}

// Wait implements engine.Engine.
func (e *Engine) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	e.begin()
	defer e.end()
	if errno := e.refused(); errno != 0 {
		e.Note("wait %d for %d, %v: %v", n, min, timeout, errno)
		e.host.Flush()
		return 0, errno
	}
	took := e.take(n)
	if uint32(took) < n {
		e.Note("wait %d for %d: short, %d", n, min, took)
		return took, 0 // io_uring_enter waits only when it took everything
	}
	deadline := e.now + timeout
	for {
		e.messages()
		e.runWork()
		e.host.Flush()
		ready := e.host.Queues.Ready()
		if ready >= min {
			e.Note("wait %d for %d: %d ready, %d over", n, min, ready, e.host.Overflow())
			return took, 0
		}
		if len(e.work) > 0 {
			e.step()
			continue
		}
		next, ok := e.next()
		switch {
		case timeout >= 0 && (!ok || next > deadline):
			e.pass(deadline)
			e.Note("wait %d for %d: timeout of %v", n, min, timeout)
			return took, unix.ETIME
		case !ok:
			e.stop("deadlock: the loop waits without a timeout, and nothing can ever happen any more (%d operations armed)", len(e.armed))
		}
		if e.chance(e.faults.WaitEINTR) {
			// A signal. What was submitted is counted, else it is EINTR.
			e.pass(e.now + (next-e.now)/2)
			e.counts.RefusedEnters++
			e.Note("wait %d for %d: signal", n, min)
			if took > 0 {
				return took, 0
			}
			return 0, unix.EINTR
		}
		e.pass(next)
	}
}

// take consumes up to n entries.
func (e *Engine) take(n uint32) int {
	if n > 1 && e.chance(e.faults.ShortSubmit) {
		e.counts.ShortSubmits++
		n = 1 + e.rng.Uint32N(n-1)
	}
	took := 0
	for uint32(took) < n {
		next := e.host.Next()
		if next == nil {
			break
		}
		entry := *next // stable from here on (FEAT_SUBMIT_STABLE)
		e.host.Take()
		took++
		e.issue(&entry)
	}
	return took
}

// Wake implements engine.Engine.
func (e *Engine) Wake(userData uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.woken = append(e.woken, userData)
	return nil
}

// messages takes in what Wake was called with.
func (e *Engine) messages() {
	e.mu.Lock()
	woken := e.woken
	e.woken = nil
	e.mu.Unlock()
	for _, u := range woken {
		e.message(u)
	}
}

// message is what a wake-up becomes: task work that posts a completion.
func (e *Engine) message(userData uint64) {
	o := &op{code: sys.IORING_OP_MSG_RING, userData: userData}
	e.Note("wake-up")
	if e.chance(e.faults.Delay) {
		e.After(e.upTo(20*time.Microsecond), func() { e.queue(o) })
		return
	}
	e.queue(o)
}

// Close implements engine.Engine. What is left behind is a violation.
func (e *Engine) Close() error {
	if e.closed {
		return nil
	}
	e.closed = true
	for i, s := range e.table {
		if s != nil {
			e.table[i] = nil
			e.unref(s)
		}
	}
	for _, o := range e.armed {
		e.Violate("at the end %s is in flight", o)
	}
	for i, s := range e.fds {
		if s != nil {
			e.Violate("at the end descriptor %d (%s) is open", firstFd+i, s)
		}
	}
	for _, g := range e.groups {
		if g != nil {
			e.Violate("at the end buffer group %d is registered", g.id)
		}
	}
	e.Note("close")
	return nil
}
