//go:build linux

package net_test

import (
	"errors"
	"expvar"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"time"

	"example.com/ringnet/net"
)

// heartbeat sends a line after each second of silence, and gives up on peers that say
// nothing for a minute.
type heartbeat struct{ net.Events }

func (heartbeat) OnOpen(c *net.Conn) {
	c.SetReadTimeout(time.Minute)
	var beat net.Timer
	beat = c.AfterFunc(time.Second, func(c *net.Conn) {
		_, _ = c.Write([]byte("still here\n"))
		beat.Reset(time.Second)
	})
	c.SetContext(beat)
}

func (heartbeat) OnData(c *net.Conn, b []byte) int {
	c.Context().(net.Timer).Reset(time.Second)
	_, _ = c.Write(b)
	return len(b)
}

func ExampleConn_AfterFunc() {
	srv := &net.Server{Handler: heartbeat{}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	c, err := stdnet.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	line := make([]byte, 11)
	_, err = io.ReadFull(c, line)
	fmt.Printf("%s%v\n", line, err)
	// Output:
	// still here
	// <nil>
}

// impatient wants the first ten bytes within 50 ms, however they come.
type impatient struct {
	net.Events
	causes chan error
}

func (impatient) OnOpen(c *net.Conn) { c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) }

func (impatient) OnData(c *net.Conn, b []byte) int {
	if len(b) < 10 {
		return 0 // it is offered again with what comes next
	}
	c.SetReadDeadline(time.Time{})
	return len(b)
}

func (h impatient) OnClose(c *net.Conn, err error) { h.causes <- err }

func ExampleConn_SetReadDeadline() {
	h := impatient{causes: make(chan error, 1)}
	srv := &net.Server{Handler: h}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	c, err := stdnet.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("slow"))
	fmt.Println(errors.Is(<-h.causes, os.ErrDeadlineExceeded))
	// Output: true
}

// The counters at /debug/vars. It is the program that imports expvar, which brings
// net/http along; package net does not.
func ExampleServer_Vars() {
	srv := &net.Server{Handler: net.Events{}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	if expvar.Get("ringnet") == nil { // a name is published once
		expvar.Publish("ringnet", srv.Vars())
	}
	fmt.Println("connections:", srv.Stats().Connections)
	// Output: connections: 0
}
