//go:build linux

package sim

import (
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// cancel ends the operations that the entry means. Its own completion and the last
// ones of these come in any order.
func (e *Engine) cancel(o *op) {
	flags := o.entry.OpFlags
	var targets []*op
	for _, t := range e.armed {
		switch {
		case flags&sys.IORING_ASYNC_CANCEL_ANY != 0:
			targets = append(targets, t)
		case flags&sys.IORING_ASYNC_CANCEL_FD != 0:
			if t.sock != nil && t.sock == e.socket(int(o.entry.Fd)) {
				targets = append(targets, t)
			}
		case t.userData == o.entry.Addr:
			targets = append(targets, t)
		}
	}
	if flags&sys.IORING_ASYNC_CANCEL_ALL == 0 && len(targets) > 1 {
		targets = targets[:1]
	}
	if len(targets) == 0 || len(targets) == 1 && targets[0].cancelled && e.chance(e.faults.CancelGone) {
		// Over, or as good as over: its last completion is on the way.
		e.refuse(o, unix.ENOENT)
		return
	}
	tooLate := 0
	for _, t := range targets {
		if t.cancelled {
			continue // found once more
		}
		if t.late || e.chance(e.faults.CancelTooLate) && flags&sys.IORING_ASYNC_CANCEL_ALL == 0 {
			tooLate++
			e.counts.CancelsTooLate++
			// It runs. Some end by themselves soon, others go on as if nothing
			// had been asked.
			if !t.late && e.rng.IntN(2) == 0 {
				t.cancelled = true
				e.After(e.upTo(time.Millisecond), func() { t.queued = false; e.queue(t) })
			}
			continue
		}
		t.cancelled = true
		switch {
		case e.chance(e.faults.SlowCancel):
			e.After(e.upTo(time.Millisecond), func() { t.queued = false; e.queue(t) })
		case e.rng.IntN(2) == 0:
			e.endCancelled(t)
		default:
			t.queued = false
			e.queue(t)
		}
	}
	switch {
	case flags&sys.IORING_ASYNC_CANCEL_ALL != 0:
		e.finish(o, int32(len(targets)-tooLate), 0)
	case tooLate > 0:
		e.refuse(o, unix.EALREADY)
	default:
		e.finish(o, 0, 0)
	}
}

// endCancelled is the last completion of a cancelled operation. A send that has
// sent something says how much.
func (e *Engine) endCancelled(o *op) {
	if o.done {
		return
	}
	if o.sent > 0 {
		e.finish(o, int32(o.sent), 0)
		return
	}
	e.refuse(o, unix.ECANCELED)
}
