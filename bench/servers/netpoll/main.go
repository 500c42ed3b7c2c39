// Command netpoll is an echo server on cloudwego/netpoll with one poller.
package main

import (
	"context"
	"flag"

	"github.com/cloudwego/netpoll"

	"example.com/ringnet/bench/internal/control"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	if err := netpoll.Configure(netpoll.Config{PollerNum: 1}); err != nil {
		control.Fail(err)
	}
	l, err := netpoll.CreateListener("tcp", *addr)
	if err != nil {
		control.Fail(err)
	}
	loop, err := netpoll.NewEventLoop(echo)
	if err != nil {
		control.Fail(err)
	}
	go func() { control.Fail(loop.Serve(l)) }()
	control.Serve(nil, l.Addr())
}

// echo is called on a pooled goroutine when data has come, and not again for the
// connection before it returns. TCP_NODELAY is on by default.
func echo(_ context.Context, c netpoll.Connection) error {
	r, w := c.Reader(), c.Writer()
	b, err := r.Next(r.Len())
	if err != nil {
		return err
	}
	// WriteBinary keeps a reference to b when it is large; Flush returns when it
	// is sent, and only then may the reader have the memory back.
	if _, err := w.WriteBinary(b); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.Release()
}
