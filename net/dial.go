//go:build linux

package net

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// Dialer says how a connection is to be made and what serves it. The zero value
// will do where the server or client has a Handler.
//
// Each Dial has exactly one outcome: OnOpen of the Handler on success (with [TLS] after
// the handshake), OnError otherwise. Both are called on the loop on which the connection lives, or would
// have lived, and never before Dial has returned.
type Dialer struct {
	// Handler serves the connection. Default: that of the connection, server or
	// client that dials.
	Handler Handler

	// TLS, if it is not nil, secures the connection, as a Handler of [TLS] with this
	// Config would.
	TLS *tls.Config

	// Context is what Conn.Context answers from OnOpen on.
	Context any

	// OnError is told why there is no connection: an *[OpError] with Op "dial" and
	// the address that was tried first, or that for which the time ran out. It
	// matches os.ErrDeadlineExceeded after Timeout, [ErrServerClosed] on shutdown,
	// context.Canceled after Dialing.Cancel, a *net.DNSError of std where a name
	// could not be looked up, and is the kernel's errno otherwise (ECONNREFUSED,
	// EMFILE, …). A panic in it is logged and counted. Nil: nobody is told.
	OnError func(err error)

	// Timeout is how long it may take in all: to look a name up and to try all of
	// its addresses, each of which has an equal share of what is left but at least
	// two seconds. Default Options.DialTimeout; negative: as long as the kernel tries.
	Timeout time.Duration

	// LocalAddr is the address to connect from; port 0 takes a free one. Addresses
	// of another family are not tried then. Default: the kernel's choice. The file
	// of a Unix path is the caller's to remove, unless the Dial fails.
	LocalAddr Addr
}

// Dialing is a connection in the making. It belongs to its loop, as a Conn does.
//
//	         ┌──────────── the next address ◄────────────┐
//	         ▼                                           │ failed
//	looks ─► waits ─► connects ─► connected: OnOpen      │
//	up         ▲        │  ├────────────────────────────►┤
//	           └────────┘  │ timeout, Cancel, shutdown   │ was the last
//	     backlog full      └─► cancel ─► last completion ┴─► OnError
//
// A connect in flight is cancelled, never abandoned: its descriptor is closed after
// its last completion.
type Dialing struct {
	l *loop
	h *handlers
	d Dialer

	slot, gen uint32
	phase     dialPhase
	cancelled bool // a cancel is on its way
	inRetry   bool // on the loop's list

	to       []Addr // still to be tried; the first is being tried
	tried    Addr   // the first one that was
	err      error  // why that failed
	cause    error  // why no further one is tried
	deadline int64  // of everything; 0: none
	until    int64  // when to look again; 0: not before something happens
	pause    time.Duration
	expired  bool // the address that is being tried has had its time

	host string // as it was dialled
	conn *Conn  // dialSecures
	fd   int
	name []byte // the kernel's form of the address, in memory of the loop
	stop context.CancelFunc
	done func(error) // DialContext
}

type dialPhase uint8

const (
	dialWaits    dialPhase = iota // for the loop, for room, or for until
	dialLooksUp                   // a name; a goroutine will post the answer
	dialConnects                  // an entry is in flight
	dialSecures                   // it has a connection, which has yet to agree upon a session
	dialEnded
)

// leastDialShare is the least time that each of several addresses is given.
const leastDialShare = 2 * time.Second

// How long to wait for room in a Unix listener's backlog: at first, and at most.
const (
	dialPauseMin = time.Millisecond
	dialPauseMax = 50 * time.Millisecond
)

// Dial begins to connect to addr on c's loop: "host:port" or "unix:path". A host
// name is looked up by std's resolver on another goroutine, and its addresses are
// tried in turn. The outcome comes by callbacks, see [Dialer]. It does not depend on
// c any further: c may end meanwhile, or have ended.
// Only on the loop's goroutine.
func (c *Conn) Dial(addr string, d Dialer) *Dialing {
	h := c.h
	if d.Handler != nil {
		h = newHandlers(d.Handler)
	}
	return c.l.dial(addr, d, h, nil)
}

// Cancel gives up, unless there is an outcome already: OnError follows, also if the
// connection comes about just then. Only on the loop's goroutine.
func (g *Dialing) Cancel() { g.l.cancelDial(g, context.Canceled) }

// dial begins a dial. It calls nothing back before it has returned, except at the
// loop's end.
func (l *loop) dial(addr string, d Dialer, h *handlers, done func(error)) *Dialing {
	if d.TLS != nil {
		h = h.over(d.TLS)
	}
	g := &Dialing{l: l, h: h, d: d, fd: -1, done: done}
	l.dials.insert(g)
	timeout := d.Timeout
	if timeout == 0 {
		timeout = l.o.DialTimeout
	}
	if timeout > 0 {
		g.deadline = l.clock() + int64(timeout)
	}
	t, err := parseTarget(addr)
	g.to = t.addrs
	if g.host = t.host; g.host == "" && len(t.addrs) > 0 && !t.addrs[0].isUnix() {
		g.host = t.addrs[0].ip.Addr().String()
	}
	switch {
	case err != nil:
		g.cause = err
	case h.wrong != nil:
		g.cause = h.wrong
	case l.draining || l.stopped:
		g.cause = ErrServerClosed
	case t.host != "":
		l.lookUp(g, t)
		return g
	default:
		g.keepFamily(addr)
	}
	if l.stopped {
		l.guard(func() { l.advanceDial(g) }) // nobody will look again
	} else {
		l.dialLater(g)
	}
	return g
}

// cancelDial ends a dial, unless it has ended, for a reason.
func (l *loop) cancelDial(g *Dialing, cause error) {
	if g.phase == dialEnded || g.cause != nil {
		return
	}
	g.cause = cause
	if g.phase == dialSecures {
		l.abort(g.conn, cause) // and OnClose tells
		return
	}
	if g.phase == dialLooksUp {
		g.stop() // the goroutine posts its answer all the same
		return
	}
	l.dialLater(g)
}

// dialLater has g looked at later in this turn, or in the next.
func (l *loop) dialLater(g *Dialing) {
	if !g.inRetry {
		g.inRetry = true
		l.dials.retry = append(l.dials.retry, g)
	}
}

// runDials looks at dials that something has happened to.
func (l *loop) runDials() {
	if len(l.dials.retry) == 0 {
		return
	}
	batch := l.dials.retry
	l.dials.retry = nil
	for _, g := range batch {
		g.inRetry = false
		l.guard(func() { l.advanceDial(g) })
	}
}

// advanceDial does what is next, as far as it goes.
func (l *loop) advanceDial(g *Dialing) {
	switch g.phase {
	case dialEnded, dialLooksUp:
		return
	case dialConnects:
		if g.cause != nil || g.expired {
			l.cancelConnect(g)
		}
		return
	}
	for {
		switch {
		case g.cause != nil:
			l.dialFailed(g, g.cause)
			return
		case g.deadline != 0 && l.clock() >= g.deadline:
			l.dialFailed(g, os.ErrDeadlineExceeded)
			return
		case len(g.to) == 0:
			l.dialFailed(g, g.err)
			return
		}
		if l.tryAddress(g) {
			return
		}
	}
}

// tryAddress goes on with the first address of g. It reports false when that has
// failed, and the next is to be tried.
func (l *loop) tryAddress(g *Dialing) bool {
	to := g.to[0]
	if g.fd < 0 {
		if !g.tried.IsValid() {
			g.tried = to
		}
		if err := l.openDial(g, to); err != nil {
			return l.addressFailed(g, err)
		}
	}
	if to.isUnix() {
		switch errno := l.r.ConnectUnix(g.fd, to.Path()); errno {
		case 0:
			l.connected(g)
		case unix.EAGAIN, unix.EINTR:
			// The listener's backlog is full, and there is no event for room in it.
			g.pause = min(max(2*g.pause, dialPauseMin), dialPauseMax)
			at := l.clock() + int64(g.pause)
			if g.deadline != 0 {
				at = min(at, g.deadline)
			}
			l.lookAgain(g, at)
		default:
			return l.addressFailed(g, errno)
		}
		return true
	}
	if g.name == nil {
		var err error
		if g.name, err = l.dials.memory(); err != nil {
			return l.addressFailed(g, err)
		}
	}
	name, err := ring.PutSockaddr(g.name, to.ip)
	if err != nil {
		return l.addressFailed(g, err)
	}
	e := l.entry()
	if e == nil {
		l.dialLater(g)
		return true
	}
	e.PrepareConnect(g.fd, name)
	g.gen = l.dials.nextGeneration()
	e.SetUserData(userData(kindConnect, g.gen, g.slot))
	l.inFlight++
	g.phase, g.cancelled, g.expired = dialConnects, false, false
	l.lookAgain(g, l.shareOf(g))
	return true
}

// shareOf is until when the first of the addresses that are left may be tried.
func (l *loop) shareOf(g *Dialing) int64 {
	if g.deadline == 0 {
		return 0
	}
	now := l.clock()
	share := max((g.deadline-now)/int64(len(g.to)), int64(leastDialShare))
	return min(now+share, g.deadline)
}

// openDial opens the socket for an address.
func (l *loop) openDial(g *Dialing, to Addr) (err error) {
	if to.isUnix() {
		g.fd, err = l.r.OpenUnix(g.d.LocalAddr.Path())
	} else {
		g.fd, err = l.r.OpenTCP(to.ip, g.d.LocalAddr.ip)
	}
	if err != nil {
		g.fd = -1
		return err
	}
	if to.isUnix() {
		return nil
	}
	return l.tune(g.fd)
}

// addressFailed goes over to the next address. It reports false, for tryAddress.
func (l *loop) addressFailed(g *Dialing, err error) bool {
	if g.err == nil {
		g.err = err // that of the first address says most
	}
	l.closeDial(g)
	g.to = g.to[1:]
	return false
}

// closeDial closes the socket. Nothing may be in flight on it.
func (l *loop) closeDial(g *Dialing) {
	if g.fd < 0 {
		return
	}
	_ = l.r.CloseFd(g.fd)
	g.fd = -1
	if path := g.d.LocalAddr.Path(); path != "" && !strings.HasPrefix(path, "@") {
		_ = os.Remove(path) // bind has made it
	}
}

// cancelConnect has the connect in flight end.
func (l *loop) cancelConnect(g *Dialing) {
	if g.cancelled {
		return
	}
	e := l.entry()
	if e == nil {
		l.dialLater(g)
		return
	}
	e.PrepareCancel(userData(kindConnect, g.gen, g.slot))
	e.SetUserData(userData(kindCancelConnect, g.gen, g.slot))
	g.cancelled = true
	l.inFlight++
}

// onCancelConnect takes the completion of such a cancel. As with others (see
// onCancel), one that came too late may leave the connect in flight: try again.
func (l *loop) onCancelConnect(gen, slot uint32, cqe *ring.Completion) {
	l.inFlight--
	if g := l.dials.find(gen, slot); g != nil && cqe.Res < 0 && g.phase == dialConnects {
		g.cancelled = false
		l.dialLater(g)
	}
}

// onConnect takes the completion of a connect.
func (l *loop) onConnect(gen, slot uint32, cqe *ring.Completion) {
	g := l.dials.find(gen, slot)
	if g == nil || g.phase != dialConnects {
		l.stats.Stale++
		return
	}
	l.inFlight--
	g.phase, g.until = dialWaits, 0
	switch errno := syscall.Errno(max(0, -cqe.Res)); {
	case g.cause != nil:
		l.advanceDial(g) // also if it has come about all the same
		return
	case errno == 0 && !l.selfConnected(g):
		l.connected(g)
		return
	case errno == 0:
		l.addressFailed(g, unix.ECONNREFUSED)
	case g.expired:
		l.addressFailed(g, os.ErrDeadlineExceeded)
	case errno == unix.EINTR:
		// It goes on without us, and a new socket is as good.
		l.closeDial(g)
	default:
		l.addressFailed(g, errno)
	}
	l.advanceDial(g)
}

// selfConnected reports that the kernel has connected the socket to itself, as it
// may when nobody listens at a port out of those that it gives to who connects.
func (l *loop) selfConnected(g *Dialing) bool {
	local, err := l.r.LocalAddr(g.fd)
	return err == nil && local == g.to[0].ip
}

// connected makes a connection of a dial.
func (l *loop) connected(g *Dialing) {
	c := &Conn{l: l, fd: int32(g.fd), h: g.h, remote: g.to[0], context: g.d.Context}
	l.endDial(g)
	l.stats.Dialled++
	if l.layOver(c, g); c.state&layered != 0 {
		g.phase, g.conn = dialSecures, c
	} else if g.done != nil {
		defer g.done(nil) // also if OnOpen panics: it was called
	}
	l.begin(c)
}

// secured ends a dial whose connection has a session now, or could have none.
func (g *Dialing) secured(err error) {
	g.phase, g.conn = dialEnded, nil
	if g.done != nil {
		defer g.done(err)
	}
	if err != nil && g.d.OnError != nil {
		g.l.call(&g.l.nobody, func() { g.d.OnError(err) })
	}
}

// dialFailed ends a dial without one.
func (l *loop) dialFailed(g *Dialing, err error) {
	at := g.tried
	if len(g.to) > 0 && g.err == nil {
		at = g.to[0]
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && g.err != nil && !errors.Is(g.err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w, after %w", err, g.err) // of an address that was tried before
	}
	err = &OpError{Op: "dial", Addr: at, Err: explainDial(err)}
	l.closeDial(g)
	l.endDial(g)
	l.stats.DialErrors++
	if g.done != nil {
		defer g.done(err)
	}
	if g.d.OnError != nil {
		l.call(&l.nobody, func() { g.d.OnError(err) })
	}
}

func (l *loop) endDial(g *Dialing) {
	g.phase, g.until, g.to = dialEnded, 0, nil
	l.dials.remove(g)
}

// explainDial adds to an error of a dial what would mend it, where that is not plain.
func explainDial(err error) error {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: the local address is not of this machine, or all of its ports are in use (net.ipv4.ip_local_port_range)", err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: no descriptor is free; raise the limit of open files ('ulimit -n' or LimitNOFILE=)", err)
	}
	return err
}

// lookAgain has g looked at when a time has come; 0: never.
func (l *loop) lookAgain(g *Dialing, at int64) {
	if g.until = at; at != 0 && (l.dials.next == 0 || at < l.dials.next) {
		l.dials.next = at
	}
}

// expireDials looks at the dials whose time has come.
func (l *loop) expireDials(now int64) {
	if l.dials.next == 0 || now < l.dials.next {
		return
	}
	l.dials.next = 0
	for _, g := range l.dials.slots {
		switch {
		case g == nil || g.until == 0:
		case now < g.until:
			l.lookAgain(g, g.until)
		default:
			g.until = 0
			switch g.phase {
			case dialLooksUp:
				g.cause = os.ErrDeadlineExceeded
				g.stop()
			case dialConnects:
				g.expired = true
				l.dialLater(g)
			default:
				l.dialLater(g)
			}
		}
	}
}

// dialTable gives each dial of a loop a slot; see table.
type dialTable struct {
	slots []*Dialing
	free  []uint32
	used  int
	gen   uint32

	retry []*Dialing // to look at
	next  int64      // no dial is due before; 0: none is at all

	mem   [][]byte // where the names lie
	names [][]byte // that are not in use
}

func (t *dialTable) insert(g *Dialing) {
	if n := len(t.free); n > 0 {
		g.slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		g.slot = uint32(len(t.slots))
		t.slots = append(t.slots, nil)
	}
	t.slots[g.slot] = g
	g.gen = t.nextGeneration()
	t.used++
}

// nextGeneration is another one for each connect: a dial has several.
func (t *dialTable) nextGeneration() uint32 {
	t.gen = (t.gen + 1) & generationMask
	return t.gen
}

func (t *dialTable) remove(g *Dialing) {
	t.slots[g.slot] = nil
	t.free = append(t.free, g.slot)
	if t.used--; t.used == 0 {
		t.next = 0
	}
	if g.name != nil {
		t.names = append(t.names, g.name)
		g.name = nil
	}
}

// memory gives a dial the place that the kernel reads its address from.
func (t *dialTable) memory() ([]byte, error) {
	if len(t.names) == 0 {
		mem, err := ring.Map(4096)
		if err != nil {
			return nil, err
		}
		t.mem = append(t.mem, mem)
		for ; len(mem) >= ring.SockaddrBytes; mem = mem[ring.SockaddrBytes:] {
			t.names = append(t.names, mem[:ring.SockaddrBytes:ring.SockaddrBytes])
		}
	}
	n := len(t.names)
	name := t.names[n-1]
	t.names = t.names[:n-1]
	return name, nil
}

func (t *dialTable) find(gen, slot uint32) *Dialing {
	if int(slot) < len(t.slots) {
		if g := t.slots[slot]; g != nil && g.gen == gen {
			return g
		}
	}
	return nil
}

// each calls f for every dial; f may end the one it is called with.
func (t *dialTable) each(f func(*Dialing)) {
	for i := range t.slots {
		if g := t.slots[i]; g != nil {
			f(g)
		}
	}
}

// target is what an address to dial says.
type target struct {
	addrs      []Addr
	host, port string // to be looked up, if host is not ""
}

// parseTarget reads an address to dial.
func parseTarget(addr string) (target, error) {
	if strings.HasPrefix(addr, unixPrefix) {
		a, err := ParseAddr(addr)
		return target{addrs: []Addr{a}}, err
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		return target{addrs: []Addr{TCPAddr(ap)}}, nil
	}
	return parseName(addr)
}

// keepFamily drops the addresses that cannot be reached from the local one.
func (g *Dialing) keepFamily(what string) {
	local := g.d.LocalAddr
	if !local.IsValid() {
		return
	}
	kept := g.to[:0]
	for _, a := range g.to {
		if a.isUnix() == local.isUnix() && a.ip.Addr().Is4() == local.ip.Addr().Is4() {
			kept = append(kept, a)
		}
	}
	if g.to = kept; len(kept) == 0 {
		g.cause = fmt.Errorf("ringnet: %q has no address of the same family as the local address %v", what, local)
	}
}
