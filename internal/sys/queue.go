//go:build linux && (amd64 || arm64)

package sys

import (
	"sync/atomic"
	"unsafe"
)

// Queues is one submission queue and one completion queue in shared memory, seen
// from the side that fills the first and empties the second.
//
// Who consumes submissions and posts completions (the kernel, an emulation, a
// simulation) does not show here: the layout is io_uring's in every case, so the
// code above runs the same instructions whichever it is.
//
//	          entries                      completions
//	head ──► [consumer takes]    head ──► [we take]      (we store, release)
//	tail ──► [we fill]           tail ──► [producer posts] (we load, acquire)
//
// All methods belong to one goroutine; the other side may run at the same time.
type Queues struct {
	sqHead    *uint32 // stored by the consumer
	sqTail    *uint32 // stored by us
	sqFlags   *uint32 // IORING_SQ_*, stored by the consumer
	sqDropped *uint32
	sqMask    uint32
	sqCount   uint32
	sqes      []Entry
	tail      uint32 // our tail; sqTail lags behind it until Publish

	cqHead     *uint32 // stored by us
	cqTail     *uint32 // stored by the producer
	cqOverflow *uint32
	cqMask     uint32
	cqCount    uint32
	cqes       []Completion

	maps [][]byte
}

// EntryCount is the number of entries the submission queue holds.
func (q *Queues) EntryCount() uint32 { return q.sqCount }

// CompletionCount is the number of completions the completion queue holds.
func (q *Queues) CompletionCount() uint32 { return q.cqCount }

// Next returns the next free entry, zeroed, or nil when the queue is full. The
// entry is handed over by the next Publish; until then it may still be changed.
func (q *Queues) Next() *Entry {
	// Acquire: the consumer stores head after it has read the entry, so what we
	// write into a slot it has passed cannot be seen by that earlier read.
	if q.tail-atomic.LoadUint32(q.sqHead) >= q.sqCount {
		return nil
	}
	e := &q.sqes[q.tail&q.sqMask]
	q.tail++
	*e = Entry{}
	return e
}

// Free is the number of entries that Next can still give before a submit.
func (q *Queues) Free() uint32 {
	return q.sqCount - (q.tail - atomic.LoadUint32(q.sqHead))
}

// Publish makes every entry that Next returned visible to the consumer.
func (q *Queues) Publish() {
	// Release: the entries' contents are visible before the tail that covers
	// them. Only a polling kernel thread (SQPOLL) reads the tail at any time;
	// otherwise io_uring_enter is an ordering point by itself.
	if *q.sqTail != q.tail {
		atomic.StoreUint32(q.sqTail, q.tail)
	}
}

// Tail is the position of the next entry, modulo 2^32.
func (q *Queues) Tail() uint32 { return q.tail }

// Unconsumed is the number of entries that the consumer has not taken yet. It is
// computed anew from the queue each time, so a short submit loses nothing.
func (q *Queues) Unconsumed() uint32 { return q.tail - atomic.LoadUint32(q.sqHead) }

// Ready is the number of completions that can be taken now. Acquire: once the
// tail is seen, so are the completions before it.
func (q *Queues) Ready() uint32 { return atomic.LoadUint32(q.cqTail) - *q.cqHead }

// Completion returns the i-th completion that waits, i less than Ready.
func (q *Queues) Completion(i uint32) *Completion {
	return &q.cqes[(*q.cqHead+i)&q.cqMask] // only we store cqHead
}

// Advance gives the places of the n oldest completions back. What Completion
// returned for them must have been copied out.
func (q *Queues) Advance(n uint32) {
	// Release: our copies are done before the producer may overwrite.
	atomic.StoreUint32(q.cqHead, *q.cqHead+n)
}

// NeedsEnter reports that completions wait behind io_uring_enter(GETEVENTS): task
// work that the kernel deferred to this thread (TASKRUN, seen only with
// SETUP_TASKRUN_FLAG), or completions that did not fit the queue (CQ_OVERFLOW).
func (q *Queues) NeedsEnter() bool {
	return atomic.LoadUint32(q.sqFlags)&(IORING_SQ_TASKRUN|IORING_SQ_CQ_OVERFLOW) != 0
}

// Overflowed reports that completions wait in the kernel because the queue was
// full when they came.
func (q *Queues) Overflowed() bool {
	return atomic.LoadUint32(q.sqFlags)&IORING_SQ_CQ_OVERFLOW != 0
}

// NeedsWakeup reports that the kernel's polling thread sleeps (SQPOLL only).
func (q *Queues) NeedsWakeup() bool {
	return atomic.LoadUint32(q.sqFlags)&IORING_SQ_NEED_WAKEUP != 0
}

// Lost is the number of completions that the kernel dropped for want of memory,
// and of entries it rejected as malformed. Anything but zero is an emergency.
func (q *Queues) Lost() uint32 {
	return atomic.LoadUint32(q.cqOverflow) + atomic.LoadUint32(q.sqDropped)
}

// release unmaps the queues' memory. No view may be used after it.
func (q *Queues) release() error {
	var first error
	for _, m := range q.maps {
		if err := unmapShared(m); err != nil && first == nil {
			first = err
		}
	}
	*q = Queues{}
	return first
}

// word returns the 32-bit word at offset off of a mapping.
func word(m []byte, off uint32) *uint32 {
	_ = m[off+3]
	return (*uint32)(unsafe.Pointer(&m[off]))
}
