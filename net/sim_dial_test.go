//go:build linux

package net

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/sim"
)

// simDial is a dial from a callback of a simulated world, to a peer of its own.
type simDial struct {
	w       *world
	n       int
	g       *Dialing
	began   time.Duration
	timeout time.Duration // 0: none but the kernel's
	fate    []simFate     // of its addresses, in turn
	peer    *simPeer

	inDial    bool
	cancelled bool
	outcomes  int
}

// simFate is what becomes of a connect to one address.
type simFate struct {
	addr  netip.AddrPort
	after time.Duration // negative: no answer
	errno syscall.Errno
}

// simDialsMost is how many dials a world has at most: each may make a connection
// that dials again.
const simDialsMost = 12

// dialFrom has a connection dial.
func (w *world) dialFrom(k *simConn) {
	if len(w.dials) == simDialsMost {
		return
	}
	some := func(choices ...int) int { return choices[w.r.IntN(len(choices))] }
	s := &simDial{w: w, n: len(w.dials), began: w.e.Clock()}
	w.dials = append(w.dials, s)
	s.timeout = time.Duration(some(-1, 0, 1, 10, 100, 5000)) * time.Millisecond
	for i := range some(1, 1, 1, 2, 3) {
		f := simFate{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}), uint16(1000+s.n)),
			after: time.Duration(some(-1, 0, 1, 50, 3000, 200_000)) * time.Microsecond}
		if w.r.IntN(3) == 0 {
			f.errno = []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ETIMEDOUT, unix.EADDRNOTAVAIL, unix.ENETUNREACH, unix.EINTR,
				unix.EAGAIN, unix.ECANCELED, unix.ENOMEM, unix.ECONNRESET}[w.r.IntN(10)]
		}
		s.fate = append(s.fate, f)
	}
	d := Dialer{Context: s, Timeout: s.timeout, OnError: s.failed}
	if w.r.IntN(2) == 0 {
		d.Handler = simHandler{w}
	}
	w.e.Note("connection %d dials: %d, %+v, timeout %v", k.n, s.n, s.fate, s.timeout)
	s.inDial = true
	s.g = k.c.Dial(s.fate[0].addr.String(), d)
	s.inDial = false
	if s.g.cause == nil {
		for _, f := range s.fate[1:] {
			s.g.to = append(s.g.to, TCPAddr(f.addr)) // as a name's look-up would have it
		}
	}
	if w.r.IntN(4) == 0 {
		w.e.After(time.Duration(w.r.IntN(5000))*time.Microsecond, func() {
			_ = w.l.mail.post(func() {
				s.cancelled = s.cancelled || s.outcomes == 0
				s.g.Cancel()
			})
		})
	}
}

// answer is what the network says to a connect.
func (w *world) answer(to netip.AddrPort) sim.Answer {
	n := int(to.Port()) - 1000
	if n < 0 || n >= len(w.dials) {
		w.e.Violate("a connect to %v, which nobody dials", to)
		return sim.Answer{Errno: unix.ECONNREFUSED}
	}
	s := w.dials[n]
	i := int(to.Addr().As4()[3])
	f := s.fate[i]
	if f.errno == unix.EINTR {
		s.fate[i].errno = 0 // a signal comes once
	}
	return sim.Answer{After: f.after, Errno: f.errno, Route: drawRoute(w.r), Peer: func(peer *sim.Peer) {
		p := drawPeer(w, len(w.peers), max(2000, min(300_000, 200*w.o.RecvBufBytes)))
		w.peers = append(w.peers, p)
		w.alive++
		s.peer = p
		p.connected(peer, s.g.h.secure != nil)
	}}
}

// once notes an outcome.
func (s *simDial) once(what string) {
	s.w.e.Note("dial %d: %s", s.n, what)
	if s.outcomes++; s.outcomes > 1 {
		s.w.e.Violate("dial %d has a second outcome: %s", s.n, what)
	}
	if s.inDial {
		s.w.e.Violate("dial %d has its outcome before Dial has returned", s.n)
	}
	if s.w.running != nil {
		s.w.e.Violate("dial %d: %s within a callback", s.n, what)
	}
	const slack = 100 * time.Millisecond // cancels that come too late take theirs
	most := s.timeout
	if most == 0 {
		most = s.w.o.DialTimeout
	}
	if took := s.w.e.Clock() - s.began; most > 0 && took > most+slack {
		s.w.e.Violate("dial %d has its outcome after %v, the timeout is %v", s.n, took, most)
	}
}

// failed is OnError.
func (s *simDial) failed(err error) {
	w := s.w
	s.once("OnError: " + err.Error())
	var op *OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		w.e.Violate("dial %d fails with %v", s.n, err)
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, ErrServerClosed):
		if !w.draining {
			w.e.Violate("dial %d ends with a shutdown that is none", s.n)
		}
	case errors.Is(err, context.Canceled):
		if !s.cancelled {
			w.e.Violate("dial %d was not cancelled", s.n)
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		if s.timeout < 0 && s.g.h.secure == nil {
			w.e.Violate("dial %d has no timeout: %v", s.n, err)
		}
	case errors.As(err, &errno):
	case s.g.h.secure != nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
	default:
		w.e.Violate("dial %d fails with %v", s.n, err)
	}
	if w.r.IntN(20) == 0 {
		w.panics++
		panic("the world's OnError panics")
	}
}

// judge looks at a dial after the end of everything.
func (s *simDial) judge() {
	if s.outcomes != 1 {
		s.w.e.Violate("dial %d has %d outcomes", s.n, s.outcomes)
	}
}
