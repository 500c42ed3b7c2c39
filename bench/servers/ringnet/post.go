package main

import (
	"errors"
	"runtime"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/net"
)

// poster sends the same messages to every connection, from a goroutine of its own:
// by Ref.Send to one after the other, or by Broadcast to all at once.
type poster struct {
	net.Events
	conns, size, window int
	broadcast           bool
	server              *net.Server
	acks                *control.Acks
	opened              chan net.Ref
}

func (p *poster) start(s *net.Server) *poster {
	p.server = s
	p.acks = control.NewAcks(p.conns, p.window)
	p.opened = make(chan net.Ref, p.conns)
	go p.post()
	return p
}

// post begins when as many connections are open as were asked for.
func (p *poster) post() {
	var all []net.Ref
	for range p.conns {
		all = append(all, <-p.opened)
	}
	send := p.sendEach
	if p.broadcast {
		send = p.sendAll
	}
	for messages := payload.NewMessages(p.size); ; {
		p.acks.Wait()
		if !send(all, messages.Next()) {
			return // the load has ended
		}
	}
}

// sendEach reports false when a connection has ended. A full mailbox empties within
// a turn of the loop, which has to have the core for it.
func (p *poster) sendEach(all []net.Ref, b []byte) bool {
	for _, r := range all {
		err := r.Send(b)
		for ; errors.Is(err, net.ErrBusy); err = r.Send(b) {
			runtime.Gosched()
		}
		if err != nil {
			return false
		}
	}
	return true
}

func (p *poster) sendAll(all []net.Ref, b []byte) bool {
	m := net.NewMessage(b)
	n, err := p.server.Broadcast(all, m)
	for ; errors.Is(err, net.ErrBusy); n, err = p.server.Broadcast(all, m) {
		runtime.Gosched()
	}
	return err == nil && n == len(all)
}

func (p *poster) OnOpen(c *net.Conn) { p.opened <- c.Ref() }

// OnData counts acknowledgements.
func (p *poster) OnData(_ *net.Conn, b []byte) int {
	p.acks.Add(b)
	return len(b)
}
