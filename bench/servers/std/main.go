// Command std is the echo server that Go's own net package suggests: a goroutine
// and a buffer for each connection.
package main

import (
	"flag"
	"net"

	"example.com/ringnet/bench/internal/control"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	buf := flag.Int("buf", 4096, "bytes in each connection's buffer")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		control.Fail(err)
	}
	go accept(l, *buf)
	control.Serve(l.Addr(), nil)
}

func accept(l net.Listener, buf int) {
	for {
		c, err := l.Accept()
		if err != nil {
			control.Fail(err)
		}
		go echo(c, buf)
	}
}

// echo serves one connection. TCP_NODELAY is on by default.
func echo(c net.Conn, buf int) {
	defer c.Close()
	b := make([]byte, buf)
	for {
		n, err := c.Read(b)
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
