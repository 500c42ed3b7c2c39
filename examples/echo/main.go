//go:build linux

// Echo sends back what it receives, in either of two styles: by callbacks, without
// copying it (the buffer that the kernel filled is the buffer that it sends from), or by
// a function that reads and writes as one for std's net would.
//
//	go run ./examples/echo
//	go run ./examples/echo -style blocking
//	printf 'hello\n' | nc -N 127.0.0.1 9000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

type echo struct{ net.Events }

func (echo) OnData(c *net.Conn, b []byte) int {
	if lease, err := c.Detach(); err == nil {
		_ = c.Send(lease) // refused only when c is closing, which OnClose tells
	}
	return len(b)
}

// blocking is the other style.
func blocking(c *net.Stream) error {
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return err
		}
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
	}
}

// drainTime is how long open connections may take to end after a signal.
const drainTime = 5 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:9000", "address to listen on, host:port")
	loops := flag.Int("loops", runtime.GOMAXPROCS(0), "event loops, one thread each")
	engine := flag.String("engine", "auto", "what drives the loops: auto, uring or epoll")
	style := flag.String("style", "callback", "how it is written: callback or blocking")
	flag.Parse()
	var handler net.Handler
	switch *style {
	case "callback":
		handler = echo{}
	case "blocking":
		handler = net.Blocking(blocking)
	default:
		return fmt.Errorf("-style is %q: it must be callback or blocking", *style)
	}
	kind, err := ring.ParseEngine(*engine)
	if err != nil {
		return err
	}

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	srv := &net.Server{Handler: handler, Options: net.Options{Loops: *loops, Engine: kind}}
	if err := srv.Start(*addr); err != nil {
		return err
	}
	fmt.Printf("echo on %v, %d loops\nengine: %v\n", srv.Addrs()[0], len(srv.LoopStats()), srv.Engine())

	<-stop.Done()
	cancel() // a second signal ends the program at once

	ctx, cancelDrain := context.WithTimeout(context.Background(), drainTime)
	defer cancelDrain()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s := srv.Stats()
	fmt.Printf("connections: %d accepted, %d closed\nbytes: %d received, %d sent\n",
		s.Accepted, s.Closed, s.BytesReceived, s.BytesSent)
	fmt.Printf("enters: %d for %d completions; parked for buffers: %d; to bulk: %d, back: %d\n",
		s.Ring.Enters, s.Ring.Completions, s.Starved, s.ToBulk, s.ToSmall)
	return nil
}
