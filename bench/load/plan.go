package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// plan is what the flags ask for.
type plan struct {
	addr     netip.AddrPort
	mode     string        // echo or idle
	conns    int           // connections
	sizes    []int         // of messages, in bytes, in turn
	burst    int           // messages of one size before the next size
	pipeline int           // messages in flight per connection, in a closed loop
	rate     float64       // requests per second over all connections; 0: closed loop
	warmup   time.Duration // before the measured window
	window   time.Duration // the measured window
	steps    int           // idle: in how many equal steps the connections open
	driver   string        // ringed, direct, or auto: by the largest size
}

// ringedBytes is the largest message that the ringed driver is chosen for. From
// about this size on, chopping a message up into ring buffers costs more than
// the system calls of the direct driver.
const ringedBytes = 8 << 10

// maxMessage bounds a message; the positions in the pattern and the chunks are
// made for it.
const maxMessage = 64 << 20

func parsePlan(args []string) (plan, error) {
	var p plan
	var addr, sizes string
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.StringVar(&addr, "addr", "", "server's address, HOST:PORT")
	fs.StringVar(&p.mode, "mode", "echo", "echo, or idle: open connections, echo one message on each, hold them")
	fs.IntVar(&p.conns, "conns", 64, "connections")
	fs.StringVar(&sizes, "size", "64", "bytes in a message; several sizes (64,65536) alternate on each connection")
	fs.IntVar(&p.burst, "burst", 16, "messages of one size in a row, when sizes alternate")
	fs.IntVar(&p.pipeline, "pipeline", 1, "messages in flight on each connection")
	fs.Float64Var(&p.rate, "rate", 0, "requests per second over all connections, as an open loop; 0 is a closed loop")
	fs.DurationVar(&p.warmup, "warmup", time.Second/2, "time before the measured window")
	fs.DurationVar(&p.window, "window", 3*time.Second, "measured window")
	fs.IntVar(&p.steps, "steps", 2, "idle mode: open the connections in so many steps")
	fs.StringVar(&p.driver, "driver", "auto", "how to send and receive: ringed, direct or auto")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	var err error
	if p.addr, err = netip.ParseAddrPort(addr); err != nil {
		return p, fmt.Errorf("-addr %q: %w: give an IP address and a port, such as 127.0.0.1:9000", addr, err)
	}
	for s := range strings.SplitSeq(strings.ReplaceAll(sizes, "+", ","), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > maxMessage {
			return p, fmt.Errorf("-size %q: %q is not a number of bytes from 1 to %d", sizes, s, maxMessage)
		}
		p.sizes = append(p.sizes, n)
	}
	return p, p.check()
}

func (p *plan) check() error {
	switch {
	case p.mode != "echo" && p.mode != "idle":
		return fmt.Errorf("-mode %q: use echo or idle", p.mode)
	case p.conns < 1 || p.conns > 1<<20:
		return fmt.Errorf("-conns %d: it must be from 1 to %d", p.conns, 1<<20)
	case p.burst < 1:
		return fmt.Errorf("-burst %d: it must be at least 1", p.burst)
	case p.pipeline < 1 || p.pipeline > maxInFlight:
		return fmt.Errorf("-pipeline %d: it must be from 1 to %d", p.pipeline, maxInFlight)
	case p.rate < 0 || p.rate > 1e8:
		return fmt.Errorf("-rate %g: it must be from 0 to 1e8 requests per second", p.rate)
	case p.warmup < 0 || p.window <= 0:
		return errors.New("-warmup must not be negative and -window must be positive")
	case p.mode == "idle" && (p.steps < 1 || p.steps > p.conns):
		return fmt.Errorf("-steps %d: it must be from 1 to the number of connections", p.steps)
	}
	switch p.driver {
	case "ringed", "direct":
	case "auto":
		p.driver = "direct"
		if p.largest() <= ringedBytes {
			p.driver = "ringed"
		}
	default:
		return fmt.Errorf("-driver %q: use ringed, direct or auto", p.driver)
	}
	return nil
}

// largest is the largest message.
func (p *plan) largest() int {
	n := 0
	for _, s := range p.sizes {
		n = max(n, s)
	}
	return n
}
