//go:build linux

package net

import "example.com/ringnet/internal/goroutine"

// A fiber that goes on needs a dozen lines of the cache, on its stack and around it,
// and with a thousand busy connections none of them is there. One after the other they
// would be waited for; but the batch tells whose turn comes, so the processor is asked
// for them while those before are served. With 1,000 connections and 64 bytes this is
// worth 2 to 5 % of the CPU of a request (four runs of 15 to 19 rounds), with 64 nothing.

// approachFrom is with how many fibers there is something to gain: 128 of them, with
// what the kernel keeps of their sockets, no longer fit into a core's second-level cache.
const approachFrom = 128

// approach asks for what the next completions of the batch need, if they are bytes for
// fibers: each time for one link more of the chain that leads to a stack.
func (l *loop) approach() {
	if c := l.coming(4); c != nil {
		goroutine.Prefetch(c)
	}
	if c := l.coming(3); c != nil && c.stream != nil {
		goroutine.Prefetch(c.stream)
	}
	if c := l.coming(2); c != nil && c.stream != nil {
		if f := c.stream.readers.head; f != nil {
			goroutine.Prefetch(f)
		}
	}
	if c := l.coming(1); c != nil && c.stream != nil {
		if f := c.stream.readers.head; f != nil {
			goroutine.PrefetchSwitch(f.g, f.stack)
		}
	}
}

// coming is the connection of the completion that is so many behind the one that is
// being dispatched; nil if it is none of a receive.
func (l *loop) coming(ahead int) *Conn {
	i := l.next - 1 + ahead
	if i >= l.count {
		return nil
	}
	k, gen, slot := splitUserData(l.batch[i].UserData)
	if k != kindRecv {
		return nil
	}
	return l.table.find(gen, slot)
}
