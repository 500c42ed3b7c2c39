// Command http serves a page by net/http: on Go's net, or on connections that a loop of
// example.com/ringnet/net has handed over. Whatever it is, net/http is the same.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	stdnet "net"
	"net/http"
	"os"
	"strconv"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/page"
	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on: HOST:PORT or unix:PATH")
	on := flag.String("on", "accept", "how net/http gets its connections: accept (handed over as they are accepted), sniff (handed over by their first bytes) or std")
	size := flag.Int("size", 1024, "bytes in the page's body")
	engine := flag.String("engine", "auto", "what drives the loop: auto, uring or epoll")
	flag.Parse()

	l := &net.HandOverListener{}
	var handler net.Handler
	switch *on {
	case "std":
		network, address := control.Network(*addr)
		l, err := stdnet.Listen(network, address)
		if err != nil {
			control.Fail(err)
		}
		go serve(l, *size)
		control.Serve(nil, control.Addr{Network: network, Address: l.Addr().String()})
	case "accept":
		handler = l
	case "sniff":
		handler = &net.Sniff{Rules: []net.SniffRule{{Match: net.SniffHTTP1, Handler: l}}}
	default:
		control.Fail(fmt.Errorf("-on %q: use accept, sniff or std", *on))
	}
	kind, err := ring.ParseEngine(*engine)
	if err != nil {
		control.Fail(err)
	}
	s := &net.Server{Handler: handler, Options: net.Options{Engine: kind, Loops: 1,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	if err := s.Start(*addr); err != nil {
		control.Fail(err)
	}
	go serve(l, *size)
	control.Serve(nil, s.Addrs()[0])
}

// serve serves the page. Without a Date: the answer is compared byte by byte.
func serve(l stdnet.Listener, size int) {
	body, length := page.Body(size), strconv.Itoa(size)
	control.Fail(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != page.Path {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h["Date"] = nil
		h.Set("Content-Type", page.Type)
		h.Set("Content-Length", length)
		_, _ = w.Write(body) // who has gone will not miss it
	})))
}
