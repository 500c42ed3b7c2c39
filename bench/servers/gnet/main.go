// Command gnet is servers on panjf2000/gnet with one event loop.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on: HOST:PORT, udp:HOST:PORT or unix:PATH")
	edge := flag.Bool("edge", false, "edge-triggered epoll")
	end := flag.Int("close", 0, "close each connection after so many bytes; 0: when the peer does")
	p := poster{}
	flag.IntVar(&p.conns, "post", 0, "send messages to so many connections, and echo nothing")
	flag.IntVar(&p.size, "size", 64, "-post: bytes in a message")
	flag.IntVar(&p.window, "window", 16, "-post: messages that may be unacknowledged")
	flag.Bool("broadcast", false, "-post: each message to all connections at once; here that is one after the other anyway")
	flag.Parse()

	network, address := control.Network(*addr)
	b := booter{network: network, address: address}
	var handler gnet.EventHandler
	switch {
	case p.conns > 0:
		p.booter = b
		handler = p.start()
	case *end > 0:
		handler = &closer{booter: b, size: *end}
	default:
		handler = &echo{booter: b}
	}
	// One loop that also accepts: with SO_REUSEPORT gnet needs no second
	// reactor, and the one thread there is has one core.
	err := gnet.Run(handler, network+"://"+address,
		gnet.WithMulticore(false), gnet.WithNumEventLoop(1), gnet.WithReusePort(network != "unix"), gnet.WithLockOSThread(true),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay), gnet.WithEdgeTriggeredIO(*edge), gnet.WithLogger(quiet{}))
	if err != nil {
		control.Fail(err)
	}
}

// booter tells the address once the server listens.
type booter struct {
	gnet.BuiltinEventEngine
	network, address string
}

// OnBoot tells the address, which only the listener's descriptor knows when the
// system chose the port.
func (b booter) OnBoot(e gnet.Engine) gnet.Action {
	if b.network == "unix" {
		go control.Serve(nil, control.Addr{Network: b.network, Address: b.address})
		return gnet.None
	}
	fd, err := e.Dup()
	if err != nil {
		control.Fail(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		control.Fail(fmt.Errorf("listener's address: %w", err))
	}
	a, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		control.Fail(fmt.Errorf("listener's address is %T: give an IPv4 address", sa))
	}
	local := &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
	go control.Serve(nil, control.Addr{Network: b.network, Address: local.String()})
	return gnet.None
}

type echo struct{ booter }

// OnTraffic writes back what has come, bytes or one datagram. Write sends at once
// from the loop's buffer and keeps a copy only of what the socket does not take.
func (*echo) OnTraffic(c gnet.Conn) gnet.Action {
	b, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := c.Write(b); err != nil {
		return gnet.Close
	}
	return gnet.None
}

// closer answers one message on each connection, and closes it.
type closer struct {
	booter
	size int
}

func (h *closer) OnTraffic(c gnet.Conn) gnet.Action {
	if c.InboundBuffered() < h.size {
		return gnet.None
	}
	if b, err := c.Next(h.size); err == nil {
		_, _ = c.Write(b)
	}
	return gnet.Close
}

// quiet is a logger that tells only errors, and not on standard output, which
// belongs to the runner.
type quiet struct{}

func (quiet) Debugf(string, ...any) {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warnf(string, ...any)  {}

func (quiet) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (quiet) Fatalf(format string, args ...any) { control.Fail(fmt.Errorf(format, args...)) }
