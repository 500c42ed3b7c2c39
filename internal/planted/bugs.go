//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// bug is a mistake that somebody could make.
type bug struct {
	name string
	what string // it does
	file string // where it is, from the root of the module
	old  string // what stands there, once in the file
	new  string // what is planted in its stead
	test test   // which has to catch it

	// alone says that two processors have to work at once for the bug to show: no
	// other is planted meanwhile.
	alone bool
}

// test is what go test is asked to run.
type test struct {
	pkg   string // from the root of the module
	run   string // as in -run: as narrow as may be, since most of its time is waiting for what does not come
	args  []string
	limit time.Duration // 0: patience
}

// String is what to type.
func (t test) String() string {
	s := "go test -run '" + t.run + "' ./" + t.pkg
	if len(t.args) > 0 {
		s += " -args " + strings.Join(t.args, " ")
	}
	return s
}

// worlds is for what only a simulated kernel does often enough: completions that
// come late or out of turn, cancels that come too late, a queue that takes nothing.
// It takes the first n of the worlds, always the same ones.
func worlds(n int) test {
	return test{pkg: "net", run: "^TestSimulatedWorlds$", args: []string{fmt.Sprintf("-sim.worlds=%d", n)}}
}

// placedWorlds is the same for what other loops and limits do to a loop.
var placedWorlds = test{pkg: "net", run: "^TestSimulatedWorldsWithPlacementAndLimits$"}

// handedWorlds is the same for connections that are handed over to std.
var handedWorlds = test{pkg: "net", run: "^TestSimulatedWorldsWithHandOvers$"}

// bugs goes from the kernel's border upwards, as the packages do.
var bugs = []bug{

	// The queues, and the ring of buffers.

	{
		name: "entry-not-emptied",
		what: "An entry keeps what its place held before.",
		file: "internal/sys/queue.go",
		old:  "	*e = Entry{}\n",
		new:  "",
		test: test{pkg: "internal/sys", run: "^TestQueueGivesZeroedEntriesUntilItIsFull$"},
	},
	{
		name: "short-submit-loses-entries",
		what: "What a submit hands over is what was prepared since the one before: what that one left is forgotten.",
		file: "internal/sys/queue.go",
		old:  "return q.tail - atomic.LoadUint32(q.sqHead) }",
		new:  "return q.tail - *q.sqTail }",
		test: test{pkg: "ring", run: "^TestShortSubmitsLeaveTheRestPending$"},
	},
	{
		name: "overflow-not-seen",
		what: "Completions that did not fit the queue are not asked for.",
		file: "internal/sys/queue.go",
		old:  "&(IORING_SQ_TASKRUN|IORING_SQ_CQ_OVERFLOW) != 0",
		new:  "&IORING_SQ_TASKRUN != 0",
		test: test{pkg: "ring", run: "^TestCompletionQueueOverflowLosesNothing$"},
	},
	{
		name: "buffer-index-in-16-bits",
		what: "The place in a buffer ring is computed in 16 bits, which overflows from entry 4,096 on.",
		file: "internal/sys/bufring.go",
		old:  "	e := &r.bufs[int(r.tail&r.mask)]\n",
		new:  "	e := &r.bufs[int((r.tail&r.mask)*16)/16]\n",
		test: test{pkg: "internal/sys", run: "^(TestBufRingHandsBuffersOverInOrderAtEverySize|FuzzBufRing)$"},
	},
	{
		name: "buffer-entry-overwrites-tail",
		what: "Filling entry 0 of a buffer ring writes all of it, and so the tail that lies over its end.",
		file: "internal/sys/bufring.go",
		old:  "	e.Addr = Address(b)\n	e.Len = uint32(len(b))\n	e.Bid = bid\n",
		new:  "	*e = bufEntry{Addr: Address(b), Len: uint32(len(b)), Bid: bid}\n",
		test: test{pkg: "internal/sys", run: "^(TestBufRingHandsBuffersOverInOrderAtEverySize|FuzzBufRing)$"},
	},
	{
		name: "interrupted-enter-is-an-error",
		what: "A signal that ends a wait is taken for a failure.",
		file: "ring/ring.go",
		old:  "		r.counters.Interrupts++\n		return nil\n",
		new:  "		r.counters.Interrupts++\n		return errno\n",
		test: test{pkg: "ring", run: "^(TestErrnosOfAnEnterLoseNoEntry|TestSignalsInterruptWaitsAndLoseNothing)$"},
	},

	// Who holds a buffer.

	{
		name: "second-release-accepted",
		what: "A lease that was released can be released again, when somebody else has the buffer.",
		file: "bufring/pool.go",
		old:  "	a.gen++\n	if p.poison {\n",
		new:  "	if p.poison {\n",
		test: test{pkg: "bufring", run: "^(TestWrapOfPoolsGoesThroughPut|TestWrapLeasesMemoryOfTheHeap)$"},
	},
	{
		name: "leased-buffer-published",
		what: "A buffer is given to the kernel and stays on the stack of free ones, to be leased or given to the kernel again.",
		file: "bufring/group.go",
		old:  "		id := g.free[top]\n		g.free = g.free[:top]\n		g.bufs[id].next = withKernel\n",
		new:  "		id := g.free[top]\n		g.bufs[id].next = withKernel\n",
		test: test{pkg: "bufring", run: "^(TestGroupsOfEverySizePublishAllTheyHave|TestGroupAgainstAModel)$"},
	},
	{
		name: "buffer-taken-twice",
		what: "Two completions with the same buffer give two leases of it.",
		file: "bufring/group.go",
		old:  "	g.bufs[id].next = 0\n	g.published--\n",
		new:  "	g.published--\n",
		test: test{pkg: "bufring", run: "^(TestTakeOfWhatTheKernelDoesNotHoldPanics|TestGroupAgainstAModel)$"},
	},
	{
		name: "charge-not-taken-back",
		what: "A connection's share of the buffers is never credited when they come back.",
		file: "bufring/pool.go",
		old:  "		*a.charged--\n		a.charged = nil\n",
		new:  "		a.charged = nil\n",
		test: test{pkg: "bufring", run: "^(TestChargeCountsUntilTheBufferIsFreeAgain|TestPoolAgainstAModel)$"},
	},
	{
		name: "release-looks-before-it-returns",
		what: "A release looks whether somebody waits before it has given the buffer back: he may begin to wait in between.",
		file: "bufring/pool.go",
		old: `	p.consume(l)
	for {
		top := p.returned.Load()
		p.bufs[l.id].next = top
		if p.returned.CompareAndSwap(top, l.id+1) {
			break
		}
	}
	// The owner sets waiting and then looks at the stack; we push and then look
	// at waiting. Both orders are sequentially consistent, so one of us sees the
	// other.
	if p.waiting.Load() && p.waiting.Swap(false) && p.notify != nil {
`,
		new: `	p.consume(l)
	awaited := p.waiting.Load() && p.waiting.Swap(false)
	for {
		top := p.returned.Load()
		p.bufs[l.id].next = top
		if p.returned.CompareAndSwap(top, l.id+1) {
			break
		}
	}
	if awaited && p.notify != nil {
`,
		test:  test{pkg: "bufring", run: "^TestReleaseAtTheMomentOfAwaitIsFoundOrTold$", args: []string{"-test.count=8"}},
		alone: true,
	},

	// Loops and their mail.

	{
		name: "latch-cleared-after-looking",
		what: "The loop takes what was posted and then says that it has looked: a post in between wakes nobody.",
		file: "net/mailbox.go",
		old: `	m.state.Store(mailAwake)
	// After`,
		new: `	defer m.state.Store(mailAwake)
	// After`,
		test: test{pkg: "net", run: "^TestMailboxClearsItsLatchBeforeItLooks$"},
	},
	{
		name: "sleeps-over-a-post",
		what: "The loop says that it sleeps without looking whether a post has just come: it sleeps over it.",
		file: "net/mailbox.go",
		old:  "	return !m.more() && m.state.CompareAndSwap(mailAwake, mailAsleep)\n",
		new:  "	return !m.more() && m.state.Swap(mailAsleep) <= mailAsleep\n",
		test: test{pkg: "net", run: "^(TestMailboxGoesThroughItsStates|TestSimulatedPosters)$"},
	},
	{
		name: "small-sends-share-memory",
		what: "The memory of the batch that is worked off is given to posters at the same time.",
		file: "net/mailbox.go",
		old:  "	m.batchSmall, m.small = m.small, small[:0]\n",
		new:  "	m.batchSmall, m.small = small, m.small[:0]\n",
		test: test{pkg: "net", run: "^TestMailboxKeepsBytesApart$"},
	},
	{
		name: "late-lease-not-released",
		what: "A lease that was posted to a connection that has ended is dropped without a release.",
		file: "net/mail.go",
		old:  "	case letterLease:\n		l.put(x.lease)\n	case letterEither:\n",
		new:  "	case letterLease:\n	case letterEither:\n",
		test: test{pkg: "net", run: "^TestRefsUsedBeforeTheEndAreDroppedAfterIt$"},
	},
	{
		name: "late-result-not-released",
		what: "A result of offloaded work that finds its connection gone is not released.",
		file: "net/offload.go",
		old:  "		if r.panicked == nil && l.crew.submit(r.discard) != nil {\n",
		new:  "		if r.panicked != nil && l.crew.submit(r.discard) != nil {\n",
		test: test{pkg: "net", run: "^TestResultsForConnectionsThatHaveEndedAreReleased$"},
	},
	{
		name: "posts-reach-what-ends",
		what: "What is posted to a connection is done although it is ending.",
		file: "net/mail.go",
		old:  "	if c == nil || c.state&(closing|dead|finished) != 0 && x.kind != letterAbort {\n",
		new:  "	if c == nil {\n",
		test: test{pkg: "net", run: "^TestRefsUsedBeforeTheEndAreDroppedAfterIt$"},
	},
	{
		name: "wake-not-forgotten",
		what: "After OnWake the next Wake is believed to be on its way.",
		file: "net/mail.go",
		old:  "		x.to.flags.And(^refWaking)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestManyWakesAreOne$"},
	},
	{
		name: "broadcast-not-in-parts",
		what: "A broadcast forgets where it was when a turn's budget ends.",
		file: "net/broadcast.go",
		old:  "	f.done = f.next >= end\n",
		new:  "	f.done = true\n",
		test: test{pkg: "net", run: "^TestBroadcastReachesEveryConnection$"},
	},
	{
		name: "generation-not-checked",
		what: "A completion for a connection that has gone reaches the next one in its slot.",
		file: "net/table.go",
		old:  "	if s := &t.slots[i]; s.gen == gen {\n",
		new:  "	if s := &t.slots[i]; s.conn != nil {\n",
		test: test{pkg: "net", run: "^(TestTableForgetsWhatWasRemoved|FuzzTable)$"},
	},
	{
		name: "panic-loses-the-batch",
		what: "A handler's panic leaves the completions behind its own undispatched.",
		file: "net/loop.go",
		old:  "	for l.next < l.count {\n		l.dispatchSome()\n	}\n",
		new:  "	l.dispatchSome()\n",
		test: test{pkg: "net", run: "^TestPanicsAmongManyBusyConnections$/^default$"},
	},
	{
		name: "panic-keeps-lent-buffer",
		what: "The buffer that a handler was looking at when it panicked is lost.",
		file: "net/loop.go",
		old:  "		if l.lent.Valid() {\n			l.put(l.lent)\n		}\n",
		new:  "",
		test: test{pkg: "net", run: "^TestPanicInACallbackEndsThatConnectionOnly$/^default$/^OnData$"},
	},
	{
		name: "accept-not-armed-again",
		what: "When a shortage of descriptors is over, accepting is no longer paused, but nothing is armed.",
		file: "net/accept.go",
		old:  "		l.acceptMore = l.limited()\n		l.armAccept()\n",
		new:  "		l.acceptMore = l.limited()\n",
		test: test{pkg: "net", run: "^TestConnectionsBeyondTheDescriptorLimitWaitAndAreServed$/^multishot$"},
	},
	{
		name: "accept-forgotten-when-busy",
		what: "An accept that found the submission queue full is not armed when there is room.",
		file: "net/accept.go",
		old:  "			l.armLater = true\n			return\n		}\n		if l.limited() {\n",
		new:  "			return\n		}\n		if l.limited() {\n",
		test: worlds(4000),
	},

	// Time.

	{
		name: "timer-early",
		what: "A timer is due at the beginning of the tick that its time lies in.",
		file: "net/wheel.go",
		old:  "	if ns%int64(tick) > 0 {\n		at++\n	}\n",
		new:  "",
		test: test{pkg: "net", run: "^TestTicksAreNeverEarlyAndTimeHasAnEnd$"},
	},
	{
		name: "timers-lost-on-the-way-down",
		what: "When a wide slot of the wheel is spread, only its first timer is kept.",
		file: "net/wheel.go",
		old:  "	head.prev.next = nil\n",
		new:  "	head.next = nil\n",
		test: test{pkg: "net", run: "^(TestWheelAgainstASortedList|FuzzWheel)$"},
	},
	{
		name: "timer-of-another-time",
		what: "The handle of a timer that is over means the next one in its memory.",
		file: "net/timer.go",
		old:  "return t.t != nil && t.t.gen == t.gen }",
		new:  "return t.t != nil }",
		test: test{pkg: "net", run: "^TestStoppedTimerNeverFires$"},
	},
	{
		name: "timers-outlive-close",
		what: "A connection's timers are alive after Close.",
		file: "net/close.go",
		old:  "	l.dropTimers(c)\n	if c.state&layered",
		new:  "	if c.state&layered",
		test: test{pkg: "net", run: "^TestTimersEndWithTheirConnection$/^Close$"},
	},
	{
		name: "deadline-before-bytes",
		what: "Timeouts are judged before the completions of the same turn are looked at.",
		file: "net/loop.go",
		old:  "		l.dispatch()\n		l.runPosted()\n		l.expire()\n",
		new:  "		l.expire()\n		l.dispatch()\n		l.runPosted()\n",
		test: test{pkg: "net", run: "^TestBytesThatCameInTimeWinAfterAStall$/^small_read$"},
	},
	{
		name: "timeout-watched-once",
		what: "A timer that finds that bytes have come meanwhile is not set again.",
		file: "net/timeout.go",
		old:  "	if due > l.now {\n		l.watch(g)\n		return\n",
		new:  "	if due > l.now {\n		return\n",
		test: test{pkg: "net", run: "^TestBusyConnectionTimesOutWhenItFallsSilent$/^small_read$"},
	},
	{
		name: "pause-counts-as-silence",
		what: "The time in which a handler had paused reading counts against the peer.",
		file: "net/conn.go",
		old:  "		c.l.readWanted(c)\n",
		new:  "		if c.timing != nil {\n			c.l.watch(c.timing)\n		}\n",
		test: test{pkg: "net", run: "^TestReadTimeoutRestsWhileReadingIsPaused$/^small$"},
	},
	{
		name: "watchdog-stays-parked",
		what: "A loop that wakes does not call the watchdog back.",
		file: "net/watchdog.go",
		old:  "	if w.dog.parked.Load() && w.dog.parked.CompareAndSwap(true, false) {\n",
		new:  "	if false {\n",
		test: test{pkg: "net", run: "^TestWatchdogSeesTheFirstTurnAfterItParked$"},
	},

	// Receiving.

	{
		name: "receive-not-armed-again",
		what: "A receive whose last completion has come, without MORE, is still taken for armed.",
		file: "net/receive.go",
		old:  "		c.state &^= recvArmed | cancelling\n",
		new:  "		c.state &^= cancelling\n",
		test: test{pkg: "net", run: "^TestEchoIsByteExactFromOneByteToFourMegabytes$/^no_recv_multishot$/^lease$"},
	},
	{
		name: "last-completion-has-no-bytes",
		what: "Bytes that come with a receive's last completion are dropped.",
		file: "net/receive.go",
		old:  "		if cqe.Res > 0 && c.state&(closing|dead|finished) == 0 {\n",
		new:  "		if cqe.Res > 0 && cqe.More() && c.state&(closing|dead|finished) == 0 {\n",
		test: test{pkg: "net", run: "^TestEchoIsByteExactFromOneByteToFourMegabytes$/^no_recv_multishot$/^lease$"},
	},
	{
		name: "no-buffers-is-an-end",
		what: "A receive that found the group empty (ENOBUFS) closes its connection.",
		file: "net/receive.go",
		old:  "		case unix.ENOBUFS:\n			l.stats.NoBuffers++\n",
		new:  "		case unix.ENOBUFS:\n			l.stats.NoBuffers++\n			l.fail(c, \"read\", errno)\n",
		test: test{pkg: "net", run: "^TestFourSmallBuffersForManyConnections$/^write_without_none$"},
	},
	{
		name: "parked-connection-not-woken",
		what: "Nobody asks to be told when a handler on another goroutine gives back a buffer that connections wait for.",
		file: "net/receive.go",
		old:  "		l.group.Await()\n		l.group.Reclaim()\n		if l.group.Available() < l.enough() {\n",
		new:  "		l.group.Reclaim()\n		if l.group.Available() < l.enough() {\n",
		test: test{pkg: "net", run: "^TestLeaseReleasedElsewhereWakesStarvedConnections$"},
	},
	{
		name: "share-not-charged",
		what: "The buffers that a handler keeps do not count against its connection's share.",
		file: "net/receive.go",
		old:  "	l.group.Charge(l.lent, &c.held)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestConnectionOverItsShareIsNotReadFrom$/^default$"},
	},
	{
		name: "ended-connection-keeps-buffer",
		what: "A buffer that is filled for a connection which has ended meanwhile is not given back.",
		file: "net/receive.go",
		old:  "				l.keepMore(c, lease.Bytes())\n			}\n			l.group.Put(lease)\n",
		new:  "				l.keepMore(c, lease.Bytes())\n			}\n",
		test: test{pkg: "net", run: "^TestTooMuchUnconsumedClosesTheConnection$/^default$"},
	},
	{
		name: "kept-bytes-lost",
		what: "What a handler left unconsumed is replaced by what comes next.",
		file: "net/receive.go",
		old:  "		c.keep(append(c.seldom().kept, lease.Bytes()...))\n",
		new:  "		c.keep(append([]byte(nil), lease.Bytes()...))\n",
		test: test{pkg: "net", run: "^TestUnconsumedBytesComeBackInFrontAndInOnePiece$/^default$"},
	},
	{
		name: "end-overtakes-bytes",
		what: "A handler that has paused reading is told of the end before the bytes that are withheld.",
		file: "net/receive.go",
		old:  "	if c.state&paused != 0 {\n		// Bytes may be withheld, and the end comes after them.\n		c.state |= eofPending\n		return\n	}\n",
		new:  "",
		test: test{pkg: "net", run: "^TestEndOfStreamWhilePausedKeepsReceivedBytes$"},
	},
	{
		name: "two-receives",
		what: "A connection goes over to bulk while its multishot receive is armed: both receive, and the order is lost.",
		file: "net/close.go",
		old:  "	case c.state&recvArmed != 0:\n		if c.state&(noReading",
		new:  "	case c.state&recvArmed != 0 && c.state&wantBulk == 0:\n		if c.state&(noReading",
		test: test{pkg: "net", run: "^TestMovesBetweenSmallAndBulkInAPipelinedStream$/^default$"},
	},
	{
		name: "forgotten-reset-not-asked-for",
		what: "A kernel that forgets a reset is not asked for it.",
		file: "net/receive.go",
		old:  "		if c.unsure && !cqe.NonEmpty() {\n			l.doubt(c)\n		}\n",
		new:  "",
		test: worlds(4000),
	},
	{
		name: "late-reset-not-asked-for",
		what: "A kernel that forgets a reset which is there when the receive is armed is not asked for it.",
		file: "net/untold.go",
		old:  "	u.late = !r.Have(ring.RecvMultishotLate)\n",
		new:  "",
		test: worlds(4000),
	},
	{
		name: "shutdown-in-vain-trusted",
		what: "A receive is left to a shutdown that has failed, and stays armed.",
		file: "net/close.go",
		old:  "				c.unsure = true\n",
		new:  "",
		test: worlds(4000),
	},
	{
		name: "sleeps-in-doubt",
		what: "A loop goes to sleep with connections in doubt: an end behind bytes is found when something else wakes it.",
		file: "net/waiting.go",
		old:  "	if len(l.untold.list) > 0 {\n",
		new:  "	if false {\n",
		test: test{pkg: "net", run: "^TestUnixPeersEnd$/^uring$"},
	},
	{
		name: "late-cancel-forgotten",
		what: "A cancel that came too late counts for good: what is armed still is never cancelled.",
		file: "net/close.go",
		old:  "		c.state &^= busy\n",
		new:  "",
		test: worlds(1000),
	},

	// Sending.

	{
		name: "rest-of-short-send-lost",
		what: "A piece of which a part was sent counts as sent.",
		file: "net/out.go",
		old:  "			s.mem = s.mem[n:]\n			c.out.bytes -= n\n			l.hold(s, -n)\n			return\n",
		new:  "			l.dequeue(c, nil)\n			return\n",
		test: test{pkg: "net", run: "^TestConnCloseWhileSendInFlight$/^default$"},
	},
	{
		name: "two-sends-in-flight",
		what: "What is being sent is sent again with what was written since.",
		file: "net/out.go",
		old:  "	if c.out.head == nil || c.state&(sendArmed|full|dead) != 0 {\n",
		new:  "	if c.out.head == nil || c.state&(full|dead) != 0 {\n",
		test: test{pkg: "net", run: "^TestEchoOfPipelinedRequests$/^poisoned$"},
	},
	{
		name: "buffer-released-before-completion",
		what: "A send's buffer goes home when the send is prepared, not when it has completed.",
		file: "net/out.go",
		old:  "		e.PrepareSend(fd, s.mem, sendFlags)\n",
		new:  "		e.PrepareSend(fd, s.mem, sendFlags)\n		l.put(s.lease)\n		s.lease = bufring.Lease{}\n",
		test: test{pkg: "net", run: "^TestEchoIsByteExactFromOneByteToFourMegabytes$/^poisoned$/^lease$"},
	},
	{
		name: "low-water-not-noticed",
		what: "A connection whose output all goes out at once, by a direct send, stays over its high-water mark.",
		file: "net/out.go",
		old:  "		l.sendDirect(c)\n		l.checkLow(c)\n",
		new:  "		l.sendDirect(c)\n",
		test: test{pkg: "net", run: "^TestOnWritableKeepsAStreamGoing$/^default$/^15000$"},
	},
	{
		name: "full-socket-is-an-end",
		what: "A send that found the socket full (EAGAIN) closes its connection.",
		file: "net/out.go",
		old:  "		case errno == 0 || errno == unix.EAGAIN:\n",
		new:  "		case errno == 0:\n",
		test: test{pkg: "net", run: "^TestManyStalledReadersAtOnce$/^more_than_(four_)?buffers_(lease|write)$"},
	},
	{
		name: "room-poll-not-armed-again",
		what: "A connection that waits for room in its socket is not told of it when the poll for that has ended.",
		file: "net/close.go",
		old:  "		l.armRoom(c) // there was no entry for it, or the poll has ended\n",
		new:  "",
		test: worlds(1000),
	},
	{
		name: "scarce-buffer-waits",
		what: "A send that waits for its peer keeps a receive buffer when there are hardly any.",
		file: "net/out.go",
		old:  "	l.unlend(c)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestScarceBufferIsNotKeptBySendThatWaits$/^default$"},
	},

	{
		name: "memory-free-before-notification",
		what: "Memory that is sent without a copy goes home with the send's result, not with its notification.",
		file: "net/out.go",
		old:  "	if s.pins > 0 {\n		s.gone = true\n		return\n	}\n",
		new:  "	if s.pins > 0 {\n		s.pins = -1 << 20\n	}\n",
		test: worlds(1000),
	},
	{
		name: "copies-not-heard",
		what: "A route on which the kernel copies after all is not given up.",
		file: "net/zerocopy.go",
		old:  "	r.proven = false\n	r.until = l.clock() + int64(r.pause)\n",
		new:  "	r.proven = false\n",
		test: test{pkg: "net", run: "^TestZeroCopyTurnsItselfOffWhereTheKernelCopies$"},
	},
	{
		name: "file-closed-in-use",
		what: "Closing a File closes its descriptor while a transfer reads from it.",
		file: "net/file.go",
		old:  "	f.closed = true\n	if f.uses == 0 {\n		return f.free()\n	}\n	return nil\n",
		new:  "	f.closed = true\n	return f.free()\n",
		test: test{pkg: "net", run: "^TestFileMayBeClosedWhileItIsSent$"},
	},

	// The end.

	{
		name: "half-close-drops-output",
		what: "When the peer ends its direction, what it has not been sent yet is dropped.",
		file: "net/receive.go",
		old:  "		l.close(c, nil)\n		return\n",
		new:  "		l.abort(c, nil)\n		return\n",
		test: test{pkg: "net", run: "^TestPeerEndsItsDirectionAndReadsTheRest$/^default$"},
	},
	{
		name: "close-before-output",
		what: "A close or a half-close takes effect before what was written is out.",
		file: "net/close.go",
		old:  "	if c.out.head == nil && c.state&sendArmed == 0 {\n",
		new:  "	if c.state&sendArmed == 0 {\n",
		test: test{pkg: "net", run: "^(TestCloseSendsWhatWasWritten|TestCloseWriteWhileThePeerGoesOnSending)$/^default$"},
	},
	{
		name: "close-timeout-never",
		what: "A loop that has nothing else to do does not wake for a close timeout.",
		file: "net/close.go",
		old:  "	at, ok := l.untilTimer()\n",
		new:  "	at, ok := int64(0), false\n",
		test: test{pkg: "net", run: "^TestCloseGivesUpAfterCloseTimeout$/^small$"},
	},
	{
		name: "leases-lost-on-reset",
		what: "What waits to be sent on a connection that was reset is forgotten, with its buffers.",
		file: "net/out.go",
		old:  "	for c.out.head != nil {\n		l.dequeue(c, err)\n	}\n}\n",
		new:  "	c.out.head, c.out.tail, c.out.bytes = nil, nil, 0\n}\n",
		test: test{pkg: "net", run: "^TestPeerResetsAStalledEcho$/^no_bulk$"},
	},
	{
		name: "dropped-while-in-flight",
		what: "The buffers of a connection that was aborted go home while the kernel may read from them.",
		file: "net/out.go",
		old:  "	if rare := c.seldom(); c.state&sendArmed != 0 || rare.pinned > rare.notices {\n",
		new:  "	if rare := c.seldom(); rare.pinned > rare.notices {\n",
		test: worlds(1000),
	},
	{
		name: "second-onclose",
		what: "A connection that waits in a list when it ends is ended once more when its turn comes.",
		file: "net/close.go",
		old:  "	if c.state&finished != 0 {\n		return\n	}\n	if c.state&(full|roomArmed|dead) == full {\n",
		new:  "	if c.state&(full|roomArmed|dead) == full {\n",
		test: test{pkg: "net", run: "^TestParkedConnectionEndsOnce$"},
	},
	{
		name: "cause-overwritten",
		what: "What goes wrong while a connection ends replaces the cause of its end.",
		file: "net/close.go",
		old:  "	if c.cause == nil {\n		c.cause = cause\n	}\n	c.state |= closing | dead\n",
		new:  "	c.cause = cause\n	c.state |= closing | dead\n",
		test: test{pkg: "net", run: "^TestFirstCauseStays$/^default$"},
	},
	{
		name: "closed-before-last-completion",
		what: "OnClose is called, and the descriptor closed, while a poll is still in flight on it.",
		file: "net/conn.go",
		old:  "	inFlight  = recvArmed | pollArmed | sendArmed | roomArmed\n",
		new:  "	inFlight  = recvArmed | pollArmed | sendArmed\n",
		test: test{pkg: "net", run: "^TestAbortDropsWhatWasNotSent$/^default$"},
	},
	{
		name: "direct-descriptor-kept",
		what: "The socket of a connection that has ended stays in the ring's table, which keeps it open.",
		file: "net/close.go",
		old:  "	l.dropDirect(c)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestBusyConnectionWhosePeerEndsFirst$/^default$"},
	},

	// Unix sockets and dialling.

	{
		name: "unix-short-means-empty",
		what: "A receive of a Unix socket that gave less than there was room for is taken to have emptied it.",
		file: "net/bulk.go",
		old:  "c.state&hungUp == 0 && !c.remote.isUnix() {",
		new:  "c.state&hungUp == 0 {",
		test: test{pkg: "net", run: "^TestUnixDescriptorsAndUrgentBytesAmongTheData$/^uring$/^bulk_true$"},
	},
	{
		name: "unix-file-left-behind",
		what: "The file of a Unix listener stays when that is closed.",
		file: "net/accept.go",
		old:  "		ln.file.remove()\n",
		new:  "",
		test: test{pkg: "net", run: "^TestUnixListener$/^uring$"},
	},
	{
		name: "dial-timeout-forgotten",
		what: "A connect whose time is over is not cancelled.",
		file: "net/dial.go",
		old:  "				g.expired = true\n				l.dialLater(g)\n",
		new:  "				g.expired = true\n",
		test: worlds(2000),
	},
	{
		name: "dial-cancel-too-late-is-final",
		what: "The cancel of a connect that came too late is not tried again.",
		file: "net/dial.go",
		old:  "		g.cancelled = false\n		l.dialLater(g)\n",
		new:  "",
		test: worlds(4000),
	},
	{
		name: "dial-leaves-its-descriptor",
		what: "The socket of a dial that failed stays open.",
		file: "net/dial.go",
		old:  "	l.closeDial(g)\n	l.endDial(g)\n",
		new:  "	l.endDial(g)\n",
		test: worlds(1000),
	},

	// Datagrams.

	{
		name: "packet-sender-mixed-up",
		what: "Without multishot, the receives of all sockets of a loop use one message: the sender of one is told of another's datagram.",
		file: "net/socket_in.go",
		old:  "			s.message, s.area = l.message(), l.packetArea()\n",
		new:  "			s.message, s.area = p.template, l.packetArea()\n",
		test: worlds(1000),
	},
	{
		name: "packet-answered-from-elsewhere",
		what: "An answer does not leave from the address that was asked.",
		file: "net/socket_out.go",
		old:  "		d.setSource(p.local, uint32(p.Interface))\n",
		new:  "		d.setSource(netip.Addr{}, uint32(p.Interface))\n",
		test: test{pkg: "net", run: "^TestPacketInfoTellsWhereToAndAnswersFromThere$/^poisoned$"},
	},
	{
		name: "segments-of-several-peers",
		what: "Datagrams of one size become segments of one, whomever they are for: the first one's peer gets all.",
		file: "net/socket_out.go",
		old:  "	return string(d.name[:d.nameLen]) == string(o.name[:o.nameLen]) && d.source == o.source &&\n",
		new:  "	return d.nameLen == o.nameLen && d.source == o.source &&\n",
		test: worlds(1000),
	},
	{
		name: "segment-size-of-the-last",
		what: "Datagrams go out as segments of the size of the last one, which may be shorter.",
		file: "net/socket_out.go",
		old:  "				c.segment = uint16(size)\n",
		new:  "				c.segment = uint16(n)\n",
		test: test{pkg: "net", run: "^TestPacketsToOnePeerGoOutAsSegments$/^poisoned$/^off_false$"},
	},
	{
		name: "truncation-not-told",
		what: "A datagram is taken for truncated when it is larger than its buffer, which the part that was received never is.",
		file: "net/socket_in.go",
		old:  "flags&unix.MSG_TRUNC != 0\n",
		new:  "len(payload) > l.o.PacketBytes\n",
		test: test{pkg: "net", run: "^TestPacketTruncatedIsTold$/^poisoned$"},
	},
	{
		name: "packet-receive-not-armed-again",
		what: "A receive whose last completion has come is not armed again, unless the handler has answered.",
		file: "net/socket_in.go",
		old:  "	} else if cqe.More() && s.state",
		new:  "	} else if s.state",
		test: test{pkg: "net", run: "^TestPacketTruncatedIsTold$/^no_recv_multishot$"},
	},
	{
		name: "packet-for-closed-socket-kept",
		what: "A datagram that comes while its socket is being closed is dropped, and its buffer is not given back.",
		file: "net/socket_in.go",
		old:  "	case cqe.Res < 0 || s.state&(socketClosing|socketDead) != 0:\n		l.udp.group.Put(lease)\n",
		new:  "	case cqe.Res < 0 || s.state&(socketClosing|socketDead) != 0:\n",
		test: worlds(2000),
	},
	{
		name: "aborted-socket-keeps-leases",
		what: "What waits to be sent when a socket is aborted is forgotten, with its buffers.",
		file: "net/socket_close.go",
		old:  "	for s.out.count > 0 {\n		l.putPacket(s.out.pop())\n	}\n",
		new:  "	s.out = packetQueue{}\n",
		test: test{pkg: "net", run: "^TestSocketEndsOnceAndInOrder$/^poisoned$/^abort$"},
	},
	{
		name: "parked-socket-not-woken",
		what: "Sockets that wait for a buffer are not told when handlers have given some back.",
		file: "net/socket_in.go",
		old:  "		p.group.Await()\n",
		new:  "",
		test: test{pkg: "net", run: "^TestPacketsGoOnWhenBuffersAreBack$/^poisoned$"},
	},
	{
		name: "icmp-loses-a-packet",
		what: "A datagram that is refused for an earlier one's sake is dropped.",
		file: "net/socket_out.go",
		old:  "	if s.state&socketConnected != 0 && !d.again && errno != unix.EMSGSIZE {\n",
		new:  "	if false {\n",
		test: test{pkg: "net", run: "^TestConnectedSocketLosesNothingToICMP$/^poisoned$"},
	},

	// Which loop gets a connection, and how many there may be.

	{
		name: "ended-connections-counted",
		what: "A connection that ends counts for its loop for good, which then seems to have more than others.",
		file: "net/place.go",
		old:  "	l.team.count(l, -1)\n	l.giveBack()\n",
		new:  "	l.giveBack()\n",
		test: test{pkg: "net", run: "^TestLeastConnectionsFillsWhatIsEmpty$/^least_connections_default$"},
	},
	{
		name: "ended-loop-is-dealt-to",
		what: "A loop that has ended takes connections, which nobody will open or close.",
		file: "net/place.go",
		old:  "	if b.closed || len(b.queue)",
		new:  "	if len(b.queue)",
		test: test{pkg: "net", run: "^TestLoopThatTakesNoConnectionsIsPassedOver$/^round_robin_default$"},
	},
	{
		name: "turned-away-and-left-open",
		what: "A connection that comes to a loop when that is ending is dropped, and its descriptor stays open.",
		file: "net/place.go",
		old:  "	_ = l.r.CloseFd(int(a.fd))\n",
		new:  "",
		test: test{pkg: "net", run: "^TestConnectionsOnTheirWayToALoop$/^round_robin_default/^shutdown$"},
	},
	{
		name: "crowd-is-never-over",
		what: "When those that waited for their OnOpen have all had it, accepting is not begun again.",
		file: "net/place.go",
		old:  "		l.crowded = false\n		l.steerAccepts()\n",
		new:  "		l.crowded = false\n",
		test: test{pkg: "net", run: "^TestCrowdOfConnectionsAtOnce$/^reuseport_default$"},
	},
	{
		name: "place-free-and-nobody-called",
		what: "After MaxConns was reached, a loop that waits for a place is not woken when another has one free.",
		file: "net/limit.go",
		old:  "	first.mail.rouse()\n",
		new:  "",
		test: test{pkg: "net", run: "^TestEveryPlaceCanBeHad$/^round_robin$"},
	},
	{
		name: "place-lost-with-no-connection",
		what: "A place that was taken for a connection which was not there is not given back.",
		file: "net/limit.go",
		old:  "			l.team.limit.give()\n			switch errno {\n",
		new:  "			switch errno {\n",
		test: test{pkg: "net", run: "^TestNoConnectionBeyondTheLimit$/^one_loop_5$"},
	},
	{
		name: "full-server-forgets-who-waits",
		what: "A listener at which connections waited when there was no place is not looked at again until the next one comes.",
		file: "net/limit.go",
		old:  "				l.sayFull()\n				l.acceptMore = false\n",
		new:  "				l.sayFull()\n				ln.ready, l.acceptMore = false, false\n",
		test: test{pkg: "net", run: "^TestEveryPlaceCanBeHad$/^one_loop$"},
	},
	{
		name: "shortage-with-limit-lasts",
		what: "With MaxConns, a listener that had no descriptor for a connection is not tried again when the pause is over.",
		file: "net/accept.go",
		old:  "		l.acceptMore = l.limited()\n",
		new:  "",
		test: placedWorlds,
	},
	{
		name: "shortage-is-a-spin",
		what: "Accepting does not pause when no descriptor is free, but tries again and again.",
		file: "net/accept.go",
		old:  "	l.acceptPaused, l.acceptAt = true, now+int64(l.acceptPause)\n",
		new:  "	l.acceptPaused, l.acceptAt = true, now\n",
		test: test{pkg: "net", run: "^TestConnectionsBeyondTheDescriptorLimitWaitAndAreServed$/^single$"},
	},

	// Hand-over to the standard library.

	{
		name: "handover-loses-late-bytes",
		what: "Bytes that come after HandOver was called, with the receive's last completions, are dropped.",
		file: "net/receive.go",
		old:  "				l.keepMore(c, lease.Bytes())\n",
		new:  "",
		test: handedWorlds,
	},
	{
		name: "handover-loses-the-front",
		what: "What the handler has not consumed is not given along.",
		file: "net/std.go",
		old:  "append(p.front, c.rare.kept...), true\n",
		new:  "p.front, true\n",
		test: test{pkg: "net", run: "^TestHandOverWhileDataArrives$/^default$"},
	},
	{
		name: "handover-of-a-stream-loses-its-rest",
		what: "What blocking code has not read is not given along.",
		file: "net/std.go",
		old:  "		p.front = s.rest() // what is kept came behind it\n",
		new:  "",
		test: test{pkg: "net", run: "^TestStreamHandOverTo$/^default$"},
	},
	{
		name: "handover-with-the-receive-in-flight",
		what: "The descriptor is given away while an operation on it has its last completion yet to come.",
		file: "net/std.go",
		old:  "	if c.state&inFlight != 0 || c.cancels > 0 ||",
		new:  "	if c.state&(inFlight&^recvArmed) != 0 ||",
		test: handedWorlds,
	},
	{
		name: "handover-overtakes-output",
		what: "The descriptor is given away before what was written has gone out.",
		file: "net/std.go",
		old:  "	if c.out.head != nil || c.state&sendArmed != 0 {\n		return\n	}\n	l.endWrite(c)\n",
		new:  "	if c.state&sendArmed != 0 {\n		return\n	}\n	l.endWrite(c)\n",
		test: handedWorlds,
	},
	{
		name: "handed-over-descriptor-closed-too",
		what: "The descriptor of a connection that was handed over is closed all the same.",
		file: "net/close.go",
		old:  "		l.pass(c)\n	} else {\n",
		new:  "		l.pass(c)\n	}\n	{\n",
		test: handedWorlds,
	},
	{
		name: "lost-hand-over-keeps-descriptor",
		what: "The descriptor of a connection that ended before it could be handed over is not closed.",
		file: "net/std.go",
		old:  "		_ = l.r.CloseFd(int(c.fd))\n		l.stats.HandOversLost++\n		err := c.cause\n",
		new:  "		l.stats.HandOversLost++\n		err := c.cause\n",
		test: test{pkg: "net", run: "^TestHandOverIsEndedByAbort$/^default$"},
	},
	{
		name: "handed-over-socket-stays-in-the-table",
		what: "The ring's table of direct descriptors keeps a socket that was given away.",
		file: "net/std.go",
		old:  "		if l.place[0] = -1; l.r.UpdateFiles(c.slot, l.place[:]) != nil {\n			l.later(c)\n			return\n		}\n",
		new:  "",
		test: handedWorlds,
	},
	{
		name: "handed-over-descriptor-is-watched",
		what: "The epoll engine goes on watching a descriptor that was given away.",
		file: "internal/engine/epoll/epoll.go",
		old:  "	if err := e.epoll.Remove(fd); err != nil && !errors.Is(err, unix.ENOENT) {\n		return errnoOf(err)\n	}\n	e.places.forget(fd)\n",
		new:  "	var err error\n	_ = errors.Is(err, unix.ENOENT)\n	e.places.forget(fd)\n",
		test: test{pkg: "net", run: "^TestHandOverLeavesTheLoopAlone$/^epoll$"},
	},
	{
		name: "lost-hand-over-keeps-its-place",
		what: "The place in a HandOverListener's queue of a connection that ended before is not free again.",
		file: "net/stdlistener.go",
		old:  "	defer l.mu.Unlock()\n	l.reserved--\n",
		new:  "	defer l.mu.Unlock()\n",
		test: test{pkg: "net", run: "^TestHandOverListenerGetsThePlaceBackOfWhatIsLost$"},
	},
	{
		name: "front-ignores-deadlines",
		what: "What was received before the hand-over is read without a look at the deadline.",
		file: "net/stdconn.go",
		old:  "	err = raw.Read(func(uintptr) bool {\n",
		new:  "	err = raw.Control(func(uintptr) {})\n	_ = func(f func(uintptr) bool) { _ = f(0) }\n	func(f func(uintptr) bool) { _ = f(0) }(func(uintptr) bool {\n",
		test: test{pkg: "net", run: "^TestConnWithAFrontIsAsStdsIs$/^default$/^deadlines$"},
	},
	{
		name: "sniff-does-not-wait",
		what: "A later rule, or the default, has a connection that an earlier rule may match yet.",
		file: "net/sniff.go",
		old:  "			if !last {\n				return nil, true\n			}\n",
		new:  "",
		test: test{pkg: "net", run: "^TestSniffChoosesByTheFirstBytes$/^default$"},
	},
	{
		name: "sniff-loses-the-end",
		what: "A handler that is chosen at the end of the stream does not hear of that.",
		file: "net/sniff.go",
		old:  "	c.state &^= sawEOF\n",
		new:  "",
		test: test{pkg: "net", run: "^TestSniffOfWhatEndsEarly$/^default$"},
	},
	{
		name: "sniff-timeout-outlives-the-choice",
		what: "A connection that was given to a handler is ended when the time for the choice is over.",
		file: "net/sniff.go",
		old:  "	l.dropTimers(c)\n	l.dropIdleTiming(c)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestSniffEndsAPeerThatSaysTooLittle$/^default$"},
	},

	// Fibers.

	{
		name: "fibers-outlive-their-connection",
		what: "The end of a connection does not wake the fibers that belong to it and wait elsewhere.",
		file: "net/stream.go",
		old:  "		f.cancel(s.closedError(\"wait\"))\n",
		new:  "",
		test: test{pkg: "net", run: "^TestEndOfConnectionWakesItsFibers$/^default$"},
	},
	{
		name: "exit-of-a-fiber-ends-its-loop",
		what: "runtime.Goexit in a fiber is passed on to the loop's goroutine.",
		file: "net/fiber.go",
		old:  "		panic(errExit)\n",
		new:  "		return\n",
		test: test{pkg: "net", run: "^TestBlockingFunctionEnds$/^default$/^by_Goexit$"},
	},
	{
		name: "stream-anywhere",
		what: "A Stream does not find out that it is used on another goroutine.",
		file: "net/stream.go",
		old:  "return s.l.runs.Load() == goroutine.ID()",
		new:  "return s.l.runs.Load() != 0 && goroutine.ID() != 0",
		test: test{pkg: "net", run: "^TestStreamOffItsLoopIsAnError$"},
	},
	{
		name: "unread-bytes-lost",
		what: "What a fiber leaves of what has come when it waits for something else is dropped.",
		file: "net/blocking.go",
		old:  "	if len(s.view) > 0 {\n		s.hold()\n",
		new:  "	if len(s.view) > 0 {\n		s.view = nil\n",
		test: test{pkg: "net", run: "^TestStreamReadsWhatHasCome$/^default$"},
	},
	{
		name: "held-buffer-not-given-back",
		what: "A buffer that was held for a Stream is not put back when it has been read.",
		file: "net/stream_read.go",
		old:  "			s.l.put(s.held)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestStreamReadsWhatHasCome$/^default$"},
	},
	{
		name: "stream-withheld-for-ever",
		what: "A Stream that was not read from, since enough was held, is not read from again.",
		file: "net/stream_read.go",
		old:  "		s.c.ResumeRead()\n",
		new:  "",
		test: test{pkg: "net", run: "^TestStreamHoldsLittleOfWhatIsNotRead$/^default$"},
	},
	{
		name: "deadline-poisons",
		what: "A deadline that was over cannot be taken back.",
		file: "net/stream.go",
		old:  "	if read {\n		d.read = at",
		new:  "	if read && at != 0 {\n		d.read = at",
		test: test{pkg: "net", run: "^TestStreamDeadlines$/^default$"},
	},
	{
		name: "room-not-told",
		what: "Who waits in Write for room is not told when there is some.",
		file: "net/stream_write.go",
		old:  "		s.wakeForRoom(nil)\n",
		new:  "",
		test: test{pkg: "net", run: "^TestSimulatedFibers$", args: []string{"-sim.worlds=300"}},
	},
	{
		name: "copy-misses-the-end",
		what: "A copy that waited for room while the end of the stream came waits for bytes afterwards.",
		file: "net/stream_copy.go",
		old:  " || s.eof || s.readShut || s.leaving {",
		new:  " || s.readShut || s.leaving {",
		test: test{pkg: "net", run: "^TestSimulatedFibers$", args: []string{"-sim.worlds=300"}},
	},
	{
		name: "copy-beyond-its-limit",
		what: "A copy within a limit sends on all of the buffer that the limit lies in.",
		file: "net/stream_copy.go",
		old:  "	if int64(s.ahead()) <= most {",
		new:  "	if s.ahead() > 0 {",
		test: test{pkg: "net", run: "^TestCopyWithinALimit$/^default$"},
	},
	{
		name: "copy-without-back-pressure",
		what: "A copy sends on whatever comes, while its other end takes nothing.",
		file: "net/stream_copy.go",
		old:  "		if to.c.out.bytes > l.high {",
		new:  "		if false {",
		test: test{pkg: "net", run: "^TestCopyPushesBack$/^default$"},
	},
	{
		name: "memory-cut-in-flight",
		what: "A Write that has to give up takes its memory back from a send in flight.",
		file: "net/stream_write.go",
		old:  "	if s.sealed || s.pins > 0 ||",
		new:  "	if s.pins > 0 ||",
		test: test{pkg: "net", run: "^TestSimulatedFibers$", args: []string{"-sim.worlds=500"}},
	},
	{
		name: "both-ends-end-a-stream",
		what: "A connection ends when both directions have, with bytes that blocking code has yet to read.",
		file: "net/close.go",
		old:  " && c.stream == nil {",
		new:  " {",
		test: test{pkg: "net", run: "^TestStreamLivesWhenBothDirectionsHaveEnded$/^default$"},
	},
	{
		name: "fiber-waits-after-its-end",
		what: "A fiber whose connection has ended may wait once more.",
		file: "net/fiber.go",
		old:  "	if f.owner.c.state&(closing|dead|finished) != 0 {",
		new:  "	if false {",
		test: test{pkg: "net", run: "^TestFiberThatIgnoresItsEndIsEnded$/^sleep$"},
	},

	// Sessions.

	{
		name: "session-out-of-order",
		what: "What is written behind a file goes through the session before it.",
		file: "net/layer.go",
		old:  "return c.state&layered != 0 && c.rare.layer.unsealed == 0 }",
		new:  "return c.state&layered != 0 }",
		test: test{pkg: "net", run: "^TestTLSSendsEverythingInOrder$/^default$"},
	},
	{
		name: "session-speaks-behind-a-file",
		what: "What a session says by itself goes behind output that it has yet to number.",
		file: "net/layer.go",
		old:  "	head, tail := c.out.split()\n	c.l.writeRaw(c, b)\n	c.out.join(head, tail)\n",
		new:  "	c.l.writeRaw(c, b)\n",
		test: test{pkg: "net", run: "^TestTLSSendsEverythingInOrder$/^default$"},
	},
	{
		name: "session-bytes-of-a-returned-buffer",
		what: "Bytes that a session has not taken are left in the buffer that goes back to the kernel.",
		file: "net/layer.go",
		old:  "		y.in = bytes.Clone(y.in)\n",
		new:  "		_ = bytes.Clone(y.in)\n",
		test: test{pkg: "net", run: "^TestTLSBytesBehindTheHandshakeWait$/^poisoned$"},
	},
	{
		name: "cut-short-taken-for-the-end",
		what: "A stream that ends without the session's end is taken for a whole one.",
		file: "net/layer.go",
		old:  "			return 0, errCutShort\n",
		new:  "			return 0, io.EOF\n",
		test: test{pkg: "net", run: "^TestTLSStreamThatIsCutShortIsAnError$/^default$"},
	},
	{
		name: "session-end-unsaid",
		what: "Behind a file the session's end is not sent.",
		file: "net/close.go",
		old:  "== layered && l.sayEnd(c) {",
		new:  "== layered && c.state&dead != 0 && l.sayEnd(c) {",
		test: test{pkg: "net", run: "^TestTLSSendsEverythingInOrder$/^default$"},
	},
	{
		name: "handshake-left-waiting",
		what: "A connection that ends in its handshake leaves the coroutine of that behind.",
		file: "net/handshake.go",
		old:  "		k.resume(k.stop)\n",
		new:  "		k.stop = nil\n",
		test: test{pkg: "net", run: "^TestTLSShutdownEndsHandshakes$/^default$"},
	},
	{
		name: "broadcast-into-a-handshake",
		what: "A broadcast to all reaches connections whose handshake is not done.",
		file: "net/broadcast.go",
		old:  "	if c.greets() {\n		return // nobody knows of it yet\n	}\n",
		new:  "",
		test: test{pkg: "net", run: "^TestTLSRefsAndBroadcastsAreEncrypted$/^default$"},
	},
	{
		name: "handshake-error-untold",
		what: "Who has dialled is not told that the handshake has failed.",
		file: "net/dial.go",
		old:  "	if err != nil && g.d.OnError != nil {\n		g.l.call",
		new:  "	if err == nil && g.d.OnError != nil {\n		g.l.call",
		test: test{pkg: "net", run: "^TestTLSDialsThatFail$/^wrong_name$"},
	},
}
