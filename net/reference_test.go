//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	stdnet "net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/ringnet/ring"
)

// What a peer sees of a server must not depend on how that is made: each service
// is written once for std's net, which is the reference, and once for ours, and
// each client tells what it sees of both.

// service is the same thing twice.
type service struct {
	name string
	hard bool // it ends before anything was said: what a client that says something sees is chance
	std  func(c *stdnet.TCPConn)
	ours script
}

const banner = "hello, who is there?\n"

var services = []service{
	{
		name: "echo",
		std: func(c *stdnet.TCPConn) {
			_, _ = io.Copy(onlyWriter{c}, onlyReader{c})
			_ = c.Close()
		},
		ours: script{data: func(c *Conn, b []byte) int { _, _ = c.Write(b); return len(b) }},
	},
	{
		name: "banner, then echo",
		std: func(c *stdnet.TCPConn) {
			_, _ = c.Write([]byte(banner))
			_, _ = io.Copy(onlyWriter{c}, onlyReader{c})
			_ = c.Close()
		},
		ours: script{
			open: func(c *Conn) { _, _ = c.Write([]byte(banner)) },
			data: func(c *Conn, b []byte) int { _, _ = c.Write(b); return len(b) },
		},
	},
	{
		name: "banner and the end of our direction, then a count",
		std: func(c *stdnet.TCPConn) {
			_, _ = c.Write([]byte(banner))
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, onlyReader{c})
			_ = c.Close()
		},
		ours: script{
			open: func(c *Conn) { _, _ = c.Write([]byte(banner)); _ = c.CloseWrite() },
			data: func(c *Conn, b []byte) int { return len(b) },
		},
	},
	{
		name: "an answer of a megabyte to each byte, closed after the third",
		std: func(c *stdnet.TCPConn) {
			b := make([]byte, 1)
			for range 3 {
				if _, err := io.ReadFull(c, b); err != nil {
					break
				}
				_, _ = c.Write(payload(uint64(b[0]), 1<<20))
			}
			_ = c.Close()
		},
		ours: script{data: func(c *Conn, b []byte) int {
			n, _ := c.Context().(int)
			for i, k := range b {
				_, _ = c.Write(payload(uint64(k), 1<<20))
				if n++; n == 3 {
					c.Close()
					return i + 1
				}
			}
			c.SetContext(n)
			return len(b)
		}},
	},
	{
		name: "close at once",
		hard: true,
		std:  func(c *stdnet.TCPConn) { _ = c.Close() },
		ours: script{open: func(c *Conn) { c.Close() }},
	},
	{
		name: "reset at once",
		hard: true,
		std:  func(c *stdnet.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
		ours: script{open: func(c *Conn) { _ = c.SetLinger(0); c.Close() }},
	},
}

// onlyReader and onlyWriter keep io.Copy from splicing.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// clients do something and tell what they see.
var clients = []struct {
	name   string
	silent bool
	do     func(c *stdnet.TCPConn, see func(format string, args ...any))
}{
	{name: "end at once", do: func(c *stdnet.TCPConn, see func(string, ...any)) {
		_ = c.CloseWrite()
		seeRest(c, see)
	}},
	{name: "three bytes one by one, and wait for the end", do: func(c *stdnet.TCPConn, see func(string, ...any)) {
		for _, b := range []byte("abc") {
			_, _ = c.Write([]byte{b}) // may be refused when the server has gone
			time.Sleep(time.Millisecond)
		}
		_ = c.CloseWrite()
		seeRest(c, see)
	}},
	{name: "three bytes together, while reading", do: func(c *stdnet.TCPConn, see func(string, ...any)) {
		go func() {
			_, _ = c.Write(bytes.Repeat([]byte("x"), 3))
			_ = c.CloseWrite()
		}()
		seeRest(c, see)
	}},
	{name: "only reading", silent: true, do: func(c *stdnet.TCPConn, see func(string, ...any)) {
		// What comes unasked, if anything.
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		seeRest(c, see)
	}},
}

// seeRest reads to the end and tells what came and how it ended.
func seeRest(c *stdnet.TCPConn, see func(string, ...any)) {
	got, err := io.ReadAll(c)
	see("%d bytes, sum %08x, %s", len(got), crc32.ChecksumIEEE(got), ending(err))
}

func ending(err error) string {
	switch {
	case err == nil:
		return "end of stream"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	default:
		var timeout stdnet.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "nothing more"
		}
		return err.Error()
	}
}

func TestPeersSeeWhatTheySeeOfStd(t *testing.T) {
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) {
			std := stdServer(t, s.std)
			var ours []netip.AddrPort
			var names []string
			for _, o := range []Options{
				{Loops: 1, poison: true},
				{Loops: 1, poison: true, Mask: maskAll},
				{Loops: 1, poison: true, Engine: ring.Epoll},
			} {
				srv := serve(t, o, s.ours)
				ours = append(ours, srv.addr().AddrPort())
				names = append(names, fmt.Sprintf("%v without %v", srv.Engine().Kind, o.Mask))
			}
			for _, c := range clients {
				if s.hard && !c.silent {
					continue
				}
				want := transcript(t, std, c.do)
				for i, addr := range ours {
					if got := transcript(t, addr, c.do); got != want {
						t.Errorf("%s, of %s:\n%swhat std gives:\n%s", c.name, names[i], got, want)
					}
				}
			}
		})
	}
}

// transcript is what a client sees.
func transcript(t *testing.T, addr netip.AddrPort, do func(*stdnet.TCPConn, func(string, ...any))) string {
	t.Helper()
	conn, err := connect(TCPAddr(addr))
	if errors.Is(err, syscall.ECONNRESET) {
		return "\t0 bytes, sum 00000000, reset\n" // so soon that the connect says it
	}
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*stdnet.TCPConn)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var lines bytes.Buffer
	do(c, func(format string, args ...any) { fmt.Fprintf(&lines, "\t"+format+"\n", args...) })
	return lines.String()
}

// stdServer serves with std's net until the test ends.
func stdServer(t *testing.T, f func(*stdnet.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { f(c.(*stdnet.TCPConn)) })
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		conns.Wait()
	})
	return ln.Addr().(*stdnet.TCPAddr).AddrPort()
}
