package main

import "strconv"

// The benchmarks of blocking functions run the same program on two things
// (servers/blocking).
const blockingDir = "servers/blocking"

var (
	onFibers = server{name: "fiber", what: "a fiber of this library's for each connection", dir: blockingDir, blocking: true}
	onEpoll  = server{name: "fiber-epoll", what: "the same on epoll", dir: blockingDir, blocking: true, flags: []string{"-engine", "epoll"}, extra: true}
	onNoSpin = server{name: "fiber-nospin", what: "the same, never looking before it sleeps", dir: blockingDir, blocking: true, flags: []string{"-spin", "-1ns"}, extra: true}
	onStd    = server{name: "std", what: "Go's net, a goroutine for each connection", dir: blockingDir, blocking: true, flags: []string{"-on", "std"}}
)

// buffered is s with buffers that suit the messages.
func buffered(s server) server {
	s.buf = true
	return s
}

var fiberBenchmark = benchmark{
	name: "fiber",
	what: "the same blocking function on fibers and on Go's net",
	servers: []server{
		buffered(onFibers),
		buffered(onEpoll),
		buffered(onNoSpin),
		{name: "ringnet", what: "this library's callbacks, by Detach and Send", dir: "servers/ringnet"},
		{name: "ringnet-write", what: "the same by Write", dir: "servers/ringnet", flags: []string{"-style", "write"}, extra: true},
		buffered(onStd),
		{name: "gnet", what: "panjf2000/gnet, one loop", dir: "servers/gnet", kind: "echo"},
	},
	bases: "std,ringnet",
	cells: "echo:64x64x1,echo:1000x64x1,echo:4x64x1,echo:1x64x1,echo:64x4096x1,echo:16x65536x1,copy:64x64x1,copy:16x65536x1",
	kinds: []kind{
		{name: "echo", what: "Read and Write in a loop", serve: "echo"},
		{name: "copy", what: "io.Copy(c, c)", serve: "copy"},
	},
	columns: echoColumns,
}

var fasthttpBenchmark = benchmark{
	name:    "fasthttp",
	what:    "fasthttp on fibers and on Go's net",
	servers: []server{onFibers, onEpoll, onNoSpin, onStd},
	bases:   "std",
	cells:   "wrk:64x1024x1",
	kinds: []kind{
		{name: "wrk", what: "a page of that size, asked for by wrk", serve: "page", server: pageFlags, load: []string{"-mode", "wrk"},
			needs: "wrk", without: "install it (on Debian, 'apt-get install wrk'), or have our load generator ask: -cells own:64x1024x1"},
		{name: "own", what: "a page of that size, asked for by our load generator, every byte verified", serve: "page", server: pageFlags, load: []string{"-mode", "page"}},
	},
	columns: echoColumns,
	notes:   wrkNotes,
}

const wrkNotes = "wrk measures whole seconds, rounded up, and keeps one request in flight on each connection; it looks at no body, so before\n" +
	"and after, the page is asked for on as many connections and every byte is verified. Latencies are wrk's\n"

// pageFlags tell a server the size of its page.
func pageFlags(c cell) []string { return []string{"-size", strconv.Itoa(c.largest())} }

var tlsBenchmark = benchmark{
	name: "tls",
	what: "TLS 1.3: echo, and handshakes",
	servers: []server{
		buffered(onFibers),
		{name: "fiber-within", what: "the function on a fiber, within this library's TLS", dir: blockingDir, blocking: true, buf: true, flags: []string{"-within"}},
		buffered(onEpoll),
		buffered(onNoSpin),
		{name: "ringnet", what: "this library's callbacks within its TLS, by Write", dir: "servers/ringnet", flags: []string{"-style", "write"}},
		buffered(onStd),
	},
	bases: "std",
	cells: "echo:64x64x1,echo:64x16384x1,full:16x64x1,resumed:16x64x1",
	kinds: []kind{
		{name: "echo", what: "messages come back", serve: "echo", tls: true},
		{name: "full", what: "connect, shake hands, one message, close", serve: "echo", tls: true, load: []string{"-mode", "handshake"}},
		{name: "resumed", what: "the same, each resuming a session", serve: "echo", tls: true, load: []string{"-mode", "handshake", "-resume"}},
	},
	columns: append([]column{{head: "requests/CPU s", of: perCPUSecond, spread: true, versus: withAll}}, rates("requests", "req", entersColumn, p50Column, p99Column, volumeColumn)...),
	notes: "requests/CPU s: per second of CPU time of the server's process; of full and resumed a request is a connection, of which so many are open at a time\n" +
		"the client's part of a handshake is more work than the server's: there, and in echo of large messages, the load's core is the limit\n",
}

// A proxy has its core to itself. What is behind it has the load's.
var proxyBenchmark = benchmark{
	name:    "proxy",
	what:    "a proxy of two io.Copy, on fibers and on Go's net",
	servers: []server{onFibers, onEpoll, onNoSpin, onStd},
	bases:   "std",
	cells:   "echo:64x1024x1,down:16x1048576x1,echo:16x1048576x1",
	kinds: []kind{
		{name: "echo", what: "messages go through to an echo server, and back", serve: "proxy"},
		{name: "down", what: "a message is asked for and comes through from behind", serve: "proxy", content: true, load: []string{"-mode", "content"}},
	},
	behind: &server{dir: "servers/ringnet", flags: []string{"-how", "static"}},
	columns: rates("requests", "req", column{head: "CPU s/GB", of: perGigabyte, decimals: 3, versus: withFirst},
		column{head: "core s/GB", of: corePerGigabyte, decimals: 3, versus: withFirst}, entersColumn, p50Column, p99Column, volumeColumn),
	notes: "the proxy is alone on the server's core; the load generator and the server behind share the other one\n" +
		"MB and GB are what the clients receive: in echo the same amount goes through the other way as well\n",
}

// resting is the servers of the idle benchmark, those whose connections speak first
// and those whose connections never do.
var resting = append(append([]server(nil), catalog...),
	server{name: "fiber", what: "a blocking function, Read and Write by a buffer", dir: blockingDir, buf: true},
	server{name: "fiber-copy", what: "a blocking function, io.Copy", dir: blockingDir, flags: []string{"-serve", "copy"}},
	server{name: "ringnet-silent", what: "this library, and nothing has been sent", dir: "servers/ringnet", silent: true},
	server{name: "fiber-silent", what: "a blocking function, and nothing has been sent", dir: blockingDir, buf: true, silent: true},
	server{name: "std-silent", what: "Go's net, and nothing has been sent", dir: "servers/std", buf: true, silent: true},
)
