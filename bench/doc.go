// Command bench measures servers beside each other.
//
//	go run ./bench echo      echo over TCP: requests per second, CPU per request, latency
//	go run ./bench idle      memory and CPU of connections that do nothing
//	go run ./bench udp       echo over UDP, from many sources
//	go run ./bench unix      echo over a Unix socket
//	go run ./bench churn     connections that ask once and are closed
//	go run ./bench post      messages that another goroutine sends, to one or to all
//	go run ./bench zerocopy  large messages with adaptive zero copy and without
//	go run ./bench file      files out of the page cache, and the ways to send them
//	go run ./bench paths     the same for pieces of many sizes, with a picture
//	go run ./bench files     static files over HTTP, beside nginx and others; wrk is the load
//	go run ./bench cold      echo while files come from the disk
//	go run ./bench slow      echo, and the server's memory, beside slow readers
//	go run ./bench fiber     the same blocking function on fibers and on Go's net
//	go run ./bench fasthttp  fasthttp on fibers and on Go's net; wrk is the load
//	go run ./bench tls       TLS 1.3: echo, and handshakes
//	go run ./bench proxy     a proxy of two io.Copy, on fibers and on Go's net
//	go run ./bench http      net/http on handed-over connections, and on Go's net
//
// Every server runs in a process of its own, alone on one core; the load
// generator has another. Servers take turns, round by round (A B C, B C A, …), so
// that a machine whose speed drifts drifts for all of them, and what is compared
// are ratios within a round. Every byte that comes back is compared with what was
// sent.
//
// How a run goes: a benchmark (sets.go, fibers.go, catalog.go) says which servers there are, what
// kinds of load, and what its tables show; build makes the programs; a contest goes
// through cells, rounds and servers and makes one row of each trial; report turns
// rows into tables, and the record keeps the rows themselves. Where two loads share
// a server, as in cold, slow and the mixed loads of files, a server stands in the list twice, alone and with the
// second load beside the measured one, so that a round has both. In paths a server is
// a way to send a file and a kind of load the size of its pieces; picture draws them.
// What a proxy connects to is on the load's core. In files some servers are programs
// that know nothing of us: foreign.go starts them and finds all of their processes.
package main
