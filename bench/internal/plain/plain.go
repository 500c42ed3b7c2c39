// Package plain is ordinary functions for connections, as people write them for
// Go's own net package, of which alone they know. Benchmarks run the same ones on a
// goroutine over net and on a fiber.
package plain

import (
	"crypto/tls"
	"io"
	"net"
)

// Echo makes a function that writes back what it reads, by way of a buffer.
func Echo(buf int) func(net.Conn) error {
	return func(c net.Conn) error {
		b := make([]byte, buf)
		for {
			n, err := c.Read(b)
			if n > 0 {
				if _, err := c.Write(b[:n]); err != nil {
					return err
				}
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// Copy writes back what it reads, in whatever way the connection has for that.
func Copy(c net.Conn) error {
	_, err := io.Copy(c, c)
	return err
}

// Secured wraps a function's connections in TLS.
func Secured(config *tls.Config, f func(net.Conn) error) func(net.Conn) error {
	return func(c net.Conn) error {
		s := tls.Server(c, config)
		defer s.Close()
		return f(s)
	}
}

// Proxy joins a connection with another one that it dials, by a copy in each
// direction; spawn runs one of them beside this function. A peer that ends its
// direction ends it for the other peer as well.
func Proxy(c net.Conn, dial func() (net.Conn, error), spawn func(func())) error {
	up, err := dial()
	if err != nil {
		return err
	}
	defer up.Close()
	spawn(func() { _ = forward(up, c) }) // ends when one of them is closed, at the latest
	return forward(c, up)
}

// forward copies until the end of the stream, and passes that on.
func forward(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return to.Close()
}
