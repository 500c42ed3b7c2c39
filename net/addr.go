//go:build linux

package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"strings"
	"unique"
)

// Addr is the address of one end of a stream: of TCP, or of a Unix socket. It is a
// small value that can be compared and used as a key, and implements std's
// net.Addr. The zero Addr is no address.
type Addr struct {
	ip   netip.AddrPort
	unix unique.Handle[string] // zero: not a Unix socket's
}

// TCPAddr is the address of a TCP socket.
func TCPAddr(ap netip.AddrPort) Addr { return Addr{ip: ap} }

// UDPAddr is the address of a UDP socket, as errors name it.
func UDPAddr(ap netip.AddrPort) Addr { return Addr{ip: ap, unix: udpMark} }

// udpMark stands in place of a name, and is none: names have no zero bytes.
var udpMark = unique.Make("\x00udp")

// UnixAddr is the address of a Unix socket: a path, an abstract name that begins
// with '@', or "" for a socket without a name, as most that dial have none.
func UnixAddr(path string) Addr { return Addr{unix: unique.Make(path)} }

// ParseAddr reads what String gives: "ip:port", "[ip]:port", "unix:/path" or
// "unix:@name". It looks nothing up. Safe for concurrent use.
func ParseAddr(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		if err := checkUnixPath(path); err != nil {
			return Addr{}, fmt.Errorf("ringnet: address %q: %w", s, err)
		}
		return UnixAddr(path), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return Addr{}, fmt.Errorf("ringnet: address %q: %w: write ip:port, such as \"127.0.0.1:9000\" or \"[::1]:9000\", or unix:path", s, err)
	}
	return TCPAddr(ap), nil
}

// IsValid reports that a is an address, and not the zero Addr.
func (a Addr) IsValid() bool { return a.ip.IsValid() || a.isUnix() }

func (a Addr) isUnix() bool { return a.unix != unique.Handle[string]{} && a.unix != udpMark }

// AddrPort is the address and port of a TCP or UDP socket; the zero AddrPort for others.
func (a Addr) AddrPort() netip.AddrPort { return a.ip }

// Path is the path or the abstract name, with '@' in front, of a Unix socket; ""
// if it has none, and for TCP.
func (a Addr) Path() string {
	if !a.isUnix() {
		return ""
	}
	return a.unix.Value()
}

// Network is "tcp", "unix" or "udp"; "" for the zero Addr.
func (a Addr) Network() string {
	switch {
	case a.isUnix():
		return "unix"
	case a.ip.IsValid() && a.unix == udpMark:
		return "udp"
	case a.ip.IsValid():
		return "tcp"
	}
	return ""
}

// String is what Server.Start and Dial take: "127.0.0.1:9000", "[::1]:9000",
// "unix:/run/app.sock", "unix:@name"; "unix" for a Unix socket without a name.
func (a Addr) String() string {
	switch {
	case a.isUnix() && a.Path() == "":
		return "unix"
	case a.isUnix():
		return unixPrefix + a.Path()
	case a.ip.IsValid():
		return a.ip.String()
	}
	return "no address"
}

var _ stdnet.Addr = Addr{}

// unixPrefix stands in front of the path of a Unix socket.
const unixPrefix = "unix:"

// unixPathMax is the longest path or abstract name, in bytes: the kernel's address
// has room for 108, one of them the zero at the end of a path or in front of an
// abstract name.
const unixPathMax = 107

func checkUnixPath(path string) error {
	name, abstract := strings.CutPrefix(path, "@")
	switch {
	case name == "" && abstract:
		return errors.New("the abstract name is empty: write one behind the '@'")
	case path == "":
		return errors.New("the path is empty: write one such as \"unix:/run/app.sock\", or an abstract name such as \"unix:@app\"")
	case len(name) > unixPathMax:
		return fmt.Errorf("%d bytes are too long for the name of a Unix socket: at most %d", len(name), unixPathMax)
	case !abstract && strings.Contains(path, "\x00"):
		return errors.New("the path has a zero byte in it")
	}
	return nil
}
