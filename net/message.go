//go:build linux

package net

// Message is bytes that are copied once and then sent any number of times, to any
// connections of any loops, without another copy. It never changes. The zero
// Message is empty. It is a small value: pass it by value, and from any goroutine.
type Message struct{ b []byte }

// NewMessage makes a message of a copy of b.
func NewMessage(b []byte) Message { return Message{append([]byte(nil), b...)} }

// Len is the number of its bytes.
func (m Message) Len() int { return len(m.b) }

// SendMessage sends a message after what was written before, without a copy. Errors
// are those of Write.
func (c *Conn) SendMessage(m Message) error {
	if err := c.mayWrite(m.Len()); err != nil {
		return err
	}
	if m.Len() > 0 {
		c.l.sendHeap(c, m.b)
	}
	return nil
}
