//go:build linux

package sim

import (
	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// unmasked is reported whether asked for or not (IO_POLL_UNMASK).
const unmasked = unix.POLLERR | unix.POLLHUP | unix.POLLNVAL | unix.POLLRDHUP

func (e *Engine) issuePoll(o *op) {
	o.events = o.entry.OpFlags&0xffff | unmasked
	o.multishot = o.entry.Len&sys.IORING_POLL_ADD_MULTI != 0
	e.arm(o)
	if e.chance(e.faults.PollNoMemory) {
		e.counts.PollErrors++
		e.refuse(o, unix.ENOMEM)
		return
	}
	mask := e.mask(o.sock) & o.events
	switch {
	case mask == 0:
	case o.multishot:
		o.wakes = 2
		e.queue(o) // the level that it begins with counts as an edge
	default:
		e.finish(o, int32(mask), 0)
	}
}

// poll reports what woke it. Woken once, by somebody who said why, it reports
// that, although it may no longer be so; else it looks (io_poll_check_events).
func (e *Engine) poll(o *op) {
	mask := o.key & o.events
	if o.wakes != 1 || o.key == 0 {
		mask = e.mask(o.sock) & o.events
	}
	o.wakes, o.key = 0, 0
	if mask == 0 {
		return
	}
	if !o.multishot || !e.more(o, int32(mask), 0) {
		e.finish(o, int32(mask), 0)
	}
}

// spuriousMost keeps a world that spins from turning in a circle of such events.
const spuriousMost = 1000

// spuriousEvent has some poll report what is not so.
func (e *Engine) spuriousEvent() {
	if len(e.armed) == 0 || e.counts.Spurious == spuriousMost || !e.chance(e.faults.Spurious) {
		return
	}
	o := e.armed[e.rng.IntN(len(e.armed))]
	if o.code != sys.IORING_OP_POLL_ADD || o.queued {
		return
	}
	e.counts.Spurious++
	o.wakes, o.key = 1, o.events&(unix.POLLIN|unix.POLLOUT)
	e.queue(o)
}
