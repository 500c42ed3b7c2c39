// Command gnet is an echo server on panjf2000/gnet with one event loop.
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
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	edge := flag.Bool("edge", false, "edge-triggered epoll")
	flag.Parse()
	// One loop that also accepts: with SO_REUSEPORT gnet needs no second
	// reactor, and the one thread there is has one core.
	err := gnet.Run(&server{}, "tcp://"+*addr,
		gnet.WithMulticore(false), gnet.WithNumEventLoop(1), gnet.WithReusePort(true), gnet.WithLockOSThread(true),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay), gnet.WithEdgeTriggeredIO(*edge), gnet.WithLogger(quiet{}))
	if err != nil {
		control.Fail(err)
	}
}

type server struct{ gnet.BuiltinEventEngine }

// OnBoot tells the address, which only the listener's descriptor knows when the
// system chose the port.
func (*server) OnBoot(e gnet.Engine) gnet.Action {
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
	go control.Serve(&net.TCPAddr{IP: a.Addr[:], Port: a.Port}, nil)
	return gnet.None
}

// OnTraffic writes back what has come. Write sends at once from the loop's
// buffer and keeps a copy only of what the socket does not take.
func (*server) OnTraffic(c gnet.Conn) gnet.Action {
	b, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := c.Write(b); err != nil {
		return gnet.Close
	}
	return gnet.None
}

// quiet is a logger that tells only errors, and not on standard output, which
// belongs to the runner.
type quiet struct{}

func (quiet) Debugf(string, ...any) {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warnf(string, ...any)  {}

func (quiet) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (quiet) Fatalf(format string, args ...any) { control.Fail(fmt.Errorf(format, args...)) }
