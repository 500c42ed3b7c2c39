//go:build linux

package ring

import (
	"syscall"

	"example.com/ringnet/internal/sys"
)

// Completion is the outcome of an operation, or one of many for a multishot one.
type Completion sys.Completion

// Err is the error of a failed operation, or nil. Not for notifications, whose
// Res is a set of flags: test Notification first.
func (c *Completion) Err() error {
	if c.Res < 0 {
		return syscall.Errno(-c.Res)
	}
	return nil
}

// More reports that the operation goes on and will complete again. Without it
// the operation is over, though this completion may still carry data, a buffer
// or a descriptor.
func (c *Completion) More() bool { return c.Flags&sys.IORING_CQE_F_MORE != 0 }

// Buffer is the id of the provided buffer that was filled; ok is false when the
// completion carries none.
func (c *Completion) Buffer() (id uint16, ok bool) {
	return uint16(c.Flags >> sys.IORING_CQE_BUFFER_SHIFT), c.Flags&sys.IORING_CQE_F_BUFFER != 0
}

// NonEmpty reports that the socket held more data when this receive was done.
// Meaningless unless Res is positive.
func (c *Completion) NonEmpty() bool { return c.Flags&sys.IORING_CQE_F_SOCK_NONEMPTY != 0 }

// Notification reports that this is the second completion of a zero-copy send:
// the kernel is done with the memory.
func (c *Completion) Notification() bool { return c.Flags&sys.IORING_CQE_F_NOTIF != 0 }

// Copied reports, for a notification of a send with ReportUsage, that the kernel
// copied the data after all. Since Linux 6.2.
func (c *Completion) Copied() bool { return uint32(c.Res)&sys.IORING_NOTIF_USAGE_ZC_COPIED != 0 }
