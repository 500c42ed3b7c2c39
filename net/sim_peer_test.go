//go:build linux

package net

import (
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/sim"
)

// simPeer is a client in a simulated world.
type simPeer struct {
	w    *world
	id   int
	p    *sim.Peer // nil until it has connected, and if nobody listened
	io   simIO     // what it reads and writes by: that, or a session
	conn *simConn
	at   int // where in the pattern its bytes are

	total     int // bytes to send
	chunk     int // at a time
	gap       time.Duration
	drip      int  // after so many bytes, chunks are small and far apart
	pingPong  bool // waits for an answer after each chunk
	readChunk int
	readGap   time.Duration
	leave     simLeave
	life      time.Duration

	sent, got  int
	waitUntil  int  // pingPong: for so many bytes
	ended      bool // it has ended its direction
	sawEnd     bool // the server has
	sawReset   bool
	done       bool
	sleeping   bool // before it writes again
	resting    bool // before it reads again
	progressAt time.Duration
}

// simIO is what a peer reads and writes by.
type simIO interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	CloseWrite()
}

// simLeave is how a peer ends.
type simLeave uint8

const (
	simNicely     simLeave = iota // ends its direction, reads to the end
	simNicelyToo                  // most do
	simAfterEcho                  // closes when it has got as much as it sent
	simRudely                     // closes when it has sent everything
	simWithReset                  // resets when it has sent everything, or earlier
	simNeverReads                 // and closes after a while
	simAtOnce                     // resets before it could be accepted
	simLeaves
)

// patienceOfPeers is how long nothing may happen to a peer that does all it should.
// Accepts that pause and other peers that hold the last descriptor take their time.
const patienceOfPeers = 300 * time.Second

func drawPeer(w *world, id int, most int) *simPeer {
	r := w.r
	some := func(choices ...int) int { return choices[r.IntN(len(choices))] }
	p := &simPeer{w: w, id: id, at: id*9973 + 131*int(w.seed%1000), leave: simLeave(r.IntN(int(simLeaves)))}
	if r.IntN(3) == 0 {
		p.leave = simNicely
	}
	p.total = r.IntN(1 + min(most, some(0, 10, 1000, 20_000, 100_000, 300_000)))
	p.chunk = max(1, some(1, 64, 1000, 8192, 65536, 400_000))
	p.chunk = max(p.chunk, p.total/100)
	p.gap = time.Duration(some(0, 0, 10, 100, 2000)) * time.Microsecond
	p.pingPong = r.IntN(3) == 0
	p.readChunk = some(100, 5000, 100_000)
	if r.IntN(3) == 0 {
		p.readGap = time.Duration(some(10, 200, 5000)) * time.Microsecond
		p.readChunk = max(p.readChunk, 2000)
	}
	p.drip = p.total
	if r.IntN(5) == 0 {
		p.drip = p.total / 2
		p.total = min(p.total, p.drip+some(200, 2000))
	}
	p.life = time.Duration(some(1, 100, 3000, 10_000)) * time.Millisecond
	return p
}

func drawRoute(r *rand.Rand) sim.Route {
	some := func(choices ...int) int { return choices[r.IntN(len(choices))] }
	route := sim.Route{RecvBytes: some(700, 3000, 20_000, 200_000), SendBytes: some(700, 3000, 20_000, 200_000)}
	route.Piece = max(some(100, 1460, 16_000, 65_536), route.RecvBytes/64, route.SendBytes/64)
	route.Latency = time.Duration(some(1, 5, 20, 500)) * time.Microsecond
	route.Jitter = time.Duration(some(0, 5, 50)) * time.Microsecond
	if r.IntN(4) == 0 {
		route.Stall, route.StallFor = some(5, 50), time.Duration(some(1, 200))*time.Millisecond
	}
	return route
}

// begin connects the peer.
func (p *simPeer) begin(route sim.Route) {
	p.w.e.Dial(p.id, route, func(peer *sim.Peer) {
		if peer == nil {
			p.finish()
			return
		}
		p.w.team.connected()
		p.connected(peer, p.w.hasSessions())
	})
}

// connected has the peer begin to do what it does, within a session or not.
func (p *simPeer) connected(peer *sim.Peer, sealed bool) {
	p.p, p.io = peer, peer
	if sealed {
		p.io = newSimSealed(p.w, peer, p.id)
	}
	p.progress()
	switch p.leave {
	case simAtOnce:
		if p.w.r.IntN(2) == 0 {
			p.write()
		}
		p.end()
		peer.Reset()
		p.finish()
		return
	case simWithReset:
		p.w.e.After(time.Duration(p.w.r.Int64N(int64(p.life))), p.reset)
	case simNeverReads:
		p.w.e.After(p.life, p.reset)
	}
	peer.Notify = p.look
	p.look()
	p.watch()
}

func (p *simPeer) progress() { p.progressAt = p.w.e.Clock() }

// watch finds peers to which nothing happens any more.
func (p *simPeer) watch() {
	p.w.e.After(patienceOfPeers, func() {
		if p.done {
			return
		}
		if p.w.e.Clock()-p.progressAt >= patienceOfPeers {
			p.w.e.Violate("peer %d waits in vain: sent %d of %d, got %d, ended %v, wrote %d", p.id, p.sent, p.total, p.got, p.ended, p.wrote())
			p.reset()
			return
		}
		p.watch()
	})
}

// unread reports that the handler has yet to be lent some of what was sent. Nothing
// but the server itself may be needed for that: who waits for it sends nothing, and
// does not end, so that a wake-up that is lost stays lost.
func (p *simPeer) unread() bool {
	if p.leave == simNeverReads {
		return false
	}
	k := p.conn
	return k == nil || !k.closed && !k.closing && k.offered < p.sent
}

func (p *simPeer) wrote() int {
	if p.conn == nil {
		return -1
	}
	return p.conn.wrote
}

// look does what there is to do.
func (p *simPeer) look() {
	if p.done {
		return
	}
	if x, ok := p.io.(*simSealed); ok {
		if err := x.flush(); err != nil && !errors.Is(err, unix.EAGAIN) {
			p.fail(err)
			return
		}
	}
	if !p.sleeping && !p.ended {
		p.write()
	}
	if !p.done && !p.resting && p.leave != simNeverReads {
		p.read()
	}
}

func (p *simPeer) write() {
	for p.sent < p.total {
		if p.pingPong && p.got < p.waitUntil {
			if !p.sleeping {
				// Not every handler answers, but each reads.
				p.sleeping = true
				until := p.waitUntil
				p.w.e.After(20*time.Millisecond, func() {
					p.sleeping = false
					if p.waitUntil == until && !p.unread() {
						p.waitUntil = 0
					}
					p.look()
				})
			}
			return
		}
		n, gap := min(p.chunk, p.total-p.sent), p.gap
		if p.sent >= p.drip {
			n, gap = min(10, n), max(gap, 10*time.Microsecond)
		}
		at := p.at + p.sent
		m, err := p.io.Write(patternBytes[at : at+n])
		p.sent += m
		switch {
		case err != nil && !errors.Is(err, unix.EAGAIN):
			p.fail(err)
			return
		case m > 0:
			p.progress()
		}
		if m < n {
			return // there will be room
		}
		if p.pingPong {
			p.waitUntil = p.got + m
			if w := p.wrote(); w > 0 {
				p.waitUntil = max(p.waitUntil, p.sent)
			}
		}
		if gap > 0 && p.sent < p.total {
			p.sleeping = true
			p.w.e.After(gap, func() { p.sleeping = false; p.look() })
			return
		}
	}
	switch p.leave {
	case simNicely, simNicelyToo:
		p.end()
		p.io.CloseWrite()
	case simRudely:
		p.end()
		p.p.Close()
		p.finish()
	case simAfterEcho:
		if !p.sleeping {
			p.sleeping = true
			p.w.e.After(50*time.Millisecond, func() {
				if !p.unread() {
					p.leave = simNicely
				}
				p.sleeping = false
				p.look()
			})
		}
	}
}

func (p *simPeer) end() {
	p.ended = true
	p.progress()
}

func (p *simPeer) read() {
	var b [4096]byte
	for room := p.readChunk; room > 0; {
		n, err := p.io.Read(b[:min(len(b), room)])
		switch {
		case err == nil:
			p.check(b[:n])
			room -= n
		case errors.Is(err, unix.EAGAIN):
			return
		case err == io.EOF:
			p.sawEnd = true
			p.w.e.Note("peer %d sees the end of the stream after %d bytes", p.id, p.got)
			p.end()
			p.p.Close()
			p.finish()
			return
		default:
			p.fail(err)
			return
		}
	}
	if p.leave == simAfterEcho && p.sent == p.total && p.got >= p.sent {
		p.end()
		p.p.Close()
		p.finish()
		return
	}
	p.resting = true
	p.w.e.After(p.readGap, func() { p.resting = false; p.look() })
}

// check holds what has come to what was written.
func (p *simPeer) check(b []byte) {
	p.progress()
	switch {
	case p.conn == nil:
		p.w.e.Violate("peer %d gets %d bytes of a connection that nobody opened", p.id, len(b))
	case p.got+len(b) > p.conn.wrote:
		p.w.e.Violate("peer %d gets %d bytes, %d were written", p.id, p.got+len(b), p.conn.wrote)
	case !p.conn.wants(p.got, b):
		p.w.e.Violate("peer %d: the %d bytes from %d on are not what was written", p.id, len(b), p.got)
	}
	p.got += len(b)
}

func (p *simPeer) fail(err error) {
	p.w.e.Note("peer %d: %v", p.id, err)
	p.sawReset = true
	p.end()
	p.p.Close()
	p.finish()
}

func (p *simPeer) reset() {
	if p.done {
		return
	}
	p.end()
	p.p.Reset()
	p.finish()
}

func (p *simPeer) finish() {
	if !p.done {
		p.done = true
		p.w.peerDone()
	}
}

// judge looks at a peer after the end of everything.
func (p *simPeer) judge() {
	k := p.conn
	switch {
	case !p.done:
		p.w.e.Violate("peer %d has not come to its end", p.id)
	case k == nil:
	case p.sawEnd && k.whole() && k.cause != io.EOF && p.p != p.io && !p.io.(*simSealed).goodbye:
		p.w.e.Violate("peer %d sees the end of the stream, and its session has not ended (cause: %v)", p.id, k.cause)
	case p.sawEnd && k.whole() && p.got != k.wrote:
		p.w.e.Violate("peer %d sees the end of the stream after %d bytes, %d were written (cause: %v)", p.id, p.got, k.wrote, k.cause)
	}
}
