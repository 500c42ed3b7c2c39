//go:build linux

package net

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// untold are the connections about which the kernel may have something to say and
// does not: an end that came together with the last bytes of an armed receive, on
// kernels that forget such ones. They have to be asked, by a system call each. Most
// are soon heard of again, and then a question about what came before is no longer
// needed; so a loop asks when it has nothing else to do, and at the latest when the
// time is up or the list full. To ask after every message made an echo over a Unix
// socket 8 % slower.
type untold struct {
	list []uint64 // generations and slots
	due  int64    // by when the first of them is asked
	now  bool     // in this turn

	// What the kernel forgets, looked up once.
	any      bool // anything
	resets   bool // resets (ring.RecvMultishotReset)
	late     bool // resets that are there when the receive is armed (ring.RecvMultishotLate)
	unixEnds bool // ends of streams, on Unix sockets (ring.UnixRecvMultishot)
}

const (
	untoldMax    = 1024
	untoldWithin = time.Millisecond
)

// learn looks up what to doubt.
func (u *untold) learn(r *ring.Ring) {
	if !r.Have(ring.RecvMultishot) {
		return // a receive that is armed anew looks by itself
	}
	u.resets = !r.Have(ring.RecvMultishotReset)
	u.late = !r.Have(ring.RecvMultishotLate)
	u.unixEnds = !r.Have(ring.UnixRecvMultishot)
	u.any = u.resets || u.late || u.unixEnds
}

// doubt notes that a receive of c, which is unsure, has emptied the socket: an end may
// be hidden behind that.
func (l *loop) doubt(c *Conn) {
	u := &l.untold
	if c.remote.isUnix() {
		if !u.unixEnds {
			return
		}
	} else {
		c.unsure = u.resets // else what comes from now on is told
		if !u.resets && !u.late {
			return
		}
		if s := c.out.tail; s != nil && !s.sealed && !s.unready {
			return // a send that is yet to begin is told of a reset
		}
	}
	if len(u.list) == 0 {
		u.due = l.now + int64(untoldWithin)
	}
	u.list = append(u.list, userData(0, c.gen, c.slot))
	u.now = u.now || len(u.list) >= untoldMax
}

// ask asks those in doubt.
func (l *loop) ask() {
	u := &l.untold
	if !u.now && (len(u.list) == 0 || l.now < u.due) {
		return
	}
	u.now = false
	slices.Sort(u.list)
	for _, id := range slices.Compact(u.list) {
		_, gen, slot := splitUserData(id)
		c := l.table.find(gen, slot)
		if c == nil || c.state&recvArmed == 0 || c.state&(cancelling|closing|dead|finished) != 0 {
			continue // a receive that is armed anew looks by itself
		}
		if c.remote.isUnix() {
			l.askForEnd(c)
		} else {
			l.askForReset(c)
		}
	}
	u.list = u.list[:0]
}

// askForEnd finds an end of stream that came together with the bytes before it. A
// receive that is armed anew finds it.
func (l *loop) askForEnd(c *Conn) {
	if l.r.AtEnd(int(c.fd)) {
		l.cancel(c, kindRecv)
	}
}

// askForReset finds a reset: it was there when the armed receive emptied the socket,
// and nothing wakes that any more. What comes later does.
func (l *loop) askForReset(c *Conn) {
	errno := unix.EINTR
	for errno == unix.EINTR {
		// Room for no bytes: it takes none away from the armed receive.
		_, errno = l.r.Recv(int(c.fd), nil)
	}
	if errno != 0 && errno != unix.EAGAIN {
		l.guard(func() { l.fail(c, "read", errno) })
	}
}
