package main

import (
	"fmt"
	"strconv"
	"strings"
)

// server is an entry of the catalog.
type server struct {
	name  string
	what  string
	dir   string   // package of a Go server, below bench
	c     string   // or the source of a C server
	libs  []string // libraries that a C server is linked with
	link  string   // linker flags that a Go server needs
	flags []string // beside -addr
	buf   bool     // -buf is set from the size of the messages
	extra bool     // measured only when asked for by name
}

// catalog is every server there is, in the order of the tables.
var catalog = []server{
	{name: "ringnet", what: "this library, echo by Detach and Send", dir: "servers/ringnet"},
	{name: "ringnet-epoll", what: "this library on epoll", dir: "servers/ringnet", flags: []string{"-engine", "epoll"}},
	{name: "ringnet-write", what: "this library, echo by Write", dir: "servers/ringnet", flags: []string{"-style", "write"}, extra: true},
	{name: "ringnet-nospin", what: "this library, never looking before it sleeps", dir: "servers/ringnet", flags: []string{"-spin", "-1ns"}, extra: true},
	{name: "ringnet-nobulk", what: "this library, without direct receives", dir: "servers/ringnet", flags: []string{"-bulk=false"}, extra: true},
	{name: "std", what: "Go's net, a goroutine per connection", dir: "servers/std", buf: true},
	{name: "gnet", what: "panjf2000/gnet, one loop", dir: "servers/gnet"},
	{name: "gnet-edge", what: "panjf2000/gnet, one loop, edge-triggered", dir: "servers/gnet", flags: []string{"-edge"}, extra: true},
	{name: "netpoll", what: "cloudwego/netpoll, one poller", dir: "servers/netpoll"},
	{name: "giouring", what: "pawelgaczynski/giouring, raw", dir: "servers/giouring", link: "-checklinkname=0", buf: true},
	{name: "uring-c", what: "C, liburing: the floor", c: "servers/c/uring.c", libs: []string{"-luring"}, buf: true},
	{name: "epoll-c", what: "C, epoll", c: "servers/c/epoll.c"},
}

// choose finds servers by name; an empty list is all but the extra ones.
func choose(list string) ([]server, error) {
	if list == "" {
		return ordinary(), nil
	}
	var chosen []server
	for name := range strings.SplitSeq(list, ",") {
		s, ok := find(strings.TrimSpace(name))
		if !ok {
			return nil, fmt.Errorf("-servers: there is no server %q: choose from %s", name, strings.Join(names(catalog), ", "))
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// ordinary is all but the extra ones.
func ordinary() []server {
	var list []server
	for _, s := range catalog {
		if !s.extra {
			list = append(list, s)
		}
	}
	return list
}

func find(name string) (server, bool) {
	for _, s := range catalog {
		if s.name == name {
			return s, true
		}
	}
	return server{}, false
}

func names(list []server) []string {
	var all []string
	for _, s := range list {
		all = append(all, s.name)
	}
	return all
}

// arguments are the flags that a server is started with for a cell.
func (s server) arguments(c cell) []string {
	args := append([]string{"-addr", "127.0.0.1:0"}, s.flags...)
	if s.buf {
		args = append(args, "-buf", strconv.Itoa(bufBytes(c)))
	}
	return args
}

// bufBytes is the size of receive buffers that suits a cell: what is in flight on
// a connection, from 4 KiB to 64 KiB.
func bufBytes(c cell) int {
	n := 4096
	for n < 64<<10 && n < c.largest()*c.Pipeline {
		n *= 2
	}
	return n
}
