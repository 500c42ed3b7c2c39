//go:build linux

package net

import "errors"

// fanout is one message for many connections of a loop. It is worked off in parts,
// so that a large one does not keep the rest of the loop waiting.
type fanout struct {
	m    Message
	to   []*anchor // in order
	all  bool      // not to these but to every connection
	next int       // in to, or in the table's slots
	done bool
}

// fanOut gives a fanout's message to the next connections, n of them at most, and
// returns how many steps that took: at least one.
func (l *loop) fanOut(f *fanout, n int) int {
	if f.next == 0 {
		l.stats.Posts++
	}
	end := len(f.to)
	if f.all {
		end = len(l.table.slots)
	}
	from := f.next
	for f.next < min(end, from+n) {
		i := f.next
		f.next++ // first, since OnRefused may panic
		if f.all {
			if c := l.table.slots[i].conn; c != nil {
				l.deliverMessage(c, f.m)
			}
		} else if c := f.to[i].c; c != nil {
			l.deliverMessage(c, f.m)
		} else {
			l.stats.PostsDropped++
		}
	}
	f.done = f.next >= end
	return max(1, f.next-from)
}

func (l *loop) deliverMessage(c *Conn, m Message) {
	if c.greets() {
		return // nobody knows of it yet
	}
	if l.mayPost(c, m.Len()) {
		l.sendHeap(c, m.b)
	}
}

// Broadcast has a message sent to the connections that refs name, as
// [Ref.SendMessage] to each of them would, but with a single entry in the mailbox
// of each loop. It returns to how many that was passed on. Those that have ended,
// or where Send would answer ErrBacklog, are left out without an error. ErrBusy:
// the mailboxes of some loops were full, and their connections are left out, too.
// With any other error nothing was sent.
//
// A connection of which more than Options.MaxBuffered bytes would wait when its
// loop comes to it is skipped: Stats.Refused counts it and [RefusedHandler] hears
// of it. So a slow peer misses whole messages, and costs nobody else anything.
//
// refs may be used again at once.
func (s *Server) Broadcast(refs []Ref, m Message) (n int, err error) {
	loops, err := s.running()
	if err != nil || m.Len() == 0 {
		return 0, err
	}
	live := make([]*anchor, 0, len(refs))
	counts := make([]int, len(loops))
	for _, r := range refs {
		if r.may(refClosing|refFull) != nil {
			continue
		}
		i := r.a.l.index
		if i >= len(loops) || loops[i] != r.a.l {
			return 0, errors.New("ringnet: broadcast: a Ref is one of another server")
		}
		live = append(live, r.a)
		counts[i]++
	}
	parts := [][]*anchor{live}
	if len(loops) > 1 {
		sorted := make([]*anchor, len(live))
		parts = make([][]*anchor, len(loops))
		for i, count := range counts {
			parts[i], sorted = sorted[:0:count], sorted[count:]
		}
		for _, a := range live {
			parts[a.l.index] = append(parts[a.l.index], a)
		}
	}
	for i, to := range parts {
		if len(to) == 0 {
			continue
		}
		const each = 8 // bytes that a receiver's place in the list takes
		x := letter{kind: letterFanout, what: &fanout{m: m, to: to}}
		if e := loops[i].mail.put(x, m.Len()+each*len(to)); e == nil {
			n += len(to)
		} else if errors.Is(e, ErrBusy) {
			err = e
		} // else the loop has ended, and they with it
	}
	return n, err
}

// BroadcastAll is Broadcast to every connection of the server. Connections that
// open or end meanwhile may get the message or not. ErrBusy: the mailboxes of some
// loops were full, and their connections do not get it. ErrServerClosed after the
// end.
func (s *Server) BroadcastAll(m Message) error {
	loops, err := s.running()
	if err != nil || m.Len() == 0 {
		return err
	}
	ended := 0
	for _, l := range loops {
		e := l.mail.put(letter{kind: letterFanout, what: &fanout{m: m, all: true}}, m.Len())
		if errors.Is(e, ErrBusy) {
			err = e
		} else if e != nil {
			ended++
		}
	}
	if ended == len(loops) {
		return ErrServerClosed
	}
	return err
}

// running are the server's loops, also for callbacks that run while Start is still
// at work and holds the lock.
func (s *Server) running() ([]*loop, error) {
	if loops := s.serving.Load(); loops != nil {
		return *loops, nil
	}
	return nil, errors.New("ringnet: the server has not been started")
}
