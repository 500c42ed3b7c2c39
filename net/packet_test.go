//go:build linux

package net

import (
	stdnet "net"
	"testing"
	"time"
)

type packetFunc func(s *Socket, p *Packet)

func (f packetFunc) OnPacket(s *Socket, p *Packet) { f(s, p) }

func TestPacketEchoSmoke(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := &server{t: t, log: &logbook{}, before: footprintNow(t)}
		srv.Server = &Server{Options: v.Options, Packets: packetFunc(func(s *Socket, p *Packet) {
			if _, err := p.Reply(p.Data); err != nil {
				t.Error(err)
			}
		})}
		if err := srv.Start("udp:127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.stop)
		c, err := stdnet.Dial("udp", srv.PacketAddrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 50 {
			want := payload(uint64(i), i*10%200)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			got := make([]byte, 3000)
			n, err := c.Read(got)
			if err != nil {
				t.Fatal(i, err)
			}
			if err := differ(got[:n], want); err != nil {
				t.Fatal(err)
			}
		}
	})
}
