// Command ringnet is servers on example.com/ringnet/net with one loop.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"example.com/ringnet/bench/internal/certificate"
	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on: HOST:PORT, udp:HOST:PORT or unix:PATH")
	style := flag.String("style", "send", "how to echo: send (Detach and Send, no copy) or write (Write, a copy)")
	spin := flag.Duration("spin", 0, "how long to look for completions before sleeping; 0 is the library's default, negative is never")
	bulk := flag.Bool("bulk", true, "let connections change to direct receives for large messages")
	engine := flag.String("engine", "auto", "what drives the loop: auto, uring or epoll")
	end := flag.Int("close", 0, "close each connection after so many bytes; 0: when the peer does")
	p := &poster{}
	flag.IntVar(&p.conns, "post", 0, "send messages to so many connections, and echo nothing")
	flag.IntVar(&p.size, "size", 64, "-post: bytes in a message")
	flag.IntVar(&p.window, "window", 16, "-post: messages that may be unacknowledged")
	flag.BoolVar(&p.broadcast, "broadcast", false, "-post: each message to all connections at once, by Broadcast")
	zeroCopy := flag.Int("zerocopy", 0, "send without a copy from so many bytes on; 0 is the library's default, negative is never")
	at := flag.String("content", "", "address to serve content on")
	how := flag.String("how", "write", "how content is sent out of memory: write (Write, a copy) or static (SendStatic)")
	file := flag.String("file", "", "file that the content comes from, by SendFile; default: memory")
	cert := flag.String("tls", "", "speak TLS, with the certificate and key in this file")
	flag.Parse()
	kind, err := ring.ParseEngine(*engine)
	if err != nil {
		control.Fail(err)
	}

	s := &net.Server{Options: net.Options{Engine: kind, Loops: 1, Spin: *spin, NoBulk: !*bulk, ZeroCopyFrom: *zeroCopy, CloseTimeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	s.Packets = repeater{}
	addrs := []string{*addr}
	var handler net.Handler
	switch {
	case p.conns > 0:
		handler = p.start(s)
	case *end > 0:
		handler = closer{size: *end}
	case *style == "send":
		handler = sender{}
	case *style == "write":
		handler = writer{}
	default:
		control.Fail(fmt.Errorf("-style %q: use send or write", *style))
	}
	var held *content
	if *at != "" {
		addrs = append(addrs, *at)
		held = newContent(s, *how, *file)
		handler = &both{Handler: handler, server: s, content: held}
	}
	if *cert != "" {
		config, err := certificate.Config(*cert)
		if err != nil {
			control.Fail(err)
		}
		handler = net.TLS(config, handler)
	}
	s.Handler = handler
	if err := s.Start(addrs...); err != nil {
		control.Fail(err)
	}
	var local []fmt.Stringer
	for _, a := range s.PacketAddrs() {
		local = append(local, control.Addr{Network: "udp", Address: a.String()})
	}
	for _, a := range s.Addrs() {
		local = append(local, a)
	}
	control.Serve(func() any {
		all := s.Stats()
		told := stats{Stats: control.Stats{Enters: &all.Ring.Enters, Heap: control.Heap()}, Net: all}
		if held != nil {
			told.Bound = held.bound()
		}
		return told
	}, local...)
}

// stats adds all of the library's counters to what every server tells.
type stats struct {
	control.Stats
	Net net.Stats `json:"net"`
}
