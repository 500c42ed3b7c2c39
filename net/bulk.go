//go:build linux

package net

import (
	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// There are two ways to receive, and each connection uses the one that suits what
// it is sent.
//
//	            more in the socket than a buffer takes, often
//	 ┌───────┐ ─────────────────────────────────────────────► ┌──────┐
//	 │ small │                                                │ bulk │
//	 └───────┘ ◄───────────────────────────────────────────── └──────┘
//	            what comes fits a small buffer, for long
//
// Small is a multishot receive into the loop's group: no call per message, but
// bulk is chopped into buffers, each with its completion, and received in batches
// while the peer idles. Bulk is a multishot poll and a direct receive into one
// large buffer, the one used last, which is hot in the cache; what the handler
// answers goes out by a direct send at once.
//
// A change of ways cancels the armed operation and takes effect with its last
// completion, so that no two receives are ever under way.

const (
	// A receive that filled its buffer with more waiting counts bulkStep; any
	// other counts one down. Two messages of four buffers make bulk.
	bulkStep  = 2
	bulkEnter = 8
	// So many direct receives in a row that a small buffer would have held make
	// small again. A connection that alternates between both stays bulk, which
	// costs a small message little (0.97 of the small way, DESIGN.md section 6).
	smallEnter = 128
	// bulkBudget is how much one connection may receive in a turn before others
	// have theirs.
	bulkBudget = 512 << 10
)

// weigh judges by one completion what a connection is sent.
func (l *loop) weigh(c *Conn, n int, more bool) {
	// Not every kernel says of a Unix socket that it has more.
	if n == l.group.BufBytes() && (more || c.remote.isUnix()) {
		if c.bulkScore += bulkStep; c.bulkScore >= bulkEnter && !l.o.NoBulk {
			c.state |= wantBulk
		}
	} else if c.bulkScore > 0 {
		c.bulkScore--
	}
}

// toBulk changes ways when the multishot receive has ended.
func (l *loop) toBulk(c *Conn) {
	c.state = c.state&^wantBulk | bulk | readable
	c.bulkScore, c.runs = 0, 0
	l.stats.ToBulk++
	l.logConn(c, "a connection goes over to large buffers")
}

// toSmall changes back when the multishot poll has ended.
func (l *loop) toSmall(c *Conn) {
	c.state &^= wantSmall | bulk | readable | hungUp
	l.stats.ToSmall++
	l.logConn(c, "a connection goes back to small buffers")
}

// armPoll posts the poll of a bulk connection.
func (l *loop) armPoll(c *Conn) {
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	if l.pollMultishot {
		e.PreparePollMultishot(int(c.fd), unix.POLLIN|unix.POLLRDHUP)
	} else {
		e.PreparePoll(int(c.fd), unix.POLLIN|unix.POLLRDHUP)
	}
	e.SetUserData(userData(kindPoll, c.gen, c.slot))
	c.state |= pollArmed
	l.inFlight++
	l.stats.Arms++
}

// onPoll takes a completion of a bulk connection's poll.
func (l *loop) onPoll(c *Conn, cqe *ring.Completion) {
	if !cqe.More() {
		c.state &^= pollArmed | cancelling
		l.inFlight--
	}
	if cqe.Res > 0 {
		c.state |= readable
		if cqe.Res&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0 {
			c.state |= hungUp
		}
	}
	l.settle(c)
}

// receive takes what waits in the socket of a bulk connection.
func (l *loop) receive(c *Conn) {
	for budget := bulkBudget; c.state&readable != 0 && c.state&(noReading|wantSmall) == 0; {
		if budget <= 0 {
			l.ready(c)
			return
		}
		lease, err := l.large.Lease()
		if err != nil {
			l.stats.HeapBuffers++
			lease = bufring.Wrap(make([]byte, l.large.BufBytes()))
		}
		n, errno := l.r.Recv(int(c.fd), lease.Bytes())
		l.stats.DirectReceives++
		switch {
		case errno == unix.EAGAIN:
			l.put(lease)
			c.state &^= readable
		case errno == unix.EINTR:
			l.put(lease)
		case errno != 0:
			l.put(lease)
			l.fail(c, "read", errno)
		case n == 0:
			l.put(lease)
			l.onEnd(c)
		default:
			if n < lease.Len() && c.state&hungUp == 0 && !c.remote.isUnix() {
				// TCP gave less than there was room for: the socket is empty, and
				// what comes from now on is reported by the poll. Only an end of
				// stream may be there already, reported together with the bytes.
				// A Unix socket also stops behind bytes that came with descriptors,
				// and before urgent ones (unix_stream_read_generic), so that only
				// EAGAIN says that it is empty.
				c.state &^= readable
			}
			budget -= n
			if n > l.group.BufBytes() {
				c.runs = 0
			} else if c.runs++; c.runs >= smallEnter {
				c.state |= wantSmall
			}
			l.deliver(c, lease.Slice(0, n))
			l.startSend(c) // at once: the peer waits, and the bytes are in the cache
		}
	}
	if c.state&wantSmall != 0 {
		l.mark(c) // to have the poll cancelled
	}
}

// ready has the loop come back to c in its next turn.
func (l *loop) ready(c *Conn) {
	if c.state&isReady == 0 {
		c.state |= isReady
		l.readyList = append(l.readyList, c)
	}
}

// receiveReady goes on with bulk connections that had used up their budget.
func (l *loop) receiveReady() {
	if len(l.readyList) == 0 {
		return
	}
	batch := l.readyList
	l.readyList = l.readySpare[:0]
	for _, c := range batch {
		c.state &^= isReady
	}
	l.settleEach(batch)
	clear(batch)
	l.readySpare = batch[:0]
}
