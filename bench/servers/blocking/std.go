package main

import (
	"net"

	"example.com/ringnet/bench/internal/control"
)

// onStd gives each connection to f, on a goroutine of its own.
func onStd(addr string, f function) {
	l := listen(addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				control.Fail(err)
			}
			go func() {
				defer c.Close()
				_ = f(c, dialStd, func(f func()) { go f() }) // its end is the peer's
			}()
		}
	}()
	control.Serve(nil, local(l))
}

func dialStd(addr string) (net.Conn, error) {
	network, address := control.Network(addr)
	return net.Dial(network, address)
}

func listen(addr string) net.Listener {
	network, address := control.Network(addr)
	l, err := net.Listen(network, address)
	if err != nil {
		control.Fail(err)
	}
	return l
}

// local is a listener's address, as the runner writes it.
func local(l net.Listener) control.Addr {
	return control.Addr{Network: l.Addr().Network(), Address: l.Addr().String()}
}
