//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	stdnet "net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

// packetScript is a handler for datagrams made of functions.
type packetScript struct {
	t      testing.TB
	packet func(s *Socket, p *Packet)
	open   func(s *Socket)
	fail   func(s *Socket, err error)
	write  func(s *Socket)

	mu     sync.Mutex
	opened map[*Socket]bool
	causes chan error
}

func newPacketScript(t testing.TB, packet func(s *Socket, p *Packet)) *packetScript {
	return &packetScript{t: t, packet: packet, opened: map[*Socket]bool{}, causes: make(chan error, 1000)}
}

func (h *packetScript) OnSocketOpen(s *Socket) {
	h.mu.Lock()
	if h.opened[s] {
		h.t.Error("OnSocketOpen is called twice")
	}
	h.opened[s] = true
	h.mu.Unlock()
	if h.open != nil {
		h.open(s)
	}
}

func (h *packetScript) OnPacket(s *Socket, p *Packet) {
	h.mu.Lock()
	if !h.opened[s] {
		h.t.Error("OnPacket is called before OnSocketOpen, or after OnSocketClose")
	}
	h.mu.Unlock()
	h.packet(s, p)
}

func (h *packetScript) OnSocketClose(s *Socket, err error) {
	h.mu.Lock()
	if !h.opened[s] {
		h.t.Error("OnSocketClose is called twice, or before OnSocketOpen")
	}
	h.opened[s] = false
	h.mu.Unlock()
	h.causes <- err
}

func (h *packetScript) OnSocketError(s *Socket, err error) {
	if h.fail != nil {
		h.fail(s, err)
	}
}

func (h *packetScript) OnSocketWritable(s *Socket) {
	if h.write != nil {
		h.write(s)
	}
}

// servePackets starts a server that serves datagrams on addrs, 127.0.0.1 by default.
func servePackets(t testing.TB, o Options, h PacketHandler, addrs ...string) *server {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []string{"udp:127.0.0.1:0"}
	}
	srv := &server{t: t, log: &logbook{}, before: footprintNow(t)}
	o.Logger = slog.New(slog.NewTextHandler(srv.log, nil))
	srv.Server = &Server{Packets: h, Options: o}
	if err := srv.Start(addrs...); err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		srv.stop()
		if st := srv.Stats(); st.Sockets != 0 || st.SocketsOpened != st.SocketsClosed {
			t.Errorf("after the end: %d sockets are open, %d were opened, %d closed", st.Sockets, st.SocketsOpened, st.SocketsClosed)
		}
	})
	return srv
}

// packetPeer is a std UDP socket that talks to addr.
func packetPeer(t testing.TB, addr netip.AddrPort) *stdnet.UDPConn {
	t.Helper()
	c, err := stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// lonePeer is a std UDP socket without a peer, on host.
func lonePeer(t testing.TB, host string) (*stdnet.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := stdnet.ListenUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().(*stdnet.UDPAddr).AddrPort()
}

func readPacket(t testing.TB, c *stdnet.UDPConn) []byte {
	t.Helper()
	b := make([]byte, 70000)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("read a datagram: %v\n%s", err, stacks())
	}
	return b[:n]
}

func wantPacket(t testing.TB, c *stdnet.UDPConn, want []byte) {
	t.Helper()
	if err := differ(readPacket(t, c), want); err != nil {
		t.Fatal(err)
	}
}

// packetEchoes are the ways to send a datagram back.
var packetEchoes = []struct {
	name string
	echo func(t testing.TB, s *Socket, p *Packet)
}{
	{name: "reply", echo: func(t testing.TB, s *Socket, p *Packet) {
		if n, err := p.Reply(p.Data); err != nil || n != len(p.Data) {
			t.Errorf("reply: %d, %v", n, err)
		}
	}},
	{name: "write", echo: func(t testing.TB, s *Socket, p *Packet) {
		if n, err := s.WriteTo(p.Data, p.From); err != nil || n != len(p.Data) {
			t.Errorf("write: %d, %v", n, err)
		}
	}},
	{name: "lease", echo: func(t testing.TB, s *Socket, p *Packet) {
		lease, err := p.Detach()
		if err != nil {
			t.Errorf("detach: %v", err)
			return
		}
		if err := s.SendTo(lease, p.From); err != nil {
			t.Errorf("send: %v", err)
		}
	}},
}

func TestPacketsAreEchoed(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, way := range packetEchoes {
			t.Run(way.name, func(t *testing.T) {
				h := newPacketScript(t, func(s *Socket, p *Packet) {
					if p.Truncated || p.Segment != 0 || p.To.IsValid() || p.Interface != 0 {
						t.Errorf("%+v: want a plain datagram", p)
					}
					way.echo(t, s, p)
				})
				srv := servePackets(t, v.Options, h)
				for peer := range 3 {
					c := packetPeer(t, srv.PacketAddrs()[0])
					for i, n := range []int{0, 1, 64, 0, 0, 1472, 2048, 63, 0} {
						want := payload(uint64(100*peer+i), n)
						if _, err := c.Write(want); err != nil {
							t.Fatal(err)
						}
						wantPacket(t, c, want)
					}
				}
				if st := srv.Stats(); st.PacketsReceived != 27 || st.PacketsSent != 27 || st.PacketErrors != 0 {
					t.Errorf("%d datagrams received, %d sent, %d errors: want 27, 27, 0", st.PacketsReceived, st.PacketsSent, st.PacketErrors)
				}
			})
		}
	})
}

func TestPacketsOfManyPeersAtOnce(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			if _, err := p.Reply(p.Data); err != nil {
				t.Errorf("reply: %v", err)
			}
		}))
		err := crowd(8, func(i int) error {
			c, err := stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(srv.PacketAddrs()[0]))
			if err != nil {
				return err
			}
			defer c.Close()
			b := make([]byte, 2048)
			for k := range few(40) {
				const window = 6 // fits any socket's buffer
				for j := range window {
					if _, err := c.Write(payload(uint64(i<<16+k<<8+j), 64)); err != nil {
						return err
					}
				}
				for j := range window {
					_ = c.SetReadDeadline(time.Now().Add(patience))
					n, err := c.Read(b)
					if err != nil {
						return fmt.Errorf("datagram %d of round %d: %w", j, k, err)
					}
					if err := differ(b[:n], payload(uint64(i<<16+k<<8+j), 64)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}, "default", "poisoned", "epoll", "epoll no features", "epoll queues of 1 and 2", "loops", "no recv multishot", "no features", "queues of 1 and 2")
}

// packetVariants are those that tests of single features run over.
var packetVariants = []string{"poisoned", "epoll", "epoll no features", "no recv multishot"}

func TestPacketTruncatedIsTold(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		type seen struct {
			data      []byte
			truncated bool
		}
		got := make(chan seen, 10)
		v.PacketBytes = 100
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			got <- seen{slices.Clone(p.Data), p.Truncated}
		}))
		c := packetPeer(t, srv.PacketAddrs()[0])
		for _, n := range []int{99, 100, 101, 9000} {
			if _, err := c.Write(payload(1, n)); err != nil {
				t.Fatal(err)
			}
			p := await(t, got, "a datagram")
			if err := differ(p.data, payload(1, min(n, 100))); err != nil || p.truncated != (n > 100) {
				t.Errorf("%d bytes: truncated %v, %v", n, p.truncated, err)
			}
		}
		if st := srv.Stats(); st.PacketsTruncated != 2 {
			t.Errorf("%d truncated in Stats, want 2", st.PacketsTruncated)
		}
	}, packetVariants...)
}

// A socket on all addresses answers from the one that was asked, else the peer, being
// connected, does not hear it.
func TestPacketInfoTellsWhereToAndAnswersFromThere(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, listen := range []string{"udp:0.0.0.0:0", "udp::0"} {
			t.Run(listen, func(t *testing.T) {
				v.PacketInfo = true
				var want atomic.Value
				srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
					if p.To.String() != want.Load() || p.Interface != 1 {
						t.Errorf("to %v, interface %d, want %v, 1", p.To, p.Interface, want.Load())
					}
					if _, err := p.Reply(p.Data); err != nil {
						t.Error(err)
					}
					if _, err := s.WriteFrom([]byte("again"), p.To, p.From); err != nil {
						t.Error(err)
					}
				}), listen)
				hosts := []string{"127.0.0.1", "127.0.0.2", "127.0.9.9"}
				if srv.PacketAddrs()[0].Addr().Is6() {
					hosts = append(hosts, "::1")
				}
				for _, host := range hosts {
					want.Store(host)
					c := packetPeer(t, netip.AddrPortFrom(netip.MustParseAddr(host), srv.PacketAddrs()[0].Port()))
					if _, err := c.Write([]byte(host)); err != nil {
						t.Fatal(err)
					}
					wantPacket(t, c, []byte(host))
					wantPacket(t, c, []byte("again"))
				}
			})
		}
	}, packetVariants...)
}

func TestPacketsOverIPv6(t *testing.T) {
	probeIPv6(t)
	overVariants(t, func(t *testing.T, v variant) {
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			if _, err := s.WriteTo(p.Data, p.From); err != nil {
				t.Error(err)
			}
			if _, err := s.WriteTo(p.Data, netip.MustParseAddrPort("127.0.0.1:9")); err == nil || !strings.Contains(err.Error(), "IPv6 only") {
				t.Errorf("write to IPv4: %v", err)
			}
		}), "udp:[::1]:0")
		c := packetPeer(t, srv.PacketAddrs()[0])
		for _, n := range []int{0, 64, 1000} {
			if _, err := c.Write(payload(1, n)); err != nil {
				t.Fatal(err)
			}
			wantPacket(t, c, payload(1, n))
		}
	}, packetVariants...)
}

// What one callback writes to one address goes to the kernel together, and comes out
// as it was written.
func TestPacketsToOnePeerGoOutAsSegments(t *testing.T) {
	sizes := []int{64, 64, 64, 64, 63, 64, 64, 0, 64, 1200, 1200, 1200, 7, 7, 7, 0, 0, 40000, 30000, 30000}
	overVariants(t, func(t *testing.T, v variant) {
		for _, off := range []bool{false, true} {
			t.Run(fmt.Sprint("off ", off), func(t *testing.T) {
				v.NoSegments = off
				srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
					for i, n := range sizes {
						if _, err := s.WriteTo(payload(uint64(i), n), p.From); err != nil {
							t.Errorf("write %d: %v", i, err)
						}
					}
				}))
				c := packetPeer(t, srv.PacketAddrs()[0])
				_ = c.SetReadBuffer(1 << 20)
				if _, err := c.Write(nil); err != nil {
					t.Fatal(err)
				}
				for i, n := range sizes {
					b := readPacket(t, c)
					if err := differ(b, payload(uint64(i), n)); err != nil {
						t.Fatalf("datagram %d: %v", i, err)
					}
				}
				st := srv.Stats()
				if st.PacketsSent != uint64(len(sizes)) || off != (st.Segmented == 0) {
					t.Errorf("%d datagrams sent, %d batches of segments", st.PacketsSent, st.Segmented)
				}
			})
		}
	}, packetVariants...)
}

func TestWriteSegments(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, off := range []bool{false, true} {
			t.Run(fmt.Sprint("off ", off), func(t *testing.T) {
				v.NoSegments = off
				cases := []struct{ n, size int }{{1000, 100}, {1001, 100}, {64, 1}, {50, 100}, {0, 10}, {6400, 100}, {60000, 1200}}
				srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
					for _, c := range cases {
						if err := s.WriteSegments(payload(1, c.n), c.size, p.From); err != nil {
							t.Errorf("%d bytes in segments of %d: %v", c.n, c.size, err)
						}
					}
					for _, c := range []struct{ n, size int }{{65, 1}, {10, 0}, {10, -1}, {10, 70000}, {65508, 2000}} {
						if err := s.WriteSegments(payload(1, c.n), c.size, p.From); err == nil {
							t.Errorf("%d bytes in segments of %d: no error", c.n, c.size)
						}
					}
				}))
				c := packetPeer(t, srv.PacketAddrs()[0])
				_ = c.SetReadBuffer(1 << 20)
				if _, err := c.Write(nil); err != nil {
					t.Fatal(err)
				}
				for _, w := range cases {
					rest := payload(1, w.n)
					for first := true; first || len(rest) > 0; first = false {
						n := min(w.size, len(rest))
						wantPacket(t, c, rest[:n])
						rest = rest[n:]
					}
				}
			})
		}
	}, packetVariants...)
}

func TestGROGivesSegments(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.GRO = true
		got := make(chan []byte, 100)
		var joined atomic.Int32
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			if p.Segment > 0 {
				joined.Add(1)
			}
			for segment := range p.Segments() {
				got <- slices.Clone(segment)
			}
		}))
		// Our own segments come as one over loopback.
		ref, err := srv.DialPacket(srv.PacketAddrs()[0].String(), newPacketScript(t, func(*Socket, *Packet) {}))
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.Post(func(s *Socket) {
			if err := s.WriteSegments(payload(5, 1050), 100, netip.AddrPort{}); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		rest := payload(5, 1050)
		for len(rest) > 0 {
			n := min(100, len(rest))
			if err := differ(await(t, got, "a segment"), rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if joined.Load() == 0 {
			t.Error("no buffer had more than one datagram")
		}
	}, packetVariants...)
}

func TestConnectedSocketHearsThatNobodyListens(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		gone, addr := lonePeer(t, "127.0.0.1")
		_ = gone.Close()
		errs, packets := make(chan error, 100), make(chan string, 10)
		h := newPacketScript(t, func(s *Socket, p *Packet) { packets <- string(p.Data) })
		h.fail = func(s *Socket, err error) { errs <- err }
		srv := servePackets(t, v.Options, h)
		ref, err := srv.DialPacket(addr.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := ref.WriteTo([]byte("hello"), netip.AddrPort{}); err != nil {
				t.Fatal(err)
			}
			err := await(t, errs, "an ICMP error")
			var op *OpError
			if !errors.Is(err, unix.ECONNREFUSED) || !errors.As(err, &op) || op.Addr != UDPAddr(addr) {
				t.Errorf("OnSocketError is told %v", err)
			}
		}
		// And lives on.
		back, err := stdnet.ListenUDP("udp", stdnet.UDPAddrFromAddrPort(addr))
		if err != nil {
			t.Skipf("the port was taken meanwhile: %v", err)
		}
		defer back.Close()
		if err := ref.WriteTo([]byte("again"), netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		_ = back.SetReadDeadline(time.Now().Add(patience))
		n, from, err := back.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "again" || from != ref.LocalAddr() {
			t.Fatalf("%q from %v (%v), want it from %v", b[:n], from, err, ref.LocalAddr())
		}
		if _, err := back.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		if got := await(t, packets, "an answer"); got != "answer" {
			t.Errorf("received %q", got)
		}
	}, packetVariants...)
}

// Each datagram that is refused for an earlier one's sake is tried again: all that
// can go out does, although errors come in between.
func TestConnectedSocketLosesNothingToICMP(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.NoSegments = true
		gone, addr := lonePeer(t, "127.0.0.1")
		_ = gone.Close()
		var refused atomic.Int32
		h := newPacketScript(t, func(s *Socket, p *Packet) {})
		h.fail = func(s *Socket, err error) { refused.Add(1) }
		srv := servePackets(t, v.Options, h)
		ref, err := srv.DialPacket(addr.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.Post(func(s *Socket) {
			for range 100 {
				if _, err := s.Write([]byte("hello")); err != nil {
					t.Error(err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		until(t, "all have been sent", func() bool { return srv.Stats().PacketsSent == 100 })
		until(t, "errors", func() bool { return refused.Load() > 10 })
	}, "poisoned", "epoll")
}

func TestSocketConnectAndReconnect(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		a, addrA := lonePeer(t, "127.0.0.1")
		b, addrB := lonePeer(t, "127.0.0.1")
		errs := make(chan error, 10)
		h := newPacketScript(t, func(s *Socket, p *Packet) {})
		h.open = func(s *Socket) {
			check := func(err error) {
				if err != nil {
					errs <- err
				}
			}
			if _, err := s.Write([]byte("x")); !errors.Is(err, ErrNotConnected) {
				errs <- fmt.Errorf("write without a peer: %w", err)
			}
			check(s.Connect(addrA))
			_, err := s.Write([]byte("to a"))
			check(err)
			check(s.Connect(addrB))
			_, err = s.Write([]byte("to b"))
			check(err)
			_, err = s.WriteTo([]byte("to a again"), addrA)
			check(err)
			if s.RemoteAddr() != addrB || s.LocalAddr().Addr().IsUnspecified() {
				errs <- fmt.Errorf("connected from %v to %v", s.LocalAddr(), s.RemoteAddr())
			}
			if err := s.Connect(netip.AddrPort{}); err == nil {
				errs <- errors.New("connect to nothing: no error")
			}
			if err := s.Connect(netip.MustParseAddrPort("[::1]:9")); !errors.Is(err, unix.EAFNOSUPPORT) {
				errs <- fmt.Errorf("connect to IPv6: %w", err)
			}
			close(errs)
		}
		servePackets(t, v.Options, h, "udp:0.0.0.0:0")
		wantPacket(t, a, []byte("to a"))
		wantPacket(t, b, []byte("to b"))
		wantPacket(t, a, []byte("to a again"))
		for err := range errs {
			t.Error(err)
		}
	}, "poisoned", "epoll")
}

func TestPanicInOnPacketLosesThatDatagramOnly(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		h := newPacketScript(t, func(s *Socket, p *Packet) {
			if string(p.Data) == "bad" || len(p.Data) == 0 {
				panic("bad datagram")
			}
			_, _ = p.Reply(p.Data)
		})
		srv := servePackets(t, v.Options, h)
		c := packetPeer(t, srv.PacketAddrs()[0])
		for _, what := range []string{"good", "bad", "good", "", "good"} {
			if _, err := c.Write([]byte(what)); err != nil {
				t.Fatal(err)
			}
			if what == "good" {
				wantPacket(t, c, []byte(what))
			}
		}
		if st := srv.Stats(); st.Panics != 2 || st.LeasesOut != 0 {
			t.Errorf("%d panics, %d leases out, want 2, 0", st.Panics, st.LeasesOut)
		}
		if !strings.Contains(srv.log.String(), "bad datagram") {
			t.Errorf("the log does not tell of it:\n%s", srv.log)
		}
	}, packetVariants...)
}

func TestPanicInOnSocketOpenClosesTheSocket(t *testing.T) {
	h := newPacketScript(t, func(s *Socket, p *Packet) {})
	srv := servePackets(t, Options{Loops: 1}, h)
	bad := newPacketScript(t, nil)
	bad.open = func(s *Socket) { panic("no") }
	if _, err := srv.ListenPacket("127.0.0.1:0", bad); err != nil {
		t.Fatal(err)
	}
	var p *PanicError
	if err := await(t, bad.causes, "OnSocketClose"); !errors.As(err, &p) || p.Value != "no" {
		t.Errorf("OnSocketClose was told %v", err)
	}
}

// A handler that holds every buffer stops the receiving, and nothing else: it goes on
// when they are back, whoever releases them.
func TestPacketsGoOnWhenBuffersAreBack(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.PacketBufs = 4
		held := make(chan bufring.Lease, 100)
		srv := servePackets(t, v.Options, newPacketScript(t, func(s *Socket, p *Packet) {
			lease, err := p.Detach()
			if err != nil {
				t.Error(err)
			}
			if _, err := p.Detach(); !errors.Is(err, ErrNoData) {
				t.Errorf("a second detach: %v", err)
			}
			held <- lease
		}))
		c := packetPeer(t, srv.PacketAddrs()[0])
		const n = 40
		for i := range n {
			if _, err := c.Write(payload(uint64(i), 10+i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if i < n-4 {
				until(t, "all buffers are out", func() bool { return srv.Stats().LeasesOut == 4 })
			}
			lease := await(t, held, "a datagram")
			if err := differ(lease.Bytes(), payload(uint64(i), 10+i)); err != nil {
				t.Errorf("datagram %d: %v", i, err)
			}
			lease.Release()
		}
		if st := srv.Stats(); st.Starved == 0 {
			t.Error("no socket was parked")
		}
	}, packetVariants...)
}

func TestBroadcast(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		got := make(chan string, 10)
		errs := make(chan error, 10)
		h := newPacketScript(t, func(s *Socket, p *Packet) { got <- fmt.Sprintf("%s to %v", p.Data, p.To) })
		h.fail = func(s *Socket, err error) { errs <- err }
		v.PacketInfo = true
		srv := servePackets(t, v.Options, h, "udp:0.0.0.0:0")
		to := netip.AddrPortFrom(netip.MustParseAddr("127.255.255.255"), srv.PacketAddrs()[0].Port())
		ref, err := srv.ListenPacket("127.0.0.1:0", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.WriteTo([]byte("one"), to); err != nil {
			t.Fatal(err)
		}
		if err := await(t, errs, "an error"); !errors.Is(err, unix.EACCES) {
			t.Errorf("broadcast without permission: %v", err)
		}
		if err := ref.Post(func(s *Socket) {
			if err := s.SetBroadcast(true); err != nil {
				t.Error(err)
			}
			if _, err := s.WriteTo([]byte("two"), to); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if what := await(t, got, "the broadcast"); what != "two to 127.255.255.255" {
			t.Errorf("received %q", what)
		}
	}, packetVariants...)
}

func loopback(t testing.TB) *stdnet.Interface {
	t.Helper()
	all, err := stdnet.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, ifi := range all {
		if ifi.Flags&stdnet.FlagLoopback != 0 {
			return &ifi
		}
	}
	t.Skip("no loopback interface here")
	return nil
}

func TestMulticastOnLoopback(t *testing.T) {
	for _, tt := range []struct{ name, listen, group string }{
		{"IPv4", "udp:0.0.0.0:0", "239.77.1.2"},
		{"IPv4 on both", "udp::0", "239.77.1.3"},
		{"IPv6", "udp:[::]:0", "ff01::7712"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			group := netip.MustParseAddr(tt.group)
			if group.Is6() || tt.listen == "udp::0" {
				probeIPv6(t)
			}
			lo := loopback(t)
			overVariants(t, func(t *testing.T, v variant) { multicast(t, v, tt.listen, group, lo) }, packetVariants...)
		})
	}
}

// multicast has one socket join a group on an interface, and another send to it.
func multicast(t *testing.T, v variant, listen string, group netip.Addr, ifi *stdnet.Interface) {
	got, errs := make(chan string, 10), make(chan error, 100)
	h := newPacketScript(t, func(s *Socket, p *Packet) { got <- fmt.Sprintf("%s to %v by %d", p.Data, p.To, p.Interface) })
	h.fail = func(s *Socket, err error) { errs <- err }
	v.PacketInfo = true
	srv := servePackets(t, v.Options, h, listen)
	to := netip.AddrPortFrom(group, srv.PacketAddrs()[0].Port())
	on := func(what string, f func(s *Socket) error) {
		t.Helper()
		done := make(chan error, 1)
		if err := srv.loops[0].mail.post(func() { done <- f(srv.loops[0].udp.sockets[0].socket) }); err != nil {
			t.Fatal(err)
		}
		if err := await(t, done, what); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	host := "0.0.0.0:0"
	if group.Is6() {
		host = "[::]:0"
	}
	ref, err := srv.ListenPacket(host, nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(what string) {
		t.Helper()
		done := make(chan error, 1)
		if err := ref.Post(func(s *Socket) {
			err := errors.Join(s.SetMulticastInterface(ifi), s.SetMulticastTTL(1), s.SetMulticastLoopback(true))
			_, w := s.WriteTo([]byte(what), to)
			done <- errors.Join(err, w)
		}); err != nil {
			t.Fatal(err)
		}
		if err := await(t, done, "a write"); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string) {
		t.Helper()
		select {
		case p := <-got:
			if p != fmt.Sprintf("%s to %v by %d", what, group, ifi.Index) {
				t.Errorf("received %q, want %q", p, what)
			}
		case err := <-errs:
			t.Skipf("multicast does not leave by %s here: %v", ifi.Name, err)
		case <-time.After(patience):
			t.Fatal("no datagram came")
		}
	}
	on("join", func(s *Socket) error { return s.JoinGroup(ifi, group) })
	on("join twice", func(s *Socket) error {
		if err := s.JoinGroup(ifi, group); !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("no error, or another: %w", err)
		}
		return nil
	})
	send("joined")
	want("joined")
	on("leave", func(s *Socket) error { return s.LeaveGroup(ifi, group) })
	send("left")
	on("join again", func(s *Socket) error { return s.JoinGroup(ifi, group) })
	send("back")
	want("back") // and not what was sent meanwhile
	on("bad groups", func(s *Socket) error {
		if err := s.JoinGroup(ifi, netip.MustParseAddr("10.1.2.3")); err == nil {
			return errors.New("no error for what is no group")
		}
		if err := s.LeaveGroup(ifi, netip.MustParseAddr("239.9.9.9")); err == nil {
			return errors.New("no error for a group that was not joined")
		}
		return s.LeaveGroup(ifi, group)
	})
}

// With an address that is a group, one socket is opened and joins.
func TestListenOnAGroup(t *testing.T) {
	got := make(chan int, 10)
	h := newPacketScript(t, func(s *Socket, p *Packet) { got <- s.Loop() })
	before := footprintNow(t)
	srv := &Server{Packets: h, Options: Options{Loops: 3, Logger: slog.New(slog.DiscardHandler)}}
	if err := srv.Start("udp:239.77.1.9:0"); err != nil {
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETUNREACH) {
			t.Skipf("no route for multicast here: %v", err)
		}
		t.Fatal(err)
	}
	if n := srv.Stats().Sockets; n != 1 {
		t.Errorf("%d sockets, want 1", n)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	before.check(t)
}

func TestPacketsOnSeveralLoops(t *testing.T) {
	var loops sync.Map
	srv := servePackets(t, Options{Loops: 3, poison: true}, newPacketScript(t, func(s *Socket, p *Packet) {
		loops.Store(s.Loop(), true)
		_, _ = p.Reply(p.Data)
	}))
	for i := range 200 {
		c := packetPeer(t, srv.PacketAddrs()[0])
		if _, err := c.Write(payload(uint64(i), 20)); err != nil {
			t.Fatal(err)
		}
		wantPacket(t, c, payload(uint64(i), 20))
		_ = c.Close()
	}
	n := 0
	loops.Range(func(any, any) bool { n++; return true })
	if n != 3 || srv.Stats().Sockets != 3 {
		t.Errorf("%d loops received datagrams, %d sockets: want 3, 3", n, srv.Stats().Sockets)
	}
}

func TestStreamsAndPacketsOfOneServer(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := &server{t: t, log: &logbook{}, before: footprintNow(t)}
		v.Logger = slog.New(slog.NewTextHandler(srv.log, nil))
		srv.w = newWitness(t, echoWrite(t))
		srv.Server = &Server{Handler: srv.w.handler(), Options: v.Options, Packets: newPacketScript(t, func(s *Socket, p *Packet) { _, _ = p.Reply(p.Data) })}
		if err := srv.Start("127.0.0.1:0", "udp:127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.stop)
		u, c := packetPeer(t, srv.PacketAddrs()[0]), srv.dial()
		for i := range 20 {
			p := payload(uint64(i), 100)
			if _, err := u.Write(p); err != nil {
				t.Fatal(err)
			}
			wantEcho(t, c, p)
			wantPacket(t, u, p)
		}
	}, "default", "epoll", "loops", "no features")
}

func TestSocketEndsOnceAndInOrder(t *testing.T) {
	boom := errors.New("boom")
	overVariants(t, func(t *testing.T, v variant) {
		for _, tt := range []struct {
			name string
			end  func(s *Socket)
			want error
		}{
			{name: "close", end: func(s *Socket) { s.Close(); s.Close() }},
			{name: "abort", end: func(s *Socket) { s.Abort(boom); s.Close() }, want: boom},
		} {
			t.Run(tt.name, func(t *testing.T) {
				done := make(chan error, 1)
				h := newPacketScript(t, func(s *Socket, p *Packet) {
					_, _ = p.Reply([]byte("bye"))
					tt.end(s)
					_, err := s.WriteTo([]byte("more"), p.From)
					done <- err
				})
				srv := servePackets(t, v.Options, h)
				c := packetPeer(t, srv.PacketAddrs()[0])
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if err := await(t, done, "a datagram"); !errors.Is(err, ErrClosed) {
					t.Errorf("write after the end: %v", err)
				}
				if err := await(t, h.causes, "OnSocketClose"); !errors.Is(err, tt.want) {
					t.Errorf("OnSocketClose was told %v, want %v", err, tt.want)
				}
				if tt.want == nil {
					wantPacket(t, c, []byte("bye")) // what was written before went out
				}
			})
		}
	}, packetVariants...)
}

type shutdownScript struct {
	*packetScript
	leave func(s *Socket)
}

func (h shutdownScript) OnSocketShutdown(s *Socket) { h.leave(s) }

func TestShutdownWaitsForSocketsThatTakeLeave(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var taking atomic.Bool
		h := shutdownScript{packetScript: newPacketScript(t, func(s *Socket, p *Packet) {
			_, _ = p.Reply(p.Data)
			if taking.Load() {
				s.Close()
			}
		})}
		told := make(chan struct{})
		h.leave = func(s *Socket) { close(told) }
		srv := servePackets(t, v.Options, h)
		c := packetPeer(t, srv.PacketAddrs()[0])
		ended := make(chan error, 1)
		go func() { ended <- srv.Shutdown(context.Background()) }()
		await(t, told, "OnSocketShutdown")
		if _, err := c.Write([]byte("still there?")); err != nil {
			t.Fatal(err)
		}
		wantPacket(t, c, []byte("still there?"))
		taking.Store(true)
		if _, err := c.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		wantPacket(t, c, []byte("last"))
		if err := await(t, ended, "the end"); err != nil {
			t.Error(err)
		}
		if err := await(t, h.causes, "OnSocketClose"); err != nil {
			t.Errorf("OnSocketClose was told %v", err)
		}
	}, "poisoned", "epoll")
}

func TestShutdownClosesSockets(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		h := newPacketScript(t, func(s *Socket, p *Packet) {})
		srv := servePackets(t, v.Options, h)
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		for range srv.loops {
			if err := await(t, h.causes, "OnSocketClose"); !errors.Is(err, ErrServerClosed) {
				t.Errorf("OnSocketClose was told %v", err)
			}
		}
		if _, err := srv.ListenPacket("127.0.0.1:0", h); !errors.Is(err, ErrServerClosed) {
			t.Errorf("listen after the end: %v", err)
		}
	})
}

func TestBadPacketAddresses(t *testing.T) {
	before := footprintNow(t)
	h := newPacketScript(t, func(*Socket, *Packet) {})
	taken, addr := lonePeer(t, "127.0.0.1")
	defer taken.Close()
	for _, tt := range []struct {
		name  string
		h     PacketHandler
		addrs []string
		says  string
	}{
		{name: "no handler", addrs: []string{"udp:127.0.0.1:0"}, says: "Server.Packets is nil"},
		{name: "no handler for streams", h: h, addrs: []string{"udp:127.0.0.1:0", "127.0.0.1:0"}, says: "Server.Handler is nil"},
		{name: "no address", h: h, addrs: []string{"udp:"}, says: "write host:port"},
		{name: "no port", h: h, addrs: []string{"udp:127.0.0.1"}, says: "write host:port"},
		{name: "a bad port", h: h, addrs: []string{"udp:127.0.0.1:70000"}, says: "70000"},
		{name: "taken", h: h, addrs: []string{"udp:127.0.0.1:0", "udp:" + addr.String()}, says: "another socket has this address"},
		{name: "not ours", h: h, addrs: []string{"udp:192.0.2.1:0"}, says: "no interface of this machine"},
	} {
		for _, loops := range []int{1, 3} {
			t.Run(fmt.Sprint(tt.name, " ", loops), func(t *testing.T) {
				srv := &Server{Packets: tt.h, Options: Options{Loops: loops}}
				err := srv.Start(tt.addrs...)
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v: want an error that says %q", err, tt.says)
				}
			})
		}
	}
	if _, err := (&Server{}).ListenPacket("127.0.0.1:0", h); err == nil {
		t.Error("listen on a server that was not started: no error")
	}
	srv := servePackets(t, Options{Loops: 1}, h)
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:x", "192.0.2.1:0", addr.String()} {
		if _, err := srv.ListenPacket(bad, h); err == nil {
			t.Errorf("listen on %q: no error", bad)
		}
	}
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x"} {
		if _, err := srv.DialPacket(bad, h); err == nil {
			t.Errorf("dial %q: no error", bad)
		}
	}
	if n := srv.Stats().Sockets; n != 1 {
		t.Errorf("%d sockets are open, want the first one", n)
	}
	srv.stop()
	_ = taken.Close()
	before.check(t)
}

func TestBadPacketWrites(t *testing.T) {
	errs := make(chan error, 100)
	bad := func(what string, err error, want error) {
		if err == nil || want != nil && !errors.Is(err, want) {
			errs <- fmt.Errorf("%s: %w", what, err)
		}
	}
	h := newPacketScript(t, func(*Socket, *Packet) {})
	h.open = func(s *Socket) {
		defer close(errs)
		to := netip.MustParseAddrPort("127.0.0.1:9")
		big := make([]byte, 70000)
		_, err := s.WriteTo(big, to)
		bad("too large", err, unix.EMSGSIZE)
		bad("a large lease", s.SendTo(bufring.Wrap(big), to), unix.EMSGSIZE)
		_, err = s.WriteTo(nil, netip.AddrPort{})
		bad("no address", err, ErrNotConnected)
		_, err = s.WriteTo(nil, netip.MustParseAddrPort("127.0.0.1:0"))
		bad("no port", err, nil)
		_, err = s.WriteTo(nil, netip.MustParseAddrPort("[::1]:9"))
		bad("IPv6", err, unix.EAFNOSUPPORT)
		_, err = s.WriteFrom(nil, netip.Addr{}, to)
		bad("from nowhere", err, nil)
		_, err = s.WriteFrom(nil, netip.MustParseAddr("::1"), to)
		bad("from another family", err, nil)
		bad("no lease without a peer", s.Send(bufring.Lease{}), ErrNotConnected)
		_, err = s.DialPacket(netip.AddrPort{}, nil)
		bad("dial nothing", err, nil)
		_, err = s.ListenPacket(netip.AddrPort{}, nil)
		bad("listen on nothing", err, nil)
		var none Packet
		_, err = none.Detach()
		bad("detach of nothing", err, ErrNoData)
		_, err = none.Reply(nil)
		bad("reply to nothing", err, ErrNoData)
	}
	srv := servePackets(t, Options{Loops: 1}, h)
	for err := range errs {
		t.Error(err)
	}
	if n := srv.Stats().CopiesOut; n != 0 {
		t.Errorf("%d copies are out", n)
	}
}

func TestSocketRefOutlivesItsSocket(t *testing.T) {
	h := newPacketScript(t, func(*Socket, *Packet) {})
	srv := servePackets(t, Options{Loops: 1}, h)
	ref, err := srv.ListenPacket("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ref.Close(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, h.causes, "OnSocketClose"); err != nil {
		t.Error(err)
	}
	other, err := srv.ListenPacket("127.0.0.1:0", nil) // in its slot
	if err != nil {
		t.Fatal(err)
	}
	if err := ref.Post(func(*Socket) { t.Error("a function for a socket that is closed is called") }); err != nil {
		t.Error(err)
	}
	if err := ref.Close(); err != nil {
		t.Error(err)
	}
	ran := make(chan struct{})
	if err := other.Post(func(*Socket) { close(ran) }); err != nil {
		t.Fatal(err)
	}
	await(t, ran, "a function that was posted")
	if err := (SocketRef{}).Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("the zero SocketRef: %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := other.Post(func(*Socket) {}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("post after the end: %v", err)
	}
}

// From callbacks, also of connections, sockets are opened at once.
func TestSocketsOpenedInCallbacks(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		peer, addr := lonePeer(t, "127.0.0.1")
		h := newPacketScript(t, func(s *Socket, p *Packet) {
			up, err := s.DialPacket(addr, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := up.Write(p.Data); err != nil {
				t.Error(err)
			}
			up.Close()
		})
		srv := servePackets(t, v.Options, h)
		c := packetPeer(t, srv.PacketAddrs()[0])
		for i := range 5 {
			p := payload(uint64(i), 50)
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
			wantPacket(t, peer, p)
			if err := await(t, h.causes, "OnSocketClose"); err != nil {
				t.Error(err)
			}
		}
	}, packetVariants...)
}

func TestSocketTimers(t *testing.T) {
	fired := make(chan string, 10)
	h := newPacketScript(t, func(*Socket, *Packet) {})
	h.open = func(s *Socket) {
		s.AfterFunc(time.Millisecond, func(*Socket) { fired <- "first" })
		s.AfterFunc(0, func(s *Socket) { s.Close() })
		s.AfterFunc(5*time.Millisecond, func(*Socket) { fired <- "of a closed socket" })
	}
	srv := servePackets(t, Options{Loops: 1}, h)
	if err := await(t, h.causes, "OnSocketClose"); err != nil {
		t.Error(err)
	}
	until(t, "all timers are through", func() bool { return srv.Stats().TimersSet == 0 })
	for len(fired) > 0 {
		if what := <-fired; what != "first" {
			t.Errorf("the timer %s fired", what)
		}
	}
}

// countingEcho answers, and allocates nothing by itself.
type countingEcho struct{}

func (countingEcho) OnPacket(s *Socket, p *Packet) { _, _ = p.Reply(p.Data) }

func TestPacketEchoAllocatesNothing(t *testing.T) {
	sameOnEveryKernel(t, "the library allocates the same")
	overVariants(t, func(t *testing.T, v variant) {
		srv := servePackets(t, v.Options, countingEcho{})
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(int64(patience))
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		to := srv.PacketAddrs()[0]
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		round := func(n int) {
			for range n {
				if _, err := unix.Write(fd, b); err != nil {
					t.Fatal(err)
				}
				_, err := unix.Read(fd, b)
				for errors.Is(err, unix.EINTR) { // a call with a timeout is not restarted
					_, err = unix.Read(fd, b)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		round(200)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const n = 3000
		round(n)
		runtime.ReadMemStats(&after)
		if got := after.Mallocs - before.Mallocs; got > n/20 {
			t.Errorf("%d allocations for %d datagrams", got, n)
		}
	}, "default", "epoll")
}

func TestPacketSegmentsIterates(t *testing.T) {
	for _, tt := range []struct {
		data    string
		segment int
		want    []string
	}{
		{"", 0, []string{""}},
		{"abc", 0, []string{"abc"}},
		{"abcdef", 3, []string{"abc", "def"}},
		{"abcde", 3, []string{"abc", "de"}},
		{"abc", 3, []string{"abc"}},
	} {
		p := Packet{Data: []byte(tt.data), Segment: tt.segment}
		var got []string
		for s := range p.Segments() {
			got = append(got, string(s))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q in segments of %d: %q", tt.data, tt.segment, got)
		}
	}
	for range (&Packet{Data: []byte("abcdef"), Segment: 2}).Segments() {
		break
	}
}
