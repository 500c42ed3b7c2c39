package main

import (
	"github.com/panjf2000/gnet/v2"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
)

// poster sends the same messages to every connection, from a goroutine of its own,
// by AsyncWrite. That keeps a reference to the message and takes no copy.
type poster struct {
	booter
	conns, size, window int
	acks                *control.Acks
	opened              chan gnet.Conn
}

func (p *poster) start() *poster {
	p.acks = control.NewAcks(p.conns, p.window)
	p.opened = make(chan gnet.Conn, p.conns)
	go p.post()
	return p
}

// post begins when as many connections are open as were asked for.
func (p *poster) post() {
	var all []gnet.Conn
	for range p.conns {
		all = append(all, <-p.opened)
	}
	for messages := payload.NewMessages(p.size); ; {
		p.acks.Wait()
		b := messages.Next()
		for _, c := range all {
			if err := c.AsyncWrite(b, nil); err != nil {
				return // the load has ended
			}
		}
	}
}

func (p *poster) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	p.opened <- c
	return nil, gnet.None
}

// OnTraffic counts acknowledgements.
func (p *poster) OnTraffic(c gnet.Conn) gnet.Action {
	b, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	p.acks.Add(b)
	return gnet.None
}
