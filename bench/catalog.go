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

	program string  // or an installed program that it is
	without string  // how to get that
	foreign foreign // of a server that does not know package control; nil: it does

	kind     string  // the only kind of load that it can take; empty: all of them
	file     bool    // its content comes from a file
	root     bool    // it serves the directory of files
	blocking bool    // it serves by a blocking function, which the kind of load names
	silent   bool    // its connections rest without having sent anything
	beside   *beside // a second load while the first is measured; nil for none
	alone    string  // the same server without that load, for comparison
	copies   *copies // that it makes of content; nil: nothing is said
}

// beside is a load of its own, which asks for content on the server's second
// address for as long as the measured load lasts.
type beside struct {
	mode string // of the load generator
	cold bool   // each connection has a part of the file, or a file, and drops it from the page cache
	meek bool   // it leaves its core to the measured load, where that has a rate to keep
}

// catalog is the servers of the echo benchmark, in the order of the tables. Those of
// the others stand with them.
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

// choose finds servers of a list by their names; without names it is all but the
// extra ones.
func choose(list []server, chosen string) ([]server, error) {
	if chosen == "" {
		return ordinary(list), nil
	}
	var found []server
	for name := range strings.SplitSeq(chosen, ",") {
		s, ok := find(list, strings.TrimSpace(name))
		if !ok {
			return nil, fmt.Errorf("there is no %q: choose from %s", name, strings.Join(names(list), ", "))
		}
		found = append(found, s)
	}
	return found, nil
}

// ordinary is all but the extra ones.
func ordinary(list []server) []server {
	var some []server
	for _, s := range list {
		if !s.extra {
			some = append(some, s)
		}
	}
	return some
}

func find(list []server, name string) (server, bool) {
	for _, s := range list {
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

// takes says whether a server can take a kind of load.
func (s server) takes(k kind) bool { return s.kind == "" || s.kind == k.name }

// arguments are the flags that a server is started with for a cell, beside its
// address.
func (s server) arguments(c cell) []string {
	args := append([]string(nil), s.flags...)
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
