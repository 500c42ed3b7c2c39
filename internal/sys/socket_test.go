//go:build linux && (amd64 || arm64)

package sys

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
)

func listen(t *testing.T, addr string, shared, v6only bool) (int, netip.AddrPort) {
	t.Helper()
	fd, err := ListenTCP(netip.MustParseAddrPort(addr), 16, shared, v6only)
	if addr[0] == '[' && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		t.Skip("IPv6 is switched off here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(fd) })
	local, err := LocalAddr(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, local
}

// dial connects a blocking socket and returns it with the accepted one.
func dial(t *testing.T, listener int, to netip.AddrPort) (client, server int) {
	t.Helper()
	sa, err := sockaddr(to)
	if err != nil {
		t.Fatal(err)
	}
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	client, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(client) })
	if err := unix.Connect(client, sa); err != nil {
		t.Fatal(err)
	}
	// The client may be connected a moment before the listener knows of it.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		server, _, err = unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EAGAIN || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { Close(server) })
	return client, server
}

func TestListenTCPAcceptsOnTheAddressItNames(t *testing.T) {
	tests := []struct {
		name, listen, dial string
	}{
		{name: "IPv4", listen: "127.0.0.1:0", dial: "127.0.0.1"},
		{name: "IPv6", listen: "[::1]:0", dial: "::1"},
		{name: "IPv6 unspecified, by IPv6", listen: "[::]:0", dial: "::1"},
		{name: "IPv6 unspecified, by IPv4", listen: "[::]:0", dial: "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fd, local := listen(t, tt.listen, false, false)
			if local.Port() == 0 {
				t.Fatalf("listening on %v", local)
			}
			to := netip.AddrPortFrom(netip.MustParseAddr(tt.dial), local.Port())
			client, server := dial(t, fd, to)
			mine, err := LocalAddr(client)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := PeerAddr(server)
			if err != nil || peer != mine {
				t.Errorf("the server's peer is %v (%v), the client is %v", peer, err, mine)
			}
			if got, err := LocalAddr(server); err != nil || got != to {
				t.Errorf("the server's own address is %v (%v), dialled was %v", got, err, to)
			}
		})
	}
}

func TestListenTCPOnIPv6OnlyRefusesIPv4(t *testing.T) {
	_, local := listen(t, "[::]:0", false, true)
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(client)
	err = unix.Connect(client, &unix.SockaddrInet4{Port: int(local.Port()), Addr: [4]byte{127, 0, 0, 1}})
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect by IPv4: %v, want ECONNREFUSED", err)
	}
}

func TestListenTCPSharesAPortOnlyWhenAsked(t *testing.T) {
	_, local := listen(t, "127.0.0.1:0", true, false)
	second, err := ListenTCP(local, 1, true, false)
	if err != nil {
		t.Fatalf("a second shared listener: %v", err)
	}
	Close(second)
	if fd, err := ListenTCP(local, 1, false, false); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a listener of its own on a taken port: %v, want EADDRINUSE", err)
		Close(fd)
	}
}

func TestListenTCPOnAForeignAddressIsAnError(t *testing.T) {
	if fd, err := ListenTCP(netip.MustParseAddrPort("192.0.2.1:0"), 1, false, false); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("listen on 192.0.2.1: %v, want EADDRNOTAVAIL", err)
		if err == nil {
			Close(fd)
		}
	}
}

// The named result was already -1 when the deferred close looked at it.
func TestListenTCPThatFailsLeavesNoDescriptorOpen(t *testing.T) {
	_, taken := listen(t, "127.0.0.1:0", false, false)
	before := leak.Count(t)
	for _, addr := range []netip.AddrPort{taken, netip.MustParseAddrPort("192.0.2.1:0"), {}} {
		if _, err := ListenTCP(addr, 1, false, false); err == nil {
			t.Fatalf("listening on %v", addr)
		}
		if after := leak.Count(t); after != before {
			t.Errorf("after a failed listen on %v %d descriptors are open, before it %d", addr, after, before)
			before = after
		}
	}
}

func TestRecvAndSendDoNotBlock(t *testing.T) {
	pair := socketPair(t)
	b := make([]byte, 1<<16)
	if n, errno := Recv(pair[0], b); errno != unix.EAGAIN {
		t.Errorf("receive of nothing: %d, %v; want EAGAIN", n, errno)
	}
	sent := 0
	for {
		n, errno := Send(pair[0], b, 0)
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 || n <= 0 {
			t.Fatalf("send: %d, %v", n, errno)
		}
		sent += n
	}
	if errno := Shutdown(pair[0], unix.SHUT_WR); errno != 0 {
		t.Fatal(errno)
	}
	received := 0
	for {
		n, errno := Recv(pair[1], b)
		if errno != 0 {
			t.Fatal(errno)
		}
		if n == 0 {
			break
		}
		received += n
	}
	if sent == 0 || received != sent {
		t.Errorf("sent %d bytes, received %d", sent, received)
	}
}

func TestSendToAPeerThatIsGoneRaisesNoSignal(t *testing.T) {
	pair := socketPair(t)
	if errno := Shutdown(pair[1], unix.SHUT_RDWR); errno != 0 {
		t.Fatal(errno)
	}
	if n, errno := Send(pair[0], []byte{1}, 0); errno != unix.EPIPE {
		t.Errorf("send: %d, %v; want EPIPE", n, errno)
	}
}

func TestCallsOnNoDescriptorSayEBADF(t *testing.T) {
	recv := func() syscall.Errno { _, errno := Recv(-1, nil); return errno }
	send := func() syscall.Errno { _, errno := Send(-1, nil, 0); return errno }
	for name, errno := range map[string]syscall.Errno{
		"Recv": recv(), "Send": send(), "Shutdown": Shutdown(-1, unix.SHUT_RD), "Close": Close(-1),
	} {
		if errno != unix.EBADF {
			t.Errorf("%s: %v, want EBADF", name, errno)
		}
	}
	if _, err := LocalAddr(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("LocalAddr: %v, want EBADF", err)
	}
	if _, err := PeerAddr(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("PeerAddr: %v, want EBADF", err)
	}
}

func TestPeerAddrOfAnUnconnectedSocketIsAnError(t *testing.T) {
	fd, _ := listen(t, "127.0.0.1:0", false, false)
	if addr, err := PeerAddr(fd); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("peer %v, %v; want ENOTCONN", addr, err)
	}
}

func TestSocketOptionsAreSetAndRead(t *testing.T) {
	fd, _ := listen(t, "127.0.0.1:0", false, false)
	for _, want := range []int{1, 0} {
		if err := SetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, want); err != nil {
			t.Fatal(err)
		}
		if got, err := GetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || got != want {
			t.Errorf("TCP_NODELAY is %d (%v), want %d", got, err, want)
		}
	}
	if err := SetInt(fd, 9999, 9999, 1); err == nil {
		t.Error("an option that does not exist was set")
	}
}

func TestSetLingerOfZeroResetsAndNegativeTurnsItOff(t *testing.T) {
	fd, local := listen(t, "127.0.0.1:0", false, false)
	for _, tt := range []struct {
		name    string
		seconds int
		want    syscall.Errno // what the peer's receive ends with
	}{
		{name: "zero", seconds: 0, want: unix.ECONNRESET},
		{name: "off", seconds: -1, want: 0},
	} {
		client, server := dial(t, fd, local)
		if err := SetLinger(server, 1); err != nil {
			t.Fatal(err)
		}
		if err := SetLinger(server, tt.seconds); err != nil {
			t.Fatal(err)
		}
		// A descriptor of the same socket keeps the number from being reused
		// before the test's clean-up closes it a second time.
		if err := unix.Dup3(1, server, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(client, make([]byte, 1)) // blocks until the end arrives
		if tt.want == 0 && (err != nil || n != 0) || tt.want != 0 && !errors.Is(err, tt.want) {
			t.Errorf("linger %s: the peer read %d, %v; want %v", tt.name, n, err, tt.want)
		}
	}
}

func TestEventFdCountsUntilItIsDrained(t *testing.T) {
	fd, err := NewEventFd()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	readable := func() bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
	if readable() {
		t.Error("readable at birth")
	}
	SignalEventFd(fd)
	SignalEventFd(fd)
	if !readable() {
		t.Error("not readable after a signal")
	}
	DrainEventFd(fd)
	if readable() {
		t.Error("readable after it was drained")
	}
	DrainEventFd(fd) // of nothing: must not block
}
