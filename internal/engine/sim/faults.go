//go:build linux

package sim

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
)

// Faults says how often the kernel does what it may but seldom does, each in a
// thousand occasions. The zero value is a kernel on its best day.
type Faults struct {
	ShortRecv     int // a receive gives less than there is
	ShortSend     int // a send takes less than there is room for
	NoBuffers     int // a receive finds no buffer although there are some
	LastWithData  int // a multishot ends with a completion that carries something
	EmptyBuffer   int // an end of stream comes with a buffer
	RecvEINTR     int // a receive ends with EINTR
	SendEINTR     int // a send ends with EINTR,
	SendNoMemory  int // ENOBUFS or ENOMEM,
	SendFull      int // EAGAIN although there should be room
	LateSend      int // a send takes its bytes long after it was submitted
	AcceptErrors  int // an accept ends with an errno
	CancelTooLate int // a cancel answers EALREADY
	CancelGone    int // a second one answers ENOENT before the last completion came
	SlowCancel    int // a cancelled operation's last completion comes later
	PollNoMemory  int // a poll ends with ENOMEM
	Spurious      int // a poll reports what is no longer so
	Stale         int // a completion comes for a connection that has gone
	Reorder       int // task work runs in another order
	LeaveWork     int // an enter leaves some of it for the next
	Delay         int // task work comes later
	Eager         int // task work runs before entries are taken, as without DEFER_TASKRUN
	EnterEINTR    int // an enter takes nothing
	EnterEBUSY    int
	EnterEAGAIN   int
	WaitEINTR     int // a signal ends a wait
	ShortSubmit   int // an enter takes fewer entries than offered
	TableNoMemory int // the table of direct descriptors cannot be changed
	Copied        int // a zero-copy send copies after all
	LateNotice    int // its notification comes much later
	Segments      int // a datagram with segments is refused
	NoPinning     int // memory cannot be registered
	Cold          int // a file's part is not in the page cache
	DiskErrors    int // a read of a file fails
	ShortRead     int // or gives less than there is
}

// worst is the most of each that a program can be expected to live with.
var worst = Faults{ShortRecv: 300, ShortSend: 300, NoBuffers: 200, LastWithData: 300, EmptyBuffer: 300, RecvEINTR: 100,
	SendEINTR: 200, SendNoMemory: 200, SendFull: 200, LateSend: 500, AcceptErrors: 500, CancelTooLate: 500, CancelGone: 1000, SlowCancel: 500,
	PollNoMemory: 200, Spurious: 200, Stale: 30, Reorder: 500, LeaveWork: 300, Delay: 300, Eager: 900, EnterEINTR: 150, EnterEBUSY: 150, EnterEAGAIN: 150,
	WaitEINTR: 300, ShortSubmit: 500, TableNoMemory: 500, Copied: 500, LateNotice: 500, Segments: 300, NoPinning: 500, Cold: 900, DiskErrors: 30, ShortRead: 300}

// DrawFaults draws a kernel: some have no faults at all, most have some of them,
// seldom or often. Worlds that have everything at once find less than worlds that
// have much of a few.
func DrawFaults(r *rand.Rand) Faults {
	var f Faults
	if r.IntN(8) == 0 {
		return f
	}
	share := 1 + r.IntN(4) // so many quarters of the faults happen
	to, most := reflect.ValueOf(&f).Elem(), reflect.ValueOf(worst)
	for i := range to.NumField() {
		if r.IntN(4) >= share {
			continue
		}
		n := int(most.Field(i).Int())
		if r.IntN(2) == 0 {
			n = 1 + n/10 // seldom
		}
		to.Field(i).SetInt(int64(1 + r.IntN(n)))
	}
	return f
}

// String names the faults that happen.
func (f Faults) String() string {
	var b strings.Builder
	v := reflect.ValueOf(f)
	for i := range v.NumField() {
		if n := v.Field(i).Int(); n > 0 {
			fmt.Fprintf(&b, " %s=%d", v.Type().Field(i).Name, n)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()[1:]
}
