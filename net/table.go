//go:build linux

package net

// kind says what an operation was, in its user data.
type kind uint8

const (
	kindAccept kind = 1 + iota
	kindRecv        // receive into the group
	kindPoll        // readiness of a connection that receives directly
	kindSend
	kindRoom // room in the socket for what waits to be sent
	kindCancel
	kindWake
	kindCancelAccept
	kindCancelRoom
	kindRead     // of a file, into a large buffer
	kindZeroCopy // its slot is the send's, in the loop's list of them
	kindConnect  // of a Dialing
	kindCancelConnect
	kindPacket // receive of datagrams
	kindPacketRoom
	kindCancelPacket
	kindCancelPacketRoom
)

// An operation's user data names it without a pointer:
//
//	63      56 55                    32 31                             0
//	┌─────────┬────────────────────────┬────────────────────────────────┐
//	│  kind   │       generation       │              slot              │
//	└─────────┴────────────────────────┴────────────────────────────────┘
//
// A slot is used again only after the last completion of its connection, so the
// generation is a second line of defence: it turns a mistake, ours or the
// kernel's, into a dropped completion instead of another client's data.
func userData(k kind, gen, slot uint32) uint64 {
	return uint64(k)<<56 | uint64(gen&generationMask)<<32 | uint64(slot)
}

const generationMask = 1<<24 - 1

func splitUserData(u uint64) (k kind, gen, slot uint32) {
	return kind(u >> 56), uint32(u>>32) & generationMask, uint32(u)
}

// table gives each connection of a loop a slot.
type table struct {
	slots []slot
	free  []uint32
	used  int
}

type slot struct {
	conn *Conn
	gen  uint32
}

// insert gives c a slot and a generation.
func (t *table) insert(c *Conn) {
	if n := len(t.free); n > 0 {
		c.slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		c.slot = uint32(len(t.slots))
		t.slots = append(t.slots, slot{})
	}
	s := &t.slots[c.slot]
	s.gen = (s.gen + 1) & generationMask
	s.conn, c.gen = c, s.gen
	t.used++
}

// remove frees c's slot. No operation of c may be left.
func (t *table) remove(c *Conn) {
	t.slots[c.slot].conn = nil
	t.free = append(t.free, c.slot)
	t.used--
}

// find returns the connection that an operation belongs to, or nil when that has
// gone.
func (t *table) find(gen, i uint32) *Conn {
	if int(i) >= len(t.slots) {
		return nil
	}
	if s := &t.slots[i]; s.gen == gen {
		return s.conn
	}
	return nil
}

// each calls f for every connection; f may remove the one it is called with.
func (t *table) each(f func(*Conn)) {
	for i := range t.slots {
		if c := t.slots[i].conn; c != nil {
			f(c)
		}
	}
}
