//go:build linux

// Package net runs servers on event loops over io_uring.
//
// A [Server] has loops; each is one goroutine locked to one thread with one ring,
// one group of receive buffers and its own listeners (SO_REUSEPORT). A connection
// lives on one loop for its whole life, and its [Handler] is called there, never
// twice at once:
//
//	OnOpen ─► OnData … OnData ─► OnClose
//
// Handlers must not block: a loop has many connections and one thread. Everything
// that a [Conn] can do is to be done from its loop, that is, from a callback of
// any connection of the same loop.
//
// Or a connection's function is ordinary blocking code: [Blocking] is a Handler that runs
// it on a fiber, a coroutine which gives the loop's thread back while it waits, and a
// [Stream] is std's net.Conn for it.
//
// Other goroutines reach a connection by its [Ref]; work that blocks is given to
// [Offload].
//
// Code that needs a goroutine for each connection, net/http for one, gets connections as
// those of the standard library: [Conn.HandOver], or through a [HandOverListener]. A
// [Sniff] chooses by the first bytes who serves a connection.
//
// Received bytes are lent to OnData in the buffer that the kernel filled. They can
// be copied out with Write, or taken along without a copy: [Conn.Detach] turns
// them into a lease, and [Conn.Send] sends a lease.
//
// Connections can also be made: [Conn.Dial] from a callback, on the same loop,
// [Server.Dial] and [Server.DialContext] from any goroutine. A [Client] is loops
// without listeners. Addresses are "host:port" or, for Unix sockets, "unix:path".
//
// A Handler that waits for something sets a timer ([Conn.AfterFunc]) and never
// sleeps. A connection that waits for its peer can be given a limit
// ([Conn.SetReadTimeout], [Conn.SetReadDeadline] and their like, or for all
// connections in [Options]); none has one by default. What a server does is told by
// [Server.Stats], published by [Server.Vars], and logged to Options.Logger, also when
// a callback keeps its loop from working (Options.StallAfter).
//
// [TLS] secures the connections of any handler.
//
// With addresses that begin with "udp:" a loop also has UDP sockets: a [PacketHandler] is
// lent each datagram as a [Packet], and answers with [Packet.Reply] or through the
// [Socket]. Sockets besides those are opened by [Server.ListenPacket] and
// [Server.DialPacket] from any goroutine, and by the methods of the same names of
// Socket and Conn in callbacks.
package net
