//go:build linux

package net

import (
	"net/netip"
	"strings"
	"testing"
)

var addrSink Addr

func TestAddr(t *testing.T) {
	ap := netip.MustParseAddrPort("[::1]:80")
	cases := []struct {
		addr                  Addr
		network, text, path   string
		port                  netip.AddrPort
		invalid, notForParser bool
	}{
		{addr: Addr{}, text: "no address", invalid: true, notForParser: true},
		{addr: TCPAddr(netip.AddrPort{}), text: "no address", invalid: true, notForParser: true},
		{addr: TCPAddr(ap), network: "tcp", text: "[::1]:80", port: ap},
		{addr: UnixAddr("/run/x.sock"), network: "unix", text: "unix:/run/x.sock", path: "/run/x.sock"},
		{addr: UnixAddr("@name"), network: "unix", text: "unix:@name", path: "@name"},
		{addr: UnixAddr(""), network: "unix", text: "unix", notForParser: true},
	}
	for _, c := range cases {
		if c.addr.Network() != c.network || c.addr.String() != c.text || c.addr.Path() != c.path || c.addr.AddrPort() != c.port || c.addr.IsValid() == c.invalid {
			t.Errorf("%#v: %q %q %q %v %v", c.addr, c.addr.Network(), c.addr, c.addr.Path(), c.addr.AddrPort(), c.addr.IsValid())
		}
		if c.notForParser {
			continue
		}
		if got, err := ParseAddr(c.text); err != nil || got != c.addr {
			t.Errorf("ParseAddr(%q) is %v, %v", c.text, got, err)
		}
	}
	if UnixAddr("/a") == UnixAddr("/b") || UnixAddr(strings.Clone("/a")) != UnixAddr("/a") {
		t.Error("addresses are not compared by what they say")
	}
	if n := testing.AllocsPerRun(100, func() { addrSink = UnixAddr("") }); n > 0 {
		t.Errorf("the address of a socket without a name allocates %v times", n)
	}
}

func TestParseAddrRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "write ip:port",
		"127.0.0.1":                         "write ip:port",
		"localhost:80":                      "write ip:port",
		"127.0.0.1:65536":                   "write ip:port",
		"unix:":                             "the path is empty",
		"unix:@":                            "abstract name is empty",
		"unix:/a\x00b":                      "zero byte",
		"unix:/" + strings.Repeat("a", 107): "too long",
		"unix:@" + strings.Repeat("a", 108): "too long",
	} {
		if a, err := ParseAddr(text); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "ringnet: ") {
			t.Errorf("ParseAddr(%q) is %v, %v: want an error with %q", text, a, err, want)
		}
	}
	for _, text := range []string{"unix:/" + strings.Repeat("a", 106), "unix:@" + strings.Repeat("a", 107)} {
		if _, err := ParseAddr(text); err != nil {
			t.Errorf("ParseAddr(%q): %v", text, err)
		}
	}
}
