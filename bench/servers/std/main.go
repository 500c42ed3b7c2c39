// Command std is the servers that Go's own net package suggests: a goroutine and a
// buffer for each connection, and one goroutine for datagrams.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"

	"example.com/ringnet/bench/internal/control"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on: HOST:PORT, udp:HOST:PORT or unix:PATH")
	buf := flag.Int("buf", 4096, "bytes in each connection's buffer")
	end := flag.Int("close", 0, "close each connection after so many bytes; 0: when the peer does")
	p := poster{}
	flag.IntVar(&p.conns, "post", 0, "send messages to so many connections, and echo nothing")
	flag.IntVar(&p.size, "size", 64, "-post: bytes in a message")
	flag.IntVar(&p.window, "window", 16, "-post: messages that may be unacknowledged")
	flag.Bool("broadcast", false, "-post: each message to all connections at once; here that is one after the other anyway")
	content := flag.String("content", "", "address to serve content on")
	file := flag.String("file", "", "file that the content comes from; default: memory")
	flag.Parse()

	network, address := control.Network(*addr)
	if network == "udp" {
		control.Serve(nil, echoDatagrams(address))
	}
	serve := func(c net.Conn) { echo(c, *buf) }
	switch {
	case p.conns > 0:
		serve = p.start()
	case *end > 0:
		serve = func(c net.Conn) { echoOnce(c, *end) }
	}
	local := []fmt.Stringer{listen(network, address, serve)}
	if *content != "" {
		local = append(local, listen("tcp", *content, newContent(*file).serve))
	}
	control.Serve(nil, local...)
}

// listen gives each connection to serve, on a goroutine of its own.
func listen(network, address string, serve func(net.Conn)) fmt.Stringer {
	l, err := net.Listen(network, address)
	if err != nil {
		control.Fail(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				control.Fail(err)
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return control.Addr{Network: network, Address: l.Addr().String()}
}

// echo serves one connection. TCP_NODELAY is on by default.
func echo(c net.Conn, buf int) {
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

// echoOnce answers one message.
func echoOnce(c net.Conn, size int) {
	b := make([]byte, size)
	if _, err := io.ReadFull(c, b); err == nil {
		_, _ = c.Write(b)
	}
}

// echoDatagrams answers each datagram where it came from.
func echoDatagrams(address string) fmt.Stringer {
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		control.Fail(err)
	}
	c := p.(*net.UDPConn)
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				control.Fail(err)
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from) // a lost answer is the receiver's to count
		}
	}()
	return control.Addr{Network: "udp", Address: c.LocalAddr().String()}
}
