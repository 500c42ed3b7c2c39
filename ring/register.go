//go:build linux

package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/uring"
	"example.com/ringnet/internal/sys"
)

// BufRing is a ring through which buffers are handed to the kernel. Package
// bufring keeps account of who holds each buffer; use that.
type BufRing struct{ r *sys.BufRing }

// NewBufRing maps a ring of entries places, a power of two up to 32,768.
func NewBufRing(entries int) (*BufRing, error) {
	r, err := sys.NewBufRing(entries)
	if err != nil {
		return nil, err
	}
	return &BufRing{r}, nil
}

// Add fills the next place with b under the id bid; Publish hands it over. No
// more than EntryCount buffers may be with the kernel at once.
func (b *BufRing) Add(mem []byte, bid uint16) { b.r.Add(mem, bid) }

// Publish hands every added buffer to the kernel.
func (b *BufRing) Publish() { b.r.Publish() }

// EntryCount is the number of places in the ring.
func (b *BufRing) EntryCount() int { return b.r.EntryCount() }

// Close unmaps the ring. It must have been unregistered, or its Ring closed.
func (b *BufRing) Close() error { return b.r.Close() }

// RegisterBufRing makes b group of this ring, for receives with buffer selection.
// b must outlive the registration. A group that was taken back cannot be
// registered again before Linux 6.9 if it is below 64: that is refused with an
// error that matches [ErrNotSupported]. Since Linux 5.19 (BufferRings).
func (r *Ring) RegisterBufRing(group uint16, b *BufRing) error {
	return registerError("buffer ring", r.eng.RegisterBufRing(group, b.r))
}

// UnregisterBufRing takes group back. No receive may be armed on it.
func (r *Ring) UnregisterBufRing(group uint16) error {
	return registerError("buffer ring", r.eng.UnregisterBufRing(group))
}

// RegisterBuffers pins bufs for the fixed operations, which name them by index.
// They count against RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK.
func (r *Ring) RegisterBuffers(bufs [][]byte) error {
	return registerError("buffers", r.eng.RegisterBuffers(bufs))
}

// UnregisterBuffers undoes RegisterBuffers.
func (r *Ring) UnregisterBuffers() error { return registerError("buffers", r.eng.UnregisterBuffers()) }

// RegisterBuffersSparse makes a table of n places for fixed buffers, to be filled by
// UpdateBuffer. Since Linux 5.19.
func (r *Ring) RegisterBuffersSparse(n uint32) error {
	return registerError("buffers", r.eng.RegisterBuffersSparse(n))
}

// UpdateBuffer pins mem, at most 1 GiB, and makes it fixed buffer index; nil empties
// the place, and what is in flight keeps what it uses. Since Linux 5.13.
func (r *Ring) UpdateBuffer(index uint32, mem []byte) error {
	return registerError("buffers", r.eng.UpdateBuffer(index, mem))
}

// RegisterFiles makes a table of n empty direct descriptors, n up to the limit of
// open files. Since Linux 5.19 (DirectDescriptors).
func (r *Ring) RegisterFiles(n uint32) error {
	return registerError("direct descriptors", r.eng.RegisterFilesSparse(n))
}

// UpdateFiles puts descriptors into the table from index first on; -1 empties a
// place. The table holds its own reference: closing the descriptor later leaves
// the place filled.
func (r *Ring) UpdateFiles(first uint32, fds []int32) error {
	return registerError("direct descriptors", r.eng.UpdateFiles(first, fds))
}

// UnregisterFiles drops the table.
func (r *Ring) UnregisterFiles() error {
	return registerError("direct descriptors", r.eng.UnregisterFiles())
}

// registerError adds to an errno what would mend it.
func registerError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOMEM):
		var lim unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim) == nil {
			return fmt.Errorf("register %s: %w: over the limit of locked memory (%d bytes)? raise it with 'ulimit -l' or LimitMEMLOCK=", what, err, lim.Cur)
		}
	case errors.Is(err, uring.ErrGroupUsed):
		return fmt.Errorf("register %s: %w: %w; use an id that was not used, or one from 64", what, ErrNotSupported, err)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("register %s: %w: more than the limit of open files allows; raise it with 'ulimit -n' or LimitNOFILE=", what, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("register %s: %w: already registered, or called on a thread that did not enable the ring", what, err)
	}
	return fmt.Errorf("register %s: %w", what, err)
}
