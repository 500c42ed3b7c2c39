//go:build linux

package net

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	stdnet "net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/sim"
)

// sessionSeeds is where the seeds begin of worlds in which every connection has a
// session. It is not TLS, whose bytes are other ones each time, but as demanding: frames
// are numbered, begin with a hello from both sides, end with a goodbye, and a peer may
// ask for an answer at any time, as it may ask for other keys in TLS.
const sessionSeeds = 1 << 60

func (w *world) hasSessions() bool { return w.seed >= sessionSeeds && w.seed < handedSeeds }

// The kinds of frames.
const (
	frameHello byte = iota
	frameData
	frameAsk
	frameAnswer
	frameGoodbye
)

const (
	frameHead = 5 // length, number and kind
	frameMost = 1000
)

// simFraming is one end of a session.
type simFraming struct {
	sealed, opened uint16 // frames
	in             []byte // not opened
}

// seal makes a frame.
func (x *simFraming) seal(kind byte, b []byte) []byte {
	f := binary.BigEndian.AppendUint16(nil, uint16(len(b)))
	f = append(binary.BigEndian.AppendUint16(f, x.sealed), kind)
	for _, c := range b {
		f = append(f, c^byte(x.sealed))
	}
	x.sealed++
	return f
}

// open takes the next frame; ok is false if it has not come.
func (x *simFraming) open() (kind byte, b []byte, ok bool, err error) {
	if len(x.in) < frameHead {
		return 0, nil, false, nil
	}
	n := int(binary.BigEndian.Uint16(x.in))
	if len(x.in) < frameHead+n {
		return 0, nil, false, nil
	}
	if number := binary.BigEndian.Uint16(x.in[2:]); number != x.opened {
		return 0, nil, false, fmt.Errorf("frame %d comes in place of %d", number, x.opened)
	}
	kind = x.in[4]
	for _, c := range x.in[frameHead : frameHead+n] {
		b = append(b, c^byte(x.opened))
	}
	x.opened++
	x.in = x.in[frameHead+n:]
	return kind, b, true, nil
}

// simSecurer makes the sessions of a world's connections.
type simSecurer struct{ w *world }

func (s simSecurer) session(raw stdnet.Conn, client bool, _ string) session {
	return &simSession{Conn: raw, w: s.w, client: client}
}

// limit is none in every other world.
func (s simSecurer) limit() time.Duration { return time.Duration(s.w.seed%2) * 20 * time.Millisecond }

func (s simSecurer) refused(*Conn, error) {}

// simSession is the loop's end.
type simSession struct {
	stdnet.Conn
	w       *world
	client  bool
	framing simFraming
	plain   []byte
	err     error
}

// next is the next frame, for which it waits if the socket does.
func (s *simSession) next() (kind byte, b []byte, err error) {
	for {
		kind, b, ok, err := s.framing.open()
		if err != nil {
			s.w.e.Violate("a peer's %v", err)
		}
		if ok || err != nil {
			return kind, b, err
		}
		var raw [700]byte
		n, err := s.Conn.Read(raw[:])
		if n == 0 {
			return 0, nil, err
		}
		s.framing.in = append(s.framing.in, raw[:n]...)
	}
}

func (s *simSession) Handshake() error {
	if s.client {
		if _, err := s.Conn.Write(s.framing.seal(frameHello, nil)); err != nil {
			return err
		}
	}
	kind, _, err := s.next()
	if err == nil && kind != frameHello {
		s.w.e.Violate("a session begins with frame %d", kind)
	}
	if err == nil && !s.client {
		_, err = s.Conn.Write(s.framing.seal(frameHello, nil))
	}
	return err
}

func (s *simSession) Read(b []byte) (int, error) {
	for len(s.plain) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		kind, plain, err := s.next()
		if err != nil {
			if err != errWouldBlock {
				s.err = err
			}
			return 0, err
		}
		switch kind {
		case frameData:
			s.plain = plain
		case frameAsk:
			_, _ = s.Conn.Write(s.framing.seal(frameAnswer, nil)) // an error is the next write's
		case frameGoodbye:
			s.err = io.EOF
		}
	}
	n := copy(b, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

func (s *simSession) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		m := min(len(b)-n, frameMost)
		if _, err = s.Conn.Write(s.framing.seal(frameData, b[n:n+m])); err == nil {
			n += m
		}
	}
	return n, err
}

func (s *simSession) CloseWrite() error {
	_, err := s.Conn.Write(s.framing.seal(frameGoodbye, nil))
	return err
}

func (s *simSession) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

// simSealed is the peer's end, in place of its socket.
type simSealed struct {
	*sim.Peer
	w       *world
	r       *rand.Rand
	framing simFraming
	out     []byte // sealed, and not taken by the socket
	plain   []byte
	ending  bool // our direction ends when that has gone
	goodbye bool // theirs has ended as it should
	answers int  // that are to come
}

func newSimSealed(w *world, p *sim.Peer, id int) *simSealed {
	x := &simSealed{Peer: p, w: w, r: rand.New(rand.NewPCG(w.seed, uint64(id)))}
	x.out = x.framing.seal(frameHello, nil)
	return x
}

// flush hands over what it can.
func (x *simSealed) flush() error {
	for len(x.out) > 0 {
		n, err := x.Peer.Write(x.out)
		x.out = x.out[n:]
		if err != nil {
			return err
		}
		if len(x.out) > 0 {
			return unix.EAGAIN
		}
	}
	if x.ending {
		x.ending = false
		x.Peer.CloseWrite()
	}
	return nil
}

func (x *simSealed) Write(b []byte) (n int, err error) {
	for n < len(b) {
		if err := x.flush(); err != nil {
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if x.r.IntN(8) == 0 {
			x.out = append(x.out, x.framing.seal(frameAsk, nil)...)
			x.answers++
		}
		m := min(len(b)-n, 1+x.r.IntN(frameMost))
		x.out = append(x.out, x.framing.seal(frameData, b[n:n+m])...)
		n += m
	}
	if err := x.flush(); err != nil && !errors.Is(err, unix.EAGAIN) {
		return n, err
	}
	return n, nil
}

func (x *simSealed) Read(b []byte) (int, error) {
	for len(x.plain) == 0 {
		if x.goodbye {
			return 0, io.EOF
		}
		kind, plain, ok, err := x.framing.open()
		if err != nil {
			x.w.e.Violate("a peer is sent what is out of order: %v", err)
			return 0, io.EOF
		}
		if !ok {
			var raw [1500]byte
			n, err := x.Peer.Read(raw[:])
			if n == 0 {
				return 0, err
			}
			x.framing.in = append(x.framing.in, raw[:n]...)
			continue
		}
		switch kind {
		case frameData:
			x.plain = plain
		case frameAnswer:
			if x.answers--; x.answers < 0 {
				x.w.e.Violate("a peer is answered what it has not asked")
			}
		case frameGoodbye:
			x.goodbye = true
		}
	}
	n := copy(b, x.plain)
	x.plain = x.plain[n:]
	return n, nil
}

func (x *simSealed) CloseWrite() {
	x.out = append(x.out, x.framing.seal(frameGoodbye, nil)...)
	x.ending = true
	_ = x.flush() // it goes on when there is room, or the peer sees the error
}

// TestSimulatedWorldsWithSessions runs worlds in which each connection has a session:
// what is sent has to come through it in order, whatever waits in front, and the session
// has to have every byte that came once, whatever keeps its handler from reading.
func TestSimulatedWorldsWithSessions(t *testing.T) {
	worlds := 3000
	if simRace {
		worlds = 500
	}
	if testing.Short() {
		worlds = 50 // the same on every kernel
	}
	var sum simSum
	runWorlds(t, sessionSeeds, worlds, func(out *simOutcome) { sum.add(out) })
	if t.Failed() || worlds < 3000 {
		return
	}
	st := sum.stats
	for name, n := range map[string]uint64{"TLSHandshakes": st.TLSHandshakes, "TLSHandshakeErrors": st.TLSHandshakeErrors, "Files": st.Files, "ColdReads": st.ColdReads, "ToBulk": st.ToBulk} {
		if n == 0 {
			t.Errorf("no world had any %s", name)
		}
	}
	t.Logf("%d handshakes, %d have failed", st.TLSHandshakes, st.TLSHandshakeErrors)
}

// The checker had forgotten that a handler hears of 64 errors at a time and no more:
// bursts of a socket to which the kernel refuses much make more.
func TestSimulatedSocketHasMoreErrorsThanItIsTold(t *testing.T) {
	out := runWorld(sessionSeeds+3776, nil)
	if err := out.report(); err != nil {
		t.Fatal(err)
	}
	if out.untold == 0 {
		t.Error("this world no longer has what it is there for")
	}
}
