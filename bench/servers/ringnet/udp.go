package main

import "example.com/ringnet/net"

// repeater answers each datagram where it came from.
type repeater struct{}

func (repeater) OnPacket(_ *net.Socket, p *net.Packet) {
	_, _ = p.Reply(p.Data) // a lost answer is the receiver's to count
}
