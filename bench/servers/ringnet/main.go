// Command ringnet is an echo server on example.com/ringnet/net with one loop.
package main

import (
	"flag"
	"fmt"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	style := flag.String("style", "send", "how to echo: send (Detach and Send, no copy) or write (Write, a copy)")
	spin := flag.Duration("spin", 0, "how long to look for completions before sleeping; 0 is the library's default, negative is never")
	bulk := flag.Bool("bulk", true, "let connections change to direct receives for large messages")
	engine := flag.String("engine", "auto", "what drives the loop: auto, uring or epoll")
	flag.Parse()
	kind, err := ring.ParseEngine(*engine)
	if err != nil {
		control.Fail(err)
	}

	var handler net.Handler
	switch *style {
	case "send":
		handler = sender{}
	case "write":
		handler = writer{}
	default:
		control.Fail(fmt.Errorf("-style %q: use send or write", *style))
	}
	s := &net.Server{Handler: handler, Options: net.Options{Engine: kind, Loops: 1, Spin: *spin, NoBulk: !*bulk, CloseTimeout: time.Second}}
	if err := s.Start(*addr); err != nil {
		control.Fail(err)
	}
	control.Serve(s.Addrs()[0], func() any {
		all := s.Stats()
		return stats{Stats: control.Stats{Enters: &all.Ring.Enters}, Net: all}
	})
}

// stats adds all of the library's counters to what every server tells.
type stats struct {
	control.Stats
	Net net.Stats `json:"net"`
}

// sender sends the buffer that the kernel filled.
type sender struct{ net.Events }

func (sender) OnData(c *net.Conn, b []byte) int {
	if lease, err := c.Detach(); err == nil {
		_ = c.Send(lease) // refused only when c is closing
	}
	return len(b)
}

// writer writes a copy.
type writer struct{ net.Events }

func (writer) OnData(c *net.Conn, b []byte) int {
	if _, err := c.Write(b); err != nil {
		c.Abort(err)
	}
	return len(b)
}
