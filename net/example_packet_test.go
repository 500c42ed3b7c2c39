//go:build linux

package net_test

import (
	"context"
	"fmt"
	stdnet "net"

	"example.com/ringnet/net"
)

type packetEcho struct{}

// OnPacket is lent a datagram, in the buffer that the kernel filled.
func (packetEcho) OnPacket(s *net.Socket, p *net.Packet) {
	_, _ = p.Reply(p.Data) // what a turn of the loop writes goes out together
}

// A UDP echo: one socket on each loop, and the kernel divides the senders among them.
func ExamplePacketHandler() {
	srv := &net.Server{Packets: packetEcho{}}
	if err := srv.Start("udp:127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Shutdown(context.Background())

	c, err := stdnet.Dial("udp", srv.PacketAddrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	b := make([]byte, 100)
	n, _ := c.Read(b)
	fmt.Printf("%s\n", b[:n])
	// Output: hello
}

type sensors struct{ seen chan string }

func (h sensors) OnPacket(s *net.Socket, p *net.Packet) { h.seen <- string(p.Data) }

// Other goroutines hold a reference to a socket.
func ExampleServer_DialPacket() {
	h := sensors{make(chan string, 1)}
	srv := &net.Server{Packets: h}
	if err := srv.Start("udp:127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	ref, err := srv.DialPacket(srv.PacketAddrs()[0].String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = ref.Post(func(s *net.Socket) { _, _ = s.Write([]byte("21.5 °C")) })
	fmt.Println(<-h.seen)
	// Output: 21.5 °C
}
