package main

import "strconv"

var udpBenchmark = benchmark{
	name: "udp",
	what: "speed of echo servers over UDP, from many sources",
	servers: []server{
		{name: "ringnet", what: "this library", dir: "servers/ringnet"},
		{name: "ringnet-epoll", what: "this library on epoll", dir: "servers/ringnet", flags: []string{"-engine", "epoll"}},
		{name: "std", what: "Go's net, one goroutine", dir: "servers/std"},
		{name: "gnet", what: "panjf2000/gnet, one loop", dir: "servers/gnet"},
	},
	bases:   "std,gnet",
	cells:   "64x64x1,64x64x4",
	kinds:   []kind{{what: "each connection is a source of datagrams", network: "udp:"}},
	columns: rates("requests", "req", column{head: "lost", of: lost, percent: true}, entersColumn, p50Column, p99Column),
	notes:   "lost: datagrams whose answer did not come within 100 ms; the source goes on with the next\n",
}

var unixBenchmark = benchmark{
	name:    "unix",
	what:    "speed of echo servers over a Unix socket",
	servers: only(catalog, "ringnet", "ringnet-epoll", "std", "gnet"),
	bases:   "std,gnet",
	cells:   "64x64x1,64x64x16,4x64x1,16x65536x1",
	kinds:   []kind{{network: "unix:"}},
	columns: echoColumns,
}

var churnBenchmark = benchmark{
	name:    "churn",
	what:    "connections that ask once and are closed",
	servers: only(catalog, "ringnet", "ringnet-epoll", "std", "gnet"),
	bases:   "std,gnet",
	cells:   "server:64x64x1,client:64x64x1",
	kinds: []kind{
		{name: "server", what: "the server closes first", load: []string{"-mode", "churn", "-first", "server"},
			server: func(c cell) []string { return []string{"-close", strconv.Itoa(c.largest())} }},
		{name: "client", what: "the client closes first", load: []string{"-mode", "churn", "-first", "client"}},
		{name: "reset", what: "the client closes first, by a reset", load: []string{"-mode", "churn", "-first", "reset"}},
	},
	columns: rates("connections", "conn", entersColumn, p50Column, p99Column),
	notes:   "one connection: connect, send, receive the answer, close; latency is of all that\n",
}

var postBenchmark = benchmark{
	name: "post",
	what: "messages that another goroutine than the connection's sends",
	servers: []server{
		{name: "ringnet", what: "this library", dir: "servers/ringnet"},
		{name: "ringnet-epoll", what: "this library on epoll", dir: "servers/ringnet", flags: []string{"-engine", "epoll"}},
		{name: "std", what: "Go's net: Write from another goroutine", dir: "servers/std"},
		{name: "gnet", what: "panjf2000/gnet: AsyncWrite", dir: "servers/gnet"},
	},
	bases: "gnet,std",
	cells: "send:64x64x16,broadcast:1000x64x16",
	kinds: []kind{
		{name: "send", what: "one message after the other to each connection in turn", load: []string{"-mode", "post"}, server: postFlags},
		{name: "broadcast", what: "each message to all connections at once, where the server can", load: []string{"-mode", "post"},
			server: func(c cell) []string { return append(postFlags(c), "-broadcast") }},
	},
	columns: rates("deliveries", "delivery", entersColumn, volumeColumn),
	notes:   "a delivery is a message that has come to one receiver, verified; receivers acknowledge half of what may be in flight at a time\n",
}

// postFlags tell a server to send messages.
func postFlags(c cell) []string {
	return []string{"-post", strconv.Itoa(c.Conns), "-size", strconv.Itoa(c.largest()), "-window", strconv.Itoa(c.Pipeline)}
}

var zerocopyBenchmark = benchmark{
	name: "zerocopy",
	what: "large messages with adaptive zero copy and without",
	servers: []server{
		{name: "ringnet", what: "this library, as it is; content by SendStatic", dir: "servers/ringnet", flags: []string{"-how", "static"}},
		{name: "ringnet-plain", what: "the same, never by zero copy", dir: "servers/ringnet", flags: []string{"-how", "static", "-zerocopy", "-1"}},
		{name: "uring-c", what: "C, liburing", c: "servers/c/uring.c", libs: []string{"-luring"}, buf: true, kind: "echo"},
		{name: "epoll-c", what: "C, epoll", c: "servers/c/epoll.c", kind: "echo"},
		{name: "content-c", what: "C, epoll and send", c: "servers/c/content.c", flags: []string{"-how", "memory"}, file: true, kind: "content"},
	},
	bases: "ringnet-plain,epoll-c,uring-c,content-c",
	cells: "echo:16x65536x1,echo:16x262144x1,echo:16x1048576x1,content:16x65536x1,content:16x262144x1,content:16x1048576x1",
	kinds: []kind{
		{name: "echo", what: "messages come back"},
		{name: "content", what: "a message is asked for and comes out of memory", content: true, load: []string{"-mode", "content"}},
	},
	columns: volumes(entersColumn, p50Column, p99Column),
}

var fileBenchmark = benchmark{
	name: "file",
	what: "files sent from the page cache, and the ways to do it side by side",
	servers: []server{
		{name: "ringnet", what: "this library, as it chooses", dir: "servers/ringnet", file: true},
		{name: "ringnet-epoll", what: "this library on epoll", dir: "servers/ringnet", file: true, flags: []string{"-engine", "epoll"}, extra: true},
		{name: "sendfile-c", what: "C, epoll and sendfile(2)", c: "servers/c/content.c", file: true},
		{name: "mapped-c", what: "C, epoll and send(2) from the mapped file", c: "servers/c/content.c", file: true, flags: []string{"-how", "mapped"}},
		{name: "read-c", what: "C, epoll, pread(2) and send(2)", c: "servers/c/content.c", file: true, flags: []string{"-how", "read"}},
		{name: "std", what: "Go's net: io.Copy, which is sendfile(2)", dir: "servers/std", file: true},
	},
	bases:   "sendfile-c,std",
	cells:   "1x16777216x1,64x16777216x1",
	kinds:   []kind{{what: "each asks for the same file, again and again", content: true, load: []string{"-mode", "content"}}},
	columns: volumes(entersColumn),
}

var coldBenchmark = benchmark{
	name: "cold",
	what: "echo while files that are not in the page cache go out from the same loop",
	servers: []server{
		{name: "ringnet", what: "this library, echo alone", dir: "servers/ringnet"},
		{name: "ringnet+cold", what: "with cold files beside it", dir: "servers/ringnet", file: true, beside: &beside{mode: "content", cold: true}},
		{name: "std", what: "Go's net, echo alone", dir: "servers/std", buf: true},
		{name: "std+cold", what: "with cold files beside it", dir: "servers/std", buf: true, file: true, beside: &beside{mode: "content", cold: true}},
	},
	bases:  "ringnet,std",
	cells:  "64x64x1",
	kinds:  []kind{{}},
	beside: "8x33554432",
	columns: append(rates("requests", "req"), column{head: "p50 µs", of: p50, versus: withAll}, column{head: "p99 µs", of: p99, spread: true, versus: withAll},
		column{head: "beside MB/s", of: besideVolume}),
	notes: "beside: connections that each ask for their part of a file, which has been dropped from the page cache before\n",
}

var slowBenchmark = benchmark{
	name: "slow",
	what: "echo, and the server's memory, beside slow readers of large answers",
	servers: []server{
		{name: "ringnet", what: "this library, echo alone", dir: "servers/ringnet"},
		{name: "ringnet+slow", what: "with slow readers beside it", dir: "servers/ringnet", beside: &beside{mode: "slow"}},
		{name: "std", what: "Go's net, echo alone", dir: "servers/std", buf: true},
		{name: "std+slow", what: "with slow readers beside it", dir: "servers/std", buf: true, beside: &beside{mode: "slow"}},
	},
	bases:  "ringnet,std",
	cells:  "64x64x1",
	kinds:  []kind{{}},
	beside: "1000x104857600",
	columns: append(rates("requests", "req", p50Column, p99Column, column{head: "beside MB/s", of: besideVolume}),
		inMegabytes("peak RSS", func(r row) int64 { return r.Memory.Peak }),
		inMegabytes("Go heap", func(r row) int64 { return int64(told(r).Heap) }),
		inMegabytes("bound", func(r row) int64 { return int64(told(r).Bound) }),
		inMegabytes("sockets", func(r row) int64 { return r.Memory.Sockets })),
	notes: "bound: what the server's options let it hold for the slow readers, and its fixed pools; the Go runtime comes on top\n" +
		"sockets: what the kernel holds in socket buffers, both ends of all connections of the machine\n",
}
