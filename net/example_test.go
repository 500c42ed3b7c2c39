//go:build linux

package net_test

import (
	"bufio"
	"context"
	"fmt"
	stdnet "net"
	"os"
	"path/filepath"
	"time"

	"example.com/ringnet/net"
)

// echoUnix tells who has connected, and echoes.
type echoUnix struct{ net.Events }

func (echoUnix) OnOpen(c *net.Conn) {
	if who, err := c.PeerCredentials(); err != nil || who.UID != uint32(os.Getuid()) {
		c.Close() // only for ourselves
	}
}

func (echoUnix) OnData(c *net.Conn, b []byte) int {
	if _, err := c.Write(b); err != nil {
		c.Abort(err)
	}
	return len(b)
}

// An echo server on a Unix socket, which only its own user may connect to.
func ExampleServer_unix() {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "echo.sock")
	srv := &net.Server{Handler: echoUnix{}, Options: net.Options{UnixMode: 0o600}}
	if err := srv.Start("unix:" + path); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	c, err := stdnet.Dial("unix", path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	line, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	// Output: hello
}

// ask sends a question when it is connected, and hands the answer on.
type ask struct {
	net.Events
	answer chan string
}

func (ask) OnOpen(c *net.Conn) { _, _ = c.Write([]byte("what is it?\n")) }

func (a ask) OnData(c *net.Conn, b []byte) int {
	a.answer <- string(b)
	c.Close()
	return len(b)
}

// A program that only dials has a Client: event loops without listeners.
func ExampleClient() {
	srv := &net.Server{Handler: echoUnix{}}
	if err := srv.Start("unix:@ringnet-example"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	client := &net.Client{Options: net.Options{Loops: 1}}
	if err := client.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	answer := make(chan string, 1)
	err := client.DialContext(context.Background(), "unix:@ringnet-example", net.Dialer{
		Handler: ask{answer: answer},
		Timeout: time.Second,
	})
	if err != nil {
		fmt.Println(err) // such as "dial 127.0.0.1:9000: connection refused"
		return
	}
	fmt.Print(<-answer)
	// Output: what is it?
}
