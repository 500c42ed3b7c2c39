//go:build linux

package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"example.com/ringnet/bufring"
	"example.com/ringnet/internal/engine/sim"
)

// simPackets is the UDP part of a simulated world: some sockets of the server, and
// some peers that send datagrams to them. Every datagram is known by its bytes, so
// that one that is changed, doubled or another's shows.
type simPackets struct {
	w       *world
	r       *rand.Rand
	peers   []*simPacketPeer
	sockets []*simSocket
	of      map[*Socket]*simSocket
	running bool // a callback of a socket
	served  []netip.AddrPort
	loss    bool
	untold  int // errors that were only counted
}

// simPacketPeer is one peer.
type simPacketPeer struct {
	u    *simPackets
	n    int
	p    *sim.UDPPeer
	left int
	gap  time.Duration
	sent map[uint64][]byte // by the number in their first bytes
	tiny map[string]bool   // those that have no room for one
	due  map[string]int    // what our sockets have written to it
	got  int
}

// simSocket is what the handler knows of a socket.
type simSocket struct {
	u         *simPackets
	s         *Socket
	n         int
	local     netip.AddrPort
	way       simPacketWay
	mischief  int // in a thousand callbacks, so many do something else
	holdFor   time.Duration
	accepted  int                     // datagrams that were taken
	told      int                     // errors of writes
	toldRead  int                     // and of reads
	toTell    int                     // the most that waited to be told
	received  int                     // datagrams, segments one by one
	leases    map[*bufring.Lease]bool // held
	connected bool
	closing   bool
	writables int
	aborted   bool
	closed    bool
	cause     error
}

type simPacketWay uint8

const (
	simReply simPacketWay = iota
	simWriteTo
	simSendTo
	simHoldPacket
	simSegments
	simBurst
	simDrop
	simPacketWays
)

var errSimSocket = errors.New("the world's handler aborts a socket")

// populatePackets draws it. It has a source of its own, so that a world's streams do
// the same with and without it.
func (w *world) populatePackets() {
	u := &simPackets{w: w, r: rand.New(rand.NewPCG(w.seed, 0x0d_9)), of: map[*Socket]*simSocket{}}
	w.packets = u
	some := func(choices ...int) int { return choices[u.r.IntN(len(choices))] }
	o := w.o
	o.GRO, o.PacketInfo, o.NoSegments = u.r.IntN(3) == 0, u.r.IntN(3) == 0, u.r.IntN(3) == 0
	o.PacketBytes = some(16, 20, 300, 1500, 2048)
	if o.GRO {
		o.PacketBytes = some(300, 65535)
	}
	o.PacketBufs = some(1, 2, 5, 64)
	w.e.SetUDPBuffers(some(2000, 20_000, 200_000), some(2000, 20_000, 200_000))
	route := sim.UDPRoute{Link: sim.Link{Latency: time.Duration(some(1, 20, 500)) * time.Microsecond, Jitter: time.Duration(some(0, 5, 300)) * time.Microsecond}}
	if u.r.IntN(2) == 0 {
		route.Loss, route.Same = some(0, 50, 300), some(0, 50)
		u.loss = true
	}
	for i := range 1 + u.r.IntN(5) {
		p := &simPacketPeer{u: u, n: i, sent: map[uint64][]byte{}, tiny: map[string]bool{}, due: map[string]int{},
			left: some(0, 1, 20, 50), gap: time.Duration(some(0, 1, 50, 2000)) * time.Microsecond}
		p.p = w.e.NewUDPPeer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}), uint16(7000+i)), route, p.receive)
		u.peers = append(u.peers, p)
		w.alive++
		w.e.After(time.Duration(u.r.IntN(3000))*time.Microsecond, p.send)
	}
}

// listen opens the first sockets, as Start does.
func (u *simPackets) listen() bool {
	for range 1 + u.r.IntN(2) {
		host := netip.IPv6Unspecified()
		if u.r.IntN(2) == 0 {
			host = netip.MustParseAddr("10.0.0.1")
		}
		at, err := listenPacketAll([]*loop{u.w.l}, packetAddr{AddrPort: netip.AddrPortFrom(host, 0)}, u.handlers())
		if err != nil {
			u.w.e.Violate("listen for datagrams: %v", err)
			return false
		}
		u.served = append(u.served, at)
	}
	return true
}

// handlers draws which optional parts a socket's handler has.
func (u *simPackets) handlers() *packetHandlers {
	h := &packetHandlers{PacketHandler: u, open: u, close: u, errors: u}
	if u.r.IntN(2) == 0 {
		h.writable = u
	}
	if u.r.IntN(2) == 0 {
		h.shutdown = u
	}
	return h
}

// send sends the peer's next datagram.
func (p *simPacketPeer) send() {
	u, e := p.u, p.u.w.e
	if p.left == 0 || u.w.over {
		p.done()
		return
	}
	p.left--
	to := u.served[u.r.IntN(len(u.served))]
	if len(u.sockets) > 0 && u.r.IntN(3) == 0 {
		to = u.sockets[u.r.IntN(len(u.sockets))].local
	}
	for range 1 + u.r.IntN(3)*u.r.IntN(8) {
		p.p.Send(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), to.Port()), p.datagram())
	}
	e.After(p.gap, p.send)
}

func (p *simPacketPeer) done() {
	if p.u.r.IntN(4) == 0 {
		p.p.Close() // what comes now is answered with an ICMP message
	}
	if !p.u.w.over {
		p.u.w.peerDone()
	}
}

// datagram makes one that can be told from all others, unless it is tiny.
func (p *simPacketPeer) datagram() []byte {
	sizes := []int{0, 1, 7, 8, 64, 64, 64, 300, 301, 1400, 3000}
	n := sizes[p.u.r.IntN(len(sizes))]
	at := p.n<<16 + len(p.sent)*11
	b := append([]byte(nil), patternBytes[at:at+n]...)
	if n < 8 {
		p.tiny[string(b)] = true
		return b
	}
	id := uint64(p.n)<<32 | uint64(len(p.sent))
	binary.LittleEndian.PutUint64(b, id)
	p.sent[id] = b
	return b
}

// knows reports whether the peer has sent a datagram of which data is the whole, or
// the first part.
func (p *simPacketPeer) knows(data []byte, truncated bool) bool {
	if len(data) < 8 {
		if truncated {
			return true // its number is cut off
		}
		return p.tiny[string(data)]
	}
	whole := p.sent[binary.LittleEndian.Uint64(data)]
	if truncated {
		return len(whole) >= len(data) && string(whole[:len(data)]) == string(data)
	}
	return string(whole) == string(data)
}

// receive gets what our sockets sent.
func (p *simPacketPeer) receive(from netip.AddrPort, data []byte) {
	p.got++
	if p.due[string(data)] == 0 {
		p.u.w.e.Violate("UDP peer %d gets %d bytes from %v that were not written to it, or not as often", p.n, len(data), from)
		return
	}
	p.due[string(data)]--
}

func (u *simPackets) peer(addr netip.AddrPort) *simPacketPeer {
	for _, p := range u.peers {
		if p.p.Addr == addr {
			return p
		}
	}
	return nil
}

// enter checks that a callback may come now.
func (u *simPackets) enter(s *Socket, callback string) *simSocket {
	k := u.of[s]
	e := u.w.e
	if u.running || u.w.running != nil {
		e.Violate("%s is called within another callback", callback)
	}
	u.running = true
	if callback == "OnSocketOpen" {
		if k != nil {
			e.Violate("OnSocketOpen is called twice")
		}
		k = &simSocket{u: u, s: s, n: len(u.sockets), local: s.LocalAddr(), way: simPacketWay(u.r.IntN(int(simPacketWays))), connected: s.RemoteAddr().IsValid()}
		if u.r.IntN(3) == 0 {
			k.mischief = []int{5, 50, 300}[u.r.IntN(3)]
		}
		k.holdFor = time.Duration([]int{0, 10, 500, 5000}[u.r.IntN(4)]) * time.Microsecond
		u.of[s] = k
		u.sockets = append(u.sockets, k)
	}
	switch {
	case k == nil:
		e.Violate("%s is called before OnSocketOpen", callback)
		k = &simSocket{u: u, s: s}
		u.of[s] = k
	case k.closed:
		e.Violate("%s of socket %d is called after OnSocketClose", callback, k.n)
	case k.closing && callback != "OnSocketClose" && callback != "OnSocketError":
		e.Violate("%s of socket %d is called after Close", callback, k.n)
	}
	if e.Tracing() {
		e.Note("%s of socket %d", callback, k.n)
	}
	return k
}

func (u *simPackets) leave() { u.running = false }

func (u *simPackets) OnSocketOpen(s *Socket) {
	k := u.enter(s, "OnSocketOpen")
	defer u.leave()
	k.someMischief()
}

func (u *simPackets) OnPacket(s *Socket, p *Packet) {
	k := u.enter(s, "OnPacket")
	defer u.leave()
	from := u.peer(p.From)
	if from == nil {
		u.w.e.Violate("a datagram from %v, which is no peer", p.From)
		return
	}
	if k.connected && p.From != s.RemoteAddr() && !u.loss {
		u.w.e.Note("a datagram from before the socket was connected")
	}
	if u.w.o.PacketInfo && (p.To != netip.MustParseAddr("10.0.0.1") || p.Interface != 1) {
		u.w.e.Violate("a datagram to %v by interface %d", p.To, p.Interface)
	}
	if len(p.Data) > u.w.o.PacketBytes {
		u.w.e.Violate("%d bytes, larger than PacketBytes (%d)", len(p.Data), u.w.o.PacketBytes)
	}
	if p.Segment > 0 && !u.w.o.GRO {
		u.w.e.Violate("segments of %d without GRO", p.Segment)
	}
	last := 0
	for segment := range p.Segments() {
		last += len(segment)
		k.received++
		if !from.knows(segment, p.Truncated && last == len(p.Data)) {
			u.w.e.Violate("socket %d: %d bytes from peer %d that it has not sent (segments of %d)", k.n, len(segment), from.n, p.Segment)
		}
	}
	if last != len(p.Data) {
		u.w.e.Violate("%d bytes in segments, of %d", last, len(p.Data))
	}
	k.answer(p, from)
	k.someMischief()
}

// answer does what the socket does with datagrams.
func (k *simSocket) answer(p *Packet, from *simPacketPeer) {
	data := append([]byte(nil), p.Data...)
	s := k.s
	reachable := !k.connected || s.RemoteAddr() == p.From
	switch k.way {
	case simReply:
		k.wrote(from, data, 0, ignoreCount(p.Reply(p.Data)))
	case simWriteTo:
		if k.connected && reachable && k.u.r.IntN(2) == 0 {
			k.wrote(from, data, 0, ignoreCount(s.Write(data)))
			return
		}
		k.wrote(from, data, 0, ignoreCount(s.WriteTo(data, p.From)))
	case simSendTo, simHoldPacket:
		lease, err := p.Detach()
		if err != nil {
			k.u.w.e.Violate("detach: %v", err)
			return
		}
		if _, err := p.Detach(); !errors.Is(err, ErrNoData) {
			k.u.w.e.Violate("a second detach: %v", err)
		}
		if k.way == simSendTo {
			k.wrote(from, data, 0, s.SendTo(lease, p.From))
			return
		}
		k.hold(lease, from, p.From, data)
	case simSegments:
		n := 1 + k.u.r.IntN(3000)
		size := 1 + k.u.r.IntN(n)
		if n > segmentsMax*size {
			size = (n + segmentsMax - 1) / segmentsMax
		}
		b := patternBytes[n : 2*n]
		k.wrote(from, b, size, s.WriteSegments(b, size, p.From))
	case simBurst:
		for i := range k.u.r.IntN([]int{20, 20, 150}[k.u.r.IntN(3)]) {
			n := []int{0, 64, 64, 64, 100}[k.u.r.IntN(5)]
			b := patternBytes[i : i+n]
			k.wrote(from, b, 0, ignoreCount(s.WriteTo(b, p.From)))
		}
	}
}

func ignoreCount(_ int, err error) error { return err }

// hold sends a lease later, whatever the loop is doing then.
func (k *simSocket) hold(lease bufring.Lease, from *simPacketPeer, to netip.AddrPort, data []byte) {
	if k.leases == nil {
		k.leases = map[*bufring.Lease]bool{}
	}
	held := &lease
	k.leases[held] = true
	w := k.u.w
	w.e.After(k.holdFor, func() {
		if w.over || !k.leases[held] {
			return
		}
		if err := w.l.mail.post(func() {
			if !k.leases[held] {
				return
			}
			delete(k.leases, held)
			if string(lease.Bytes()) != string(data) {
				w.e.Violate("the bytes of a lease have changed")
			}
			k.wrote(from, data, 0, k.s.SendTo(lease, to))
		}); err != nil {
			w.e.Violate("post: %v", err)
		}
	})
}

// wrote notes the outcome of a write.
func (k *simSocket) wrote(to *simPacketPeer, data []byte, size int, err error) {
	closed := k.closing || k.closed || k.s.state&(socketClosing|socketDead|socketFinished) != 0
	switch {
	case err == nil && closed:
		k.u.w.e.Violate("socket %d takes a datagram although it is closed", k.n)
	case err == nil:
		for size > 0 && len(data) > size {
			to.due[string(data[:size])]++
			k.accepted++
			data = data[size:]
		}
		to.due[string(data)]++
		k.accepted++
	case errors.Is(err, ErrClosed) && closed, errors.Is(err, ErrBacklog):
	default:
		k.u.w.e.Violate("write to peer %d: %v", to.n, err)
	}
}

// someMischief does, sometimes, what handlers may do and seldom do.
func (k *simSocket) someMischief() {
	u := k.u
	if u.r.IntN(1000) >= k.mischief {
		return
	}
	peer := u.peers[u.r.IntN(len(u.peers))]
	act := u.r.IntN(7)
	u.w.e.Note("socket %d: mischief %d", k.n, act)
	switch act {
	case 0:
		k.closing = true
		k.s.Close()
	case 1:
		k.closing, k.aborted = true, true
		k.s.Abort(errSimSocket)
	case 2, 3:
		if err := k.s.Connect(peer.p.Addr); err != nil && !k.closing {
			u.w.e.Violate("connect: %v", err)
		}
		k.connected = true
	case 4:
		if len(u.sockets) < 6 {
			if _, err := k.s.ListenPacket(netip.MustParseAddrPort("10.0.0.1:0"), nil); err != nil && !errors.Is(err, ErrServerClosed) {
				u.w.e.Violate("listen: %v", err)
			}
		}
	case 5:
		if len(u.sockets) < 6 {
			if _, err := k.s.DialPacket(peer.p.Addr, nil); err != nil && !errors.Is(err, ErrServerClosed) {
				u.w.e.Violate("dial: %v", err)
			}
		}
	case 6:
		u.w.panics++
		if k.s.state&socketOpened == 0 {
			k.closing, k.aborted = true, true // a panic in OnSocketOpen closes it
		}
		panic("mischief of a socket's handler")
	}
}

func (u *simPackets) OnSocketError(s *Socket, err error) {
	k := u.enter(s, "OnSocketError")
	defer u.leave()
	var op *OpError
	if !errors.As(err, &op) || op.Op != "write" && op.Op != "read" {
		u.w.e.Violate("OnSocketError is told %v", err)
		return
	}
	k.toTell = max(k.toTell, 1+len(s.errs))
	if op.Op == "write" {
		k.told++
	} else {
		k.toldRead++
	}
}

func (u *simPackets) OnSocketWritable(s *Socket) {
	k := u.enter(s, "OnSocketWritable")
	defer u.leave()
	if s.out.held() > u.w.o.LowWater {
		u.w.e.Violate("OnSocketWritable of socket %d with %d bytes that wait", k.n, s.out.held())
	}
	if k.writables++; k.writables > 30 {
		return // else each makes the next
	}
	to := u.peers[0]
	b := patternBytes[:50]
	k.wrote(to, b, 0, ignoreCount(s.WriteTo(b, to.p.Addr)))
}

func (u *simPackets) OnSocketShutdown(s *Socket) {
	k := u.enter(s, "OnSocketShutdown")
	defer u.leave()
	k.closing = true
	s.Close()
}

func (u *simPackets) OnSocketClose(s *Socket, err error) {
	k := u.enter(s, "OnSocketClose")
	defer u.leave()
	k.closed, k.cause = true, err
	for lease := range k.leases {
		lease.Release()
	}
	k.leases = nil
	if k.mischief > 100 {
		u.w.panics++
		panic("mischief at the end")
	}
}

// settled holds the sockets to what must be so long after the last peer has gone.
func (u *simPackets) settled() {
	for _, k := range u.sockets {
		if k.closed {
			continue
		}
		if n := u.w.e.Ledger(k.local).Waiting; n > 0 {
			u.w.e.Violate("socket %d has %d datagrams waiting and does not receive them: state %b", k.n, n, k.s.state)
		}
		if k.s.out.count > 0 {
			u.w.e.Violate("socket %d has %d datagrams that do not go out: state %b", k.n, k.s.out.count, k.s.state)
		}
	}
}

// judge holds the end to what must hold after every end.
func (u *simPackets) judge() {
	e, st := u.w.e, u.w.l.final
	if st.Sockets != 0 || st.SocketsOpened != st.SocketsClosed || st.SocketsOpened != uint64(len(u.sockets)) {
		e.Violate("after the end: %d sockets are open, %d were opened, %d closed, %d known", st.Sockets, st.SocketsOpened, st.SocketsClosed, len(u.sockets))
	}
	u.untold = int(st.PacketErrors)
	for _, k := range u.sockets {
		u.untold -= k.told + k.toldRead
	}
	mayMiss := u.untold
	for _, k := range u.sockets {
		if !k.closed {
			e.Violate("after the end: OnSocketClose of socket %d was not called", k.n)
		}
		ledger := e.Ledger(k.local)
		if k.received > ledger.Received {
			e.Violate("socket %d was handed %d datagrams of %v", k.n, k.received, ledger)
		}
		if k.aborted || u.w.cutting || u.w.o.CloseTimeout > 0 && u.w.o.CloseTimeout < time.Second && k.cause != nil {
			continue // what waited may be dropped
		}
		missing := k.accepted - ledger.Sent - k.told
		if missing > 0 && k.toTell == packetErrorsMax {
			// Of more errors at a time the rest is only counted, for all sockets together.
			known := min(missing, mayMiss)
			missing, mayMiss = missing-known, mayMiss-known
		}
		if missing > 0 || missing < 0 && !k.connected {
			e.Violate("socket %d took %d datagrams to send: %d went out, %d errors were told (%v)", k.n, k.accepted, ledger.Sent, k.told, ledger)
		}
	}
}

func (k *simSocket) String() string { return fmt.Sprintf("socket %d", k.n) }
