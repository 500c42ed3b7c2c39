package control

import "sync"

// Acks lets a server send to many connections only as fast as they acknowledge: a
// round sends one message to each, and may begin when no more than a window of
// rounds is unacknowledged.
type Acks struct {
	conns, window uint64
	mu            sync.Mutex
	more          sync.Cond
	rounds, acks  uint64
	waiting       bool
}

// NewAcks makes one for so many connections.
func NewAcks(conns, window int) *Acks {
	a := &Acks{conns: uint64(conns), window: uint64(window)}
	a.more.L = &a.mu
	return a
}

// Add counts acknowledgements: each byte is so many messages. Safe for concurrent
// use.
func (a *Acks) Add(b []byte) {
	n := uint64(0)
	for _, k := range b {
		n += uint64(k)
	}
	a.mu.Lock()
	a.acks += n
	// Woken for every few, the poster would do little each time.
	wake := a.waiting && a.open()
	a.mu.Unlock()
	if wake {
		a.more.Signal()
	}
}

// Wait waits until the next round may begin, and counts it.
func (a *Acks) Wait() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.open() {
		a.waiting = true
		a.more.Wait()
		a.waiting = false
	}
	a.rounds++
}

func (a *Acks) open() bool { return a.acks+a.window*a.conns >= (a.rounds+1)*a.conns }
