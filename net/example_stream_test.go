//go:build linux

package net_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	stdnet "net"
	"strings"

	"example.com/ringnet/net"
)

// upcase is an ordinary blocking function, which knows nothing of loops: it would serve
// a connection of the standard library as well.
func upcase(c stdnet.Conn) error {
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprintln(c, strings.ToUpper(lines.Text())); err != nil {
			return err
		}
	}
	return lines.Err()
}

// Each connection's function runs as a fiber on its loop's thread, and gives the thread
// back while it waits in Read or Write.
func ExampleBlocking() {
	srv := &net.Server{Handler: net.Blocking(func(s *net.Stream) error { return upcase(s) })}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	c, err := stdnet.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	answer, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(answer)
	// Output: HELLO
}

// A proxy: each connection dials the server behind, on its own loop, and a second fiber
// copies the other direction. Between two Streams io.Copy moves the buffers that the
// kernel has filled, and copies nothing.
func ExampleStream_Spawn() {
	behind := &net.Server{Handler: net.Blocking(func(s *net.Stream) error { return upcase(s) })}
	if err := behind.Start("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer behind.Close()
	target := behind.Addrs()[0].String()

	proxy := &net.Server{Handler: net.BlockingAtOpen(func(client *net.Stream) error {
		server, err := client.Dial(target, net.Dialer{})
		if err != nil {
			return err
		}
		defer server.Close()
		back, err := client.Spawn(func() error {
			_, err := io.Copy(client, server)
			_ = client.CloseWrite()
			return err
		})
		if err != nil {
			return err
		}
		if _, err := io.Copy(server, client); err != nil {
			return err
		}
		if err := server.CloseWrite(); err != nil {
			return err
		}
		return back.Wait()
	})}
	if err := proxy.Start("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	c, err := stdnet.Dial("tcp", proxy.Addrs()[0].String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "through a proxy")
	_ = c.(*stdnet.TCPConn).CloseWrite()
	all, _ := io.ReadAll(c)
	fmt.Print(string(all))
	// Output: THROUGH A PROXY
}
