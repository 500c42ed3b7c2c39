//go:build linux

package ring

import "example.com/ringnet/internal/sys"

// Map returns n bytes of zeroed memory outside the Go heap, fit to be named in
// entries: nothing moves or frees it before [Unmap]. Safe for concurrent use.
func Map(n int) ([]byte, error) { return sys.Map(n) }

// Unmap gives memory from Map back. No operation may be in flight on it.
func Unmap(mem []byte) error { return sys.Unmap(mem) }

// Message is a header and a vector of up to [MaxVector] pieces, for vectored
// sends and receives. It lives in mapped memory; a Message is a handle to it.
type Message struct{ m *sys.Message }

// MaxVector is the most pieces one Message holds.
const MaxVector = sys.MaxVector

// MessageBytes is the size of one Message in memory.
const MessageBytes = sys.MessageBytes

// Messages lays messages over mem, which came from [Map], as many as fit.
func Messages(mem []byte) ([]Message, error) {
	ms, err := sys.Messages(mem)
	if err != nil {
		return nil, err
	}
	handles := make([]Message, len(ms))
	for i := range ms {
		handles[i] = Message{&ms[i]}
	}
	return handles, nil
}

// Reset empties the message.
func (m Message) Reset() { m.m.Reset() }

// Append adds b to the vector, and reports false when it is full.
func (m Message) Append(b []byte) bool { return m.m.Append(b) }

// Len is the number of pieces in the vector.
func (m Message) Len() int { return m.m.Len() }

// SetName sets where the peer's address is.
func (m Message) SetName(name []byte) { m.m.SetName(name) }

// SetControl sets where control data is.
func (m Message) SetControl(control []byte) { m.m.SetControl(control) }

// MapFile maps the first n bytes of a regular file, for the kernel to read in sends.
// Nobody else may touch them: what the file no longer has is SIGBUS for us and EFAULT
// for the kernel. truthful says that [Ring.Resident] tells the truth about it, which
// it does only to a process that could write the file.
func MapFile(fd int, n int) (mem []byte, truthful bool, err error) {
	mem, err = sys.MapFile(fd, n)
	return mem, err == nil && sys.MayAskResident(fd), err
}

// NameLen is the length that the name was set with; after a single receive, that of
// the address that came (which may be more than there was room for).
func (m Message) NameLen() int { return m.m.NameLen() }

// ControlLen is the same of control data.
func (m Message) ControlLen() int { return m.m.ControlLen() }

// Flags are those of a single receive: unix.MSG_TRUNC, unix.MSG_CTRUNC.
func (m Message) Flags() int { return int(m.m.Flags()) }
