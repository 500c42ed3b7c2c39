// Command blocking serves connections by functions that block, package plain's and
// fasthttp's: on goroutines over Go's net, or on fibers of example.com/ringnet/net
// with one loop. Whatever it is run on, the program is the same.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"

	"example.com/ringnet/bench/internal/certificate"
	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/plain"
)

// function serves a connection. Beyond reading and writing it may want another
// connection, and something to run beside it.
type function func(c net.Conn, dial func(addr string) (net.Conn, error), spawn func(func())) error

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on: HOST:PORT or unix:PATH")
	on := flag.String("on", "fibers", "what functions run on: fibers, or std (goroutines over Go's net)")
	what := flag.String("serve", "echo", "what they do: echo (Read and Write), copy (io.Copy to itself), page (fasthttp) or proxy (to -to)")
	buf := flag.Int("buf", 4096, "echo: bytes in each connection's buffer")
	size := flag.Int("size", 1024, "page: bytes in its body")
	to := flag.String("to", "", "proxy: address of the server behind")
	cert := flag.String("tls", "", "wrap connections in TLS, with the certificate and key in this file")
	within := flag.Bool("within", false, "fibers, -tls: the library's TLS is around the function, which then has no part in it; else the function calls crypto/tls")
	engine := flag.String("engine", "auto", "fibers: what drives the loop: auto, uring or epoll")
	spin := flag.Duration("spin", 0, "fibers: how long to look for completions before sleeping; 0 is the library's default, negative is never")
	flag.Parse()

	var config *tls.Config
	if *cert != "" {
		var err error
		if config, err = certificate.Config(*cert); err != nil {
			control.Fail(err)
		}
	}
	if *within && (config == nil || *on != "fibers") {
		control.Fail(errors.New("-within: it needs -tls and -on fibers"))
	}
	alone := func(f func(net.Conn) error) function {
		if config != nil && !*within {
			f = plain.Secured(config, f)
		}
		return func(c net.Conn, _ func(string) (net.Conn, error), _ func(func())) error { return f(c) }
	}
	var f function
	switch *what {
	case "echo":
		f = alone(plain.Echo(*buf))
	case "copy":
		f = alone(plain.Copy)
	case "page":
		s := newPages(*size)
		if *on == "std" {
			pagesOnStd(*addr, s)
		}
		f = alone(s.ServeConn)
	case "proxy":
		f = func(c net.Conn, dial func(string) (net.Conn, error), spawn func(func())) error {
			return plain.Proxy(c, func() (net.Conn, error) { return dial(*to) }, spawn)
		}
	default:
		control.Fail(fmt.Errorf("-serve %q: use echo, copy, page or proxy", *what))
	}
	switch *on {
	case "std":
		onStd(*addr, f)
	case "fibers":
		if !*within {
			config = nil
		}
		onFibers(*addr, *engine, *spin, config, f)
	default:
		control.Fail(fmt.Errorf("-on %q: use fibers or std", *on))
	}
}
