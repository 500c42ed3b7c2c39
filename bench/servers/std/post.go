package main

import (
	"net"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
)

// poster sends the same messages to every connection, from a goroutine of its own,
// by Write.
type poster struct {
	conns, size, window int
}

// start begins when as many connections are open as were asked for. What it
// returns serves one of them: it counts acknowledgements.
func (p *poster) start() func(net.Conn) {
	opened := make(chan net.Conn)
	acks := control.NewAcks(p.conns, p.window)
	go func() {
		var all []net.Conn
		for range p.conns {
			all = append(all, <-opened)
		}
		for messages := payload.NewMessages(p.size); ; {
			acks.Wait()
			b := messages.Next()
			for _, c := range all {
				if _, err := c.Write(b); err != nil {
					return // the load has ended
				}
			}
		}
	}()
	return func(c net.Conn) {
		opened <- c
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			acks.Add(b[:n])
		}
	}
}
