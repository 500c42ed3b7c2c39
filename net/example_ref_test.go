//go:build linux

package net_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	stdnet "net"
	"sync"

	"example.com/ringnet/net"
)

// chat passes each line on to everybody else in the room. Its room is shared by all
// loops; connections are in it by their Refs.
type chat struct {
	net.Events
	srv *net.Server

	mu   sync.Mutex
	room map[net.Ref]bool
}

func (h *chat) OnOpen(c *net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.room[c.Ref()] = true
	_, _ = c.Write([]byte("welcome\n"))
}

func (h *chat) OnClose(c *net.Conn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.room, c.Ref())
}

func (h *chat) OnData(c *net.Conn, b []byte) int {
	n := bytes.LastIndexByte(b, '\n') + 1 // the rest comes again, with more
	if n == 0 {
		return 0
	}
	h.mu.Lock()
	var others []net.Ref
	for ref := range h.room {
		if ref != c.Ref() {
			others = append(others, ref)
		}
	}
	h.mu.Unlock()
	if _, err := h.srv.Broadcast(others, net.NewMessage(b[:n])); err != nil {
		c.Abort(err) // net.ErrBusy: the loops have more to do than they can
	}
	return n
}

// A chat server. A line is copied once, however many are in the room.
func ExampleServer_Broadcast() {
	h := &chat{room: map[net.Ref]bool{}}
	h.srv = &net.Server{Handler: h}
	if err := h.srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer h.srv.Shutdown(context.Background())

	ann, _ := stdnet.Dial("tcp", h.srv.Addrs()[0].String())
	ben, _ := stdnet.Dial("tcp", h.srv.Addrs()[0].String())
	in := bufio.NewReader(ben)
	line, _ := in.ReadString('\n')
	fmt.Print(line) // he is in the room
	fmt.Fprintln(ann, "hello, Ben")
	line, _ = in.ReadString('\n')
	fmt.Print(line)
	_, _ = ann.Close(), ben.Close()
	// Output:
	// welcome
	// hello, Ben
}

// hasher answers with the hash of what it gets, which takes too long for a loop.
type hasher struct{ net.Events }

func (hasher) OnData(c *net.Conn, b []byte) int {
	b = bytes.Clone(b) // ours only until OnData returns
	err := net.Offload(c, func() (string, error) {
		return fmt.Sprintf("%x\n", sha256.Sum256(b)), nil
	}, func(c *net.Conn, sum string, err error) {
		_, _ = c.Write([]byte(sum))
	})
	if err != nil {
		c.Abort(err) // net.ErrNoWorker: as much as there may be is under way
	}
	return len(b)
}

// Work that takes long, or blocks, is done beside the loop, and its result comes
// back to it.
func ExampleOffload() {
	srv := &net.Server{Handler: hasher{}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Shutdown(context.Background())

	c, _ := stdnet.Dial("tcp", srv.Addrs()[0].String())
	defer c.Close()
	fmt.Fprint(c, "ringnet")
	sum, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(sum)
	// Output: 306bf3155fa73c5abac36ff28f2179ca133ff035675d1d5af8ba0845ddf2939d
}
