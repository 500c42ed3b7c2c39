package main

// The same net/http, on connections that a loop has handed over and on its own
// (servers/http).
const httpDir = "servers/http"

var httpBenchmark = benchmark{
	name: "http",
	what: "net/http on handed-over connections and on Go's net",
	servers: []server{
		{name: "handed", what: "this library hands connections over as they are accepted", dir: httpDir, flags: []string{"-on", "accept"}},
		{name: "sniffed", what: "this library hands connections over by their first bytes", dir: httpDir, flags: []string{"-on", "sniff"}},
		{name: "sniffed-epoll", what: "the same on epoll", dir: httpDir, flags: []string{"-on", "sniff", "-engine", "epoll"}, extra: true},
		{name: "std", what: "Go's net", dir: httpDir, flags: []string{"-on", "std"}},
	},
	bases: "std",
	cells: "wrk:64x1024x1,own:64x1024x1",
	kinds: []kind{
		{name: "wrk", what: "a page of that size, asked for by wrk", server: pageFlags, load: []string{"-mode", "wrk", "-net-http"},
			needs: "wrk", without: "install it (on Debian, 'apt-get install wrk'), or have our load generator ask: -cells own:64x1024x1"},
		{name: "own", what: "a page of that size, asked for by our load generator, every byte verified", server: pageFlags, load: []string{"-mode", "page", "-net-http"}},
	},
	columns: rates("requests", "req", p50Column, column{head: "p99 µs", of: p99, spread: true, versus: withAll}),
	notes:   "it is the same net/http on Go's own poller: what may differ is how connections get there, and a loop that sleeps beside it\n" + wrkNotes,
}
