//go:build linux

package net

import (
	"net/netip"
	"time"

	"example.com/ringnet/ring"
)

// zoneCache knows the names of interfaces, which link-local IPv6 addresses carry.
// The system is not asked for each datagram: that is a conversation over netlink.
type zoneCache struct {
	names map[uint32]string
	ids   map[string]uint32
	until int64
}

// zonesFor is how long a name is believed; std's net takes as long.
const zonesFor = time.Minute

func (z *zoneCache) fresh(now int64) {
	if z.names == nil || now >= z.until || len(z.ids) > 1000 {
		z.names, z.ids = map[uint32]string{}, map[string]uint32{}
		z.until = now + int64(zonesFor)
	}
}

// id is the number of the interface that a zone names.
func (z *zoneCache) id(l *loop, zone string) (uint32, error) {
	z.fresh(l.clock())
	id, ok := z.ids[zone]
	if !ok {
		var err error
		if id, err = ring.ZoneID(zone); err != nil {
			return 0, err
		}
		z.ids[zone] = id
	}
	return id, nil
}

// name is the other way round.
func (z *zoneCache) name(l *loop, id uint32) string {
	z.fresh(l.clock())
	name, ok := z.names[id]
	if !ok {
		name = ring.ZoneName(id)
		z.names[id] = name
	}
	return name
}

// within adds the zone to an address.
func (z *zoneCache) within(l *loop, addr netip.AddrPort, id uint32) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().WithZone(z.name(l, id)), addr.Port())
}
