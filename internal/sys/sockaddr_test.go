//go:build linux && (amd64 || arm64)

package sys

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSockaddrGoesIntoTheKernelsFormAndBack(t *testing.T) {
	tests := []struct {
		addr string
		back string // if it is not addr
		len  int
	}{
		{addr: "127.0.0.1:80", len: 16},
		{addr: "0.0.0.0:0", len: 16},
		{addr: "255.255.255.255:65535", len: 16},
		{addr: "1.2.3.4:258", len: 16},
		{addr: "[::]:0", len: 28},
		{addr: "[::1]:443", len: 28},
		{addr: "[2001:db8::1]:65535", len: 28},
		{addr: "[::ffff:10.0.0.1]:7", back: "10.0.0.1:7", len: 28},
		{addr: "[fe80::1%lo]:9", len: 28},
		{addr: "[fe80::1%1]:9", back: "[fe80::1%lo]:9", len: 28},
		{addr: "[fe80::1%4294967295]:9", len: 28},
	}
	for _, tt := range tests {
		addr := netip.MustParseAddrPort(tt.addr)
		mem := make([]byte, SockaddrBytes)
		for i := range mem {
			mem[i] = 0xff // whatever was there before
		}
		b, err := PutSockaddr(mem, addr)
		if err != nil || len(b) != tt.len {
			t.Errorf("%s: %d bytes, %v; want %d", tt.addr, len(b), err, tt.len)
			continue
		}
		want := tt.addr
		if tt.back != "" {
			want = tt.back
		}
		if got, ok := ParseSockaddr(b); !ok || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s came back as %v (%v)", tt.addr, got, ok)
		}
	}
}

func TestSockaddrHasTheKernelsBytes(t *testing.T) {
	tests := []struct {
		addr string
		want []byte
	}{
		{"1.2.3.4:258", []byte{2, 0, 1, 2, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"[102:304:506:708:90a:b0c:d0e:f10%5]:258", []byte{10, 0, 1, 2, 0, 0, 0, 0,
			1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 5, 0, 0, 0}},
	}
	for _, tt := range tests {
		got, err := PutSockaddr(make([]byte, SockaddrBytes), netip.MustParseAddrPort(tt.addr))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s is %v (%v), want %v", tt.addr, got, err, tt.want)
		}
	}
}

func TestSockaddrOfRandomAddressesComesBack(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	mem := make([]byte, SockaddrBytes)
	for range 10_000 {
		var ip [16]byte
		for i := range ip {
			ip[i] = byte(rnd.Uint32())
		}
		addr := netip.AddrFrom16(ip)
		if rnd.IntN(2) == 0 {
			addr = netip.AddrFrom4([4]byte(ip[:4]))
		}
		want := netip.AddrPortFrom(addr, uint16(rnd.Uint32()))
		b, err := PutSockaddr(mem, want)
		if err != nil {
			t.Fatalf("seed %d: %v: %v", seed, want, err)
		}
		if got, ok := ParseSockaddr(b); !ok || got != want {
			t.Fatalf("seed %d: %v came back as %v (%v)", seed, want, got, ok)
		}
	}
}

func TestSockaddrRefusesWhatIsNoAddress(t *testing.T) {
	tests := []struct {
		name string
		addr netip.AddrPort
	}{
		{"the zero address", netip.AddrPort{}},
		{"a zone that does not exist", netip.MustParseAddrPort("[fe80::1%nosuchzone]:1")},
	}
	for _, tt := range tests {
		if b, err := PutSockaddr(make([]byte, SockaddrBytes), tt.addr); err == nil {
			t.Errorf("%s became %v", tt.name, b)
		}
		if fd, err := ListenTCP(tt.addr, 1, false, false); err == nil {
			t.Errorf("%s is listened on", tt.name)
			Close(fd)
		}
	}
}

func TestParseSockaddrRefusesWhatIsShortOrForeign(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"half a family", []byte{2}},
		{"IPv4 cut off", []byte{unix.AF_INET, 0, 0, 80, 127, 0, 0}},
		{"IPv6 cut off", append([]byte{unix.AF_INET6, 0}, make([]byte, 25)...)},
		{"a Unix address", append([]byte{unix.AF_UNIX, 0}, make([]byte, 30)...)},
		{"no family", make([]byte, 28)},
	}
	for _, tt := range tests {
		if addr, ok := ParseSockaddr(tt.b); ok {
			t.Errorf("%s was read as %v", tt.name, addr)
		}
	}
}

func FuzzParseSockaddr(f *testing.F) {
	for _, addr := range []string{"1.2.3.4:5", "[2001:db8::1]:5", "[fe80::1%1]:5", "[::ffff:1.2.3.4]:5"} {
		b, err := PutSockaddr(make([]byte, SockaddrBytes), netip.MustParseAddrPort(addr))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := ParseSockaddr(b)
		if !ok {
			return
		}
		again, err := PutSockaddr(make([]byte, SockaddrBytes), addr)
		if err != nil {
			t.Fatalf("%v was read from %v but cannot be written: %v", addr, b, err)
		}
		if back, ok := ParseSockaddr(again); !ok || back != addr {
			t.Fatalf("%v, read from %v, came back as %v", addr, b, back)
		}
	})
}

// FuzzPutSockaddr goes the other way: any address that can be written comes back.
func FuzzPutSockaddr(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1}, "", uint16(80))
	f.Add([]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, "lo", uint16(0))
	f.Add([]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, "4294967295", uint16(65535))
	f.Add([]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, "0", uint16(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}, "", uint16(1))
	f.Add([]byte{1, 2, 3}, "", uint16(1))
	f.Fuzz(func(t *testing.T, ip []byte, zone string, port uint16) {
		a, _ := netip.AddrFromSlice(ip)
		addr := netip.AddrPortFrom(a.WithZone(zone), port)
		mem := make([]byte, SockaddrBytes+1)
		mem[SockaddrBytes] = 0xee
		b, err := PutSockaddr(mem[:SockaddrBytes], addr)
		if mem[SockaddrBytes] != 0xee {
			t.Fatalf("%v was written beyond its room", addr)
		}
		if err != nil {
			if a.IsValid() && a.WithZone(zone).Zone() == "" {
				t.Fatalf("%v: %v", addr, err)
			}
			return
		}
		back, ok := ParseSockaddr(b)
		if !ok || back.Port() != port || back.Addr().WithZone("") != a.Unmap() {
			t.Fatalf("%v came back as %v (%v)", addr, back, ok)
		}
		// A zone may come back under its other name, and then stays.
		again, err := PutSockaddr(make([]byte, SockaddrBytes), back)
		if err != nil || !slices.Equal(again, b) && !a.Is4In6() {
			t.Fatalf("%v came back as %v, which is %x and not %x (%v)", addr, back, again, b, err)
		}
	})
}
