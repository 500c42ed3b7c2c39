//go:build linux

package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// namespaceVariable says to a test that it runs in a network namespace of its own.
const namespaceVariable = "RINGNET_TEST_NAMESPACE"

// inNamespace runs the test that calls it once more, in a process with a network of
// its own: a pair of joined interfaces, v0 with addresses and v1 without. It reports
// whether this is that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		// Without the wait for others who have the same address.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/all/accept_dad", []byte("0"), 0)
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		for _, args := range []string{"link set lo up", "link add v0 type veth peer name v1", "addr add 10.9.0.1/24 dev v0",
			"link set v0 up", "link set v1 up"} {
			ip(t, args)
		}
		if ln, err := stdnet.Listen("tcp", "127.0.0.1:0"); err == nil {
			_ = ln.Close() // for the descriptors of the poller
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("needs ip(8), from iproute2: %v", err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("cannot make a network namespace here: %v", err)
	}
	if err != nil {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("in the namespace:\n%s", out)
	}
	return false
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Skipf("ip %s: %v\n%s", args, err, out)
	}
}

func TestMulticastOnAnInterface(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ifi, err := stdnet.InterfaceByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, listen, group string }{
		{"IPv4", "udp:0.0.0.0:0", "239.77.1.2"},
		{"IPv4 on both", "udp::0", "239.77.1.3"},
		{"IPv6", "udp:[::]:0", "ff02::7712"},
		{"IPv6 on both", "udp::0", "ff02::7713"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overVariants(t, func(t *testing.T, v variant) { multicast(t, v, tt.listen, netip.MustParseAddr(tt.group), ifi) }, packetVariants...)
		})
	}
}

// Addresses of a link carry the name of the interface, in both directions.
func TestPacketsOfALinkHaveAZone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ifi, err := stdnet.InterfaceByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	var own netip.Addr
	until(t, "v0 has a link-local address", func() bool {
		addrs, err := ifi.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
				own = p.Addr().WithZone("v0")
			}
		}
		return own.IsValid()
	})
	overVariants(t, func(t *testing.T, v variant) {
		v.PacketInfo = true
		from := make(chan netip.AddrPort, 10)
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			from <- p.From
			_, _ = p.Reply(p.Data)
			if _, err := s.WriteTo([]byte("again"), p.From); err != nil {
				t.Error(err)
			}
		}), "udp:[::]:0")
		c := packetPeer(t, netip.AddrPortFrom(own, srv.PacketAddrs()[0].Port()))
		for range 3 {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			wantPacket(t, c, []byte("hello"))
			wantPacket(t, c, []byte("again"))
			if got := await(t, from, "a datagram"); got != c.LocalAddr().(*stdnet.UDPAddr).AddrPort() || got.Addr().Zone() != "v0" {
				t.Errorf("from %v, want %v", got, c.LocalAddr())
			}
		}
	}, packetVariants...)
}

// A neighbour that nobody answers for holds datagrams back, and so fills the socket:
// what does not fit waits, bounded, and goes out when the neighbour is found.
func TestPacketsWaitForRoom(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	host := 1
	overVariants(t, func(t *testing.T, v variant) {
		host++
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(host)}), 9)
		v.HighWater, v.LowWater, v.MaxBuffered, v.NoSegments = 20_000, 5000, 60_000, true
		errs, writable := make(chan error, 1000), make(chan int, 100)
		h := newPacketScript(t, func(s *Socket, p *Packet) {})
		h.fail = func(s *Socket, err error) { errs <- err }
		h.write = func(s *Socket) { writable <- s.Buffered() }
		srv := servePackets(t, v.Options, h)
		ref, err := srv.ListenPacket("10.9.0.1:0", nil)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan int, 1)
		if err := ref.Post(func(s *Socket) {
			if err := s.SetWriteBuffer(20_000); err != nil {
				t.Error(err)
			}
			n := 0
			for {
				_, err := s.WriteTo(payload(uint64(n), 1000), to)
				if errors.Is(err, ErrBacklog) {
					break
				}
				if err != nil || n > 10_000 {
					errs <- fmt.Errorf("datagram %d: %w", n, err)
					break
				}
				n++
			}
			if s.Buffered() > 60_000 {
				t.Errorf("%d bytes wait, over MaxBuffered", s.Buffered())
			}
			accepted <- n
		}); err != nil {
			t.Fatal(err)
		}
		n := await(t, accepted, "the writes")
		ip(t, fmt.Sprintf("neigh replace %v lladdr 02:00:00:00:00:02 dev v0", to.Addr()))
		if left := await(t, writable, "OnSocketWritable"); left > 5000 {
			t.Errorf("OnSocketWritable with %d bytes that wait, want at most LowWater", left)
		}
		until(t, "all has gone out", func() bool { return srv.Stats().PacketsSent == uint64(n) })
		st := srv.Stats()
		if st.PacketWaits == 0 || st.HighWater == 0 || st.CopiesOut != 0 {
			t.Errorf("%d waits, %d times over HighWater, %d copies out", st.PacketWaits, st.HighWater, st.CopiesOut)
		}
		select {
		case err := <-errs:
			t.Errorf("an error: %v", err)
		default:
		}
	}, packetVariants...)
}

// A closed socket whose output does not go out ends all the same.
func TestClosedSocketWaitsForItsOutput(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	overVariants(t, func(t *testing.T, v variant) {
		to := netip.MustParseAddrPort("10.9.0.99:9")
		v.CloseTimeout = 1e6
		h := newPacketScript(t, func(s *Socket, p *Packet) {})
		srv := servePackets(t, v.Options, h)
		ref, err := srv.ListenPacket("10.9.0.1:0", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.Post(func(s *Socket) {
			if err := s.SetWriteBuffer(5000); err != nil {
				t.Error(err)
			}
			for range 100 {
				if _, err := s.WriteTo(make([]byte, 1000), to); err != nil {
					t.Error(err)
				}
			}
			if s.Buffered() == 0 {
				t.Error("nothing waits")
			}
			s.Close()
		}); err != nil {
			t.Fatal(err)
		}
		if err := await(t, h.causes, "OnSocketClose"); !errors.Is(err, ErrCloseTimeout) {
			t.Errorf("OnSocketClose was told %v", err)
		}
	}, packetVariants...)
}
