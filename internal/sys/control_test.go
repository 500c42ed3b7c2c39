//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseControlReadsWhatTheKernelWrites(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fe80::1")
	put := func(parts ...func(b []byte) int) []byte {
		b, n := make([]byte, 256), 0
		for _, part := range parts {
			n += part(b[n:])
		}
		return b[:n]
	}
	info := func(a netip.Addr, by uint32) func(b []byte) int {
		return func(b []byte) int { return PutPacketInfo(b, a, by) }
	}
	size := func(n int) func(b []byte) int { return func(b []byte) int { return PutSegmentSize(b, n) } }
	tests := []struct {
		name string
		b    []byte
		want Control
	}{
		{name: "nothing"},
		{name: "half a header", b: make([]byte, 15)},
		{name: "IPv4", b: put(info(v4, 7)), want: Control{To: v4, Local: v4, Interface: 7}},
		{name: "IPv6", b: put(info(v6, 7)), want: Control{To: v6, Local: v6, Interface: 7}},
		{name: "IPv4 in IPv6", b: put(info(netip.AddrFrom16(v4.As16()), 1)), want: Control{To: v4, Local: v4, Interface: 1}},
		{name: "a group", b: put(info(netip.MustParseAddr("ff02::1"), 2)), want: Control{To: netip.MustParseAddr("ff02::1"), Interface: 2}},
		{name: "no address of ours", b: put(info(netip.MustParseAddr("0.0.0.0"), 2), func(b []byte) int { return 16 }), want: Control{To: netip.MustParseAddr("0.0.0.0"), Interface: 2}},
		{name: "segments", b: put(size(1200)), want: Control{Segment: 1200}},
		{name: "both", b: put(info(v6, 3), size(1200)), want: Control{To: v6, Local: v6, Interface: 3, Segment: 1200}},
		{name: "the other order", b: put(size(1200), info(v4, 3)), want: Control{To: v4, Local: v4, Interface: 3, Segment: 1200}},
		{name: "the second one cut", b: put(info(v4, 3), size(1200))[:50], want: Control{To: v4, Local: v4, Interface: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ParseControl(tt.b); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// x/sys/unix is the oracle: what it finds in control data is what we find.
func FuzzParseControl(f *testing.F) {
	b := make([]byte, ControlBytes)
	n := PutPacketInfo(b, netip.MustParseAddr("fe80::1"), 5)
	n += PutSegmentSize(b[n:], 1400)
	f.Add(b[:n])
	n = PutPacketInfo(b, netip.MustParseAddr("10.0.0.1"), 5)
	f.Add(b[:n])
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		c := ParseControl(b)
		if !bytes.Equal(b, before) {
			t.Fatal("it has written")
		}
		if c.Local.IsValid() && (c.Local.IsMulticast() || c.Local.IsUnspecified()) {
			t.Errorf("%v is to be answered from", c.Local)
		}
		all, err := unix.ParseSocketControlMessage(b)
		if err != nil {
			return // it may still begin well
		}
		var to netip.Addr
		segment := 0
		for _, m := range all {
			switch {
			case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
				to = netip.AddrFrom4([4]byte(m.Data[8:12]))
			case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
				to = netip.AddrFrom16([16]byte(m.Data[:16])).Unmap()
			case m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4:
				segment = int(int32(uint32(m.Data[0]) | uint32(m.Data[1])<<8 | uint32(m.Data[2])<<16 | uint32(m.Data[3])<<24))
			}
		}
		if c.To != to || c.Segment != segment {
			t.Errorf("%+v, the oracle says to %v, segments of %d", c, to, segment)
		}
	})
}
