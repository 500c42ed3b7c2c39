// Command load sends requests to a server and compares every byte that
// comes back. It is one thread, meant to be pinned to a core of its own, and
// runs on ringnet's own ring: one io_uring_enter for many requests, so that one
// core of it can saturate one core of any server.
//
// A byte's way: [conn.begin] decides that a message is due, a driver (ringed for
// small messages, direct for large ones) sends it out of the [pattern], the
// driver receives the answer, [conn.received] compares it with the pattern and
// counts the messages it completes, each of which begins the next.
//
// Other modes put other parts in the place of these: datagrams have numbers and may
// get lost, churn makes a connection for each message, in mode content the answer
// is not the request but what was asked for, and in mode post the server begins. Over
// TLS unmodified crypto/tls stands between the messages and the direct driver, which
// then moves records; handshakes are made by goroutines. In mode page requests and
// answers are HTTP, in mode get they are so for files, whose heads are not known before, and
// in mode wrk another program sends them.
//
// In a closed loop every connection has a fixed number of messages in flight; in
// an open loop (-rate) messages are due at fixed times, whatever the server does.
//
// It never spins: when nothing has come it sleeps in the kernel.
package main
