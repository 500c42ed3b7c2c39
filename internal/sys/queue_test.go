//go:build linux && (amd64 || arm64)

package sys

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// plainQueues are queues in ordinary memory, whose other side is the test. All
// positions begin at start, so that a test can cross the end of 32 bits.
func plainQueues(entries, completions int, start uint32) *Queues {
	words := make([]uint32, 7)
	for i := range words[:4] {
		words[i] = start
	}
	return &Queues{
		sqHead: &words[0], sqTail: &words[1], cqHead: &words[2], cqTail: &words[3],
		sqFlags: &words[4], sqDropped: &words[5], cqOverflow: &words[6],
		sqMask: uint32(entries - 1), sqCount: uint32(entries), sqes: make([]Entry, entries), tail: start,
		cqMask: uint32(completions - 1), cqCount: uint32(completions), cqes: make([]Completion, completions),
	}
}

const nearWrap = 1<<32 - 3 // the third entry from here lies beyond 32 bits

func TestQueueGivesZeroedEntriesUntilItIsFull(t *testing.T) {
	q := plainQueues(4, 8, nearWrap)
	for i := range q.sqes {
		q.sqes[i] = Entry{Opcode: 99, UserData: 99} // left over from an earlier round
	}
	for i := range 4 {
		if free := q.Free(); free != uint32(4-i) {
			t.Errorf("%d entries are free before entry %d", free, i)
		}
		e := q.Next()
		if e == nil {
			t.Fatalf("no entry %d of 4", i)
		}
		if *e != (Entry{}) {
			t.Errorf("entry %d is not empty: %+v", i, *e)
		}
		e.UserData = uint64(i)
	}
	if q.Next() != nil {
		t.Error("a full queue gave a fifth entry of 4")
	}
	if q.Free() != 0 || q.Unconsumed() != 4 {
		t.Errorf("full queue: %d free and %d unconsumed", q.Free(), q.Unconsumed())
	}
	*q.sqHead += 2 // the consumer takes two
	if q.Free() != 2 || q.Unconsumed() != 2 {
		t.Errorf("after two were taken: %d free and %d unconsumed", q.Free(), q.Unconsumed())
	}
	for i, want := range []bool{true, true, false} {
		if got := q.Next() != nil; got != want {
			t.Errorf("two places are free again: entry %d comes out: %v", i, got)
		}
	}
}

func TestQueueShowsEntriesToTheConsumerOnlyWhenPublished(t *testing.T) {
	q := plainQueues(4, 8, nearWrap)
	q.Next().UserData = 1
	q.Next().UserData = 2
	if *q.sqTail != nearWrap {
		t.Errorf("the tail moved by %d before Publish", *q.sqTail-nearWrap)
	}
	q.Publish()
	if n := *q.sqTail - nearWrap; n != 2 {
		t.Errorf("the tail moved by %d, two entries were published", n)
	}
	q.Publish() // again, with nothing new
	if n := *q.sqTail - nearWrap; n != 2 {
		t.Errorf("the tail moved by %d, nothing was added", n)
	}
	for i := range uint32(2) {
		if got := q.sqes[(nearWrap+i)&q.sqMask].UserData; got != uint64(i+1) {
			t.Errorf("the consumer finds entry %d where entry %d should be", got, i+1)
		}
	}
}

func TestCompletionsKeepTheirOrderAcrossTheEndOf32Bits(t *testing.T) {
	q := plainQueues(2, 4, nearWrap)
	post := func(u uint64) {
		q.cqes[*q.cqTail&q.cqMask] = Completion{UserData: u, Res: int32(u)}
		*q.cqTail++
	}
	posted, taken := uint64(0), uint64(0)
	for range 5 {
		for range 4 {
			posted++
			post(posted)
		}
		if q.Ready() != 4 {
			t.Fatalf("%d completions are ready, want 4", q.Ready())
		}
		for _, n := range []uint32{1, 3} {
			for i := range n {
				if c := q.Completion(i); c.UserData != taken+uint64(i)+1 {
					t.Fatalf("completion %d is %d, want %d", i, c.UserData, taken+uint64(i)+1)
				}
			}
			q.Advance(n)
			taken += uint64(n)
		}
		if q.Ready() != 0 {
			t.Fatalf("%d completions are ready after all were taken", q.Ready())
		}
	}
}

func TestQueueFlagsOfTheConsumer(t *testing.T) {
	tests := []struct {
		name                               string
		flags                              uint32
		needsEnter, overflowed, needsAwake bool
	}{
		{name: "none"},
		{name: "task work", flags: IORING_SQ_TASKRUN, needsEnter: true},
		{name: "overflow", flags: IORING_SQ_CQ_OVERFLOW, needsEnter: true, overflowed: true},
		{name: "poller sleeps", flags: IORING_SQ_NEED_WAKEUP, needsAwake: true},
		{name: "all", flags: 7, needsEnter: true, overflowed: true, needsAwake: true},
	}
	for _, tt := range tests {
		q := plainQueues(1, 2, 0)
		*q.sqFlags = tt.flags
		if q.NeedsEnter() != tt.needsEnter || q.Overflowed() != tt.overflowed || q.NeedsWakeup() != tt.needsAwake {
			t.Errorf("%s: NeedsEnter %v, Overflowed %v, NeedsWakeup %v", tt.name, q.NeedsEnter(), q.Overflowed(), q.NeedsWakeup())
		}
	}
}

func TestLostCountsDroppedCompletionsAndRejectedEntries(t *testing.T) {
	q := plainQueues(1, 2, 0)
	*q.cqOverflow, *q.sqDropped = 3, 4
	if q.Lost() != 7 {
		t.Errorf("%d lost, want 7", q.Lost())
	}
}

// The other side runs in another goroutine, as the kernel runs on another CPU.
// Under -race this also shows that the atomic positions alone order the entries.
func TestQueuesWithAConsumerOnAnotherThread(t *testing.T) {
	const total = 200_000
	q := plainQueues(8, 16, 1<<32-total/2)
	go func() { // takes each entry and posts a completion for it
		head, tail := *q.sqHead, *q.cqTail
		for n := uint64(0); n < total; {
			if head == atomic.LoadUint32(q.sqTail) || tail-atomic.LoadUint32(q.cqHead) == q.cqCount {
				runtime.Gosched()
				continue
			}
			u := q.sqes[head&q.sqMask].UserData
			head++
			atomic.StoreUint32(q.sqHead, head)
			q.cqes[tail&q.cqMask] = Completion{UserData: u}
			tail++
			atomic.StoreUint32(q.cqTail, tail)
			n++
		}
	}()
	deadline := time.Now().Add(20 * time.Second)
	sent, got := uint64(0), uint64(0)
	for got < total {
		for range 5 {
			if e := q.Next(); e != nil && sent < total {
				e.UserData = sent
				sent++
			} else if e != nil {
				q.tail-- // nothing more to send
			}
		}
		q.Publish()
		n := q.Ready()
		for i := range n {
			if u := q.Completion(i).UserData; u != got+uint64(i) {
				t.Fatalf("completion %d came where %d was due", u, got+uint64(i))
			}
		}
		q.Advance(n)
		got += uint64(n)
		if n == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("stuck at %d of %d", got, total)
			}
			runtime.Gosched()
		}
	}
	if q.Unconsumed() != 0 || q.Ready() != 0 {
		t.Errorf("at the end: %d unconsumed, %d ready", q.Unconsumed(), q.Ready())
	}
}
