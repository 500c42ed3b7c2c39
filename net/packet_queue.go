//go:build linux

package net

import (
	"net/netip"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// datagram is one that waits to be sent, or several that are sent as segments.
type datagram struct {
	lease   bufring.Lease
	name    [ring.SockaddrBytes]byte // where to, in the kernel's form
	nameLen uint8                    // 0: to the connected peer
	source  uint8                    // of from: 0 none, 4 or 16 bytes
	segment uint16                   // size of the segments; 0: one datagram
	sent    int32                    // bytes of segments that went out one by one
	split   bool                     // the segments go out one by one
	again   bool                     // it was refused once, maybe not for its own sake
	by      uint32                   // interface to leave by
	from    [16]byte
}

// packetQueue is what a socket has to send, in order: a ring that grows.
type packetQueue struct {
	ring  []datagram
	head  int
	count int
	bytes int // of payload that waits
}

// packetCost is what a waiting datagram counts beside its bytes: what it takes
// here, so that a bound on bytes bounds empty ones, too.
const packetCost = 128

// held is what the bounds compare.
func (q *packetQueue) held() int { return q.bytes + q.count*packetCost }

func (q *packetQueue) at(i int) *datagram { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

// push adds an empty datagram behind the last one.
func (q *packetQueue) push() *datagram {
	if q.count == len(q.ring) {
		larger := make([]datagram, max(16, 2*len(q.ring)))
		for i := range q.count {
			larger[i] = *q.at(i)
		}
		q.ring, q.head = larger, 0
	}
	d := q.at(q.count)
	q.count++
	return d
}

// pop takes the first one off; its lease is the caller's.
func (q *packetQueue) pop() bufring.Lease {
	d := q.at(0)
	lease := d.lease
	q.bytes -= lease.Len() - int(d.sent)
	d.lease = bufring.Lease{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	if q.count--; q.count == 0 && len(q.ring) > 1024 {
		q.ring, q.head = nil, 0
	}
	return lease
}

// to is where a datagram goes, as it was written.
func (d *datagram) to(connected netip.AddrPort) netip.AddrPort {
	if d.nameLen == 0 {
		return connected
	}
	addr, _ := ring.ParseSockaddr(d.name[:d.nameLen])
	return addr
}

// address makes those that were written to the connected peer go there also when
// the socket has another one.
func (q *packetQueue) address(peer netip.AddrPort) {
	for i := range q.count {
		d := q.at(i)
		if d.nameLen == 0 {
			name, _ := ring.PutSockaddr(d.name[:], peer)
			d.nameLen = uint8(len(name))
		}
	}
}
