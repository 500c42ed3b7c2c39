//go:build linux

package net

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/internal/goroutine"
	"example.com/ringnet/ring"
)

// loop is one goroutine locked to one thread, with one ring, one group of receive
// buffers, its own listeners and the connections that these accepted. All of it
// belongs to that goroutine, except the mailbox.
type loop struct {
	index int
	o     *Options
	h     *handlers // of the connections that it accepts
	r     *ring.Ring
	waker *ring.Waker
	mail  mailbox
	crew  *crew // for offloaded work; the server's

	group    *bufring.Group  // what the kernel receives into
	large    *bufring.Pool   // what bulk connections receive into directly
	copies   []*bufring.Pool // for copies of writes, by size; the last one is large
	chunks   *bufring.Pool   // what files are read into
	share    int             // how many receive buffers one connection may hold
	messages []ring.Message  // vectors for sends, not in use

	messageMem [][]byte

	// What the kernel can do, looked up once.
	recvMultishot, acceptMultishot, pollMultishot bool

	untold untold

	offloaded int      // results of offloaded work that are to come
	directs   uint32   // places for direct descriptors; 0: none
	place     [1]int32 // what goes into one
	listeners []listener
	table     table
	inFlight  int // operations whose last completion is outstanding

	batch []ring.Completion // reaped and not dispatched: from next to count
	next  int
	count int

	queuedSends int // prepared since the last submit
	queuedBytes int

	// lent is the buffer that OnData of lentTo is looking at. The zero lease
	// stands for lentTo.kept.
	lent   bufring.Lease
	lentTo *Conn

	calling   *Conn // whose handler is running
	offering  *Conn // in OnData
	finishing *Conn // in OnClose

	dirty      []*Conn // to settle after the callback that changed them
	retry      []*Conn // to settle when the submission queue has room
	starved    []*Conn // waiting for a receive buffer, in order
	capped     []*Conn // hold more receive buffers than their share
	readyList  []*Conn // bulk connections with bytes left when their budget was not
	readySpare []*Conn
	sending    []*Conn // with a file to send from
	chunkless  []*Conn // waiting for a buffer to read a file into
	piece      int     // the most that goes out of a file with one call in this turn
	owing      []owed

	dials  dialTable
	nobody Conn // whose callback OnError is

	g       uintptr        // the loop's goroutine
	runs    atomic.Uintptr // the goroutine that runs: this one or a fiber's; 0: none
	fiber   *Fiber         // that runs; nil: none
	fibers  int            // that have not ended
	woken   fiberList      // that are to run
	dialled *handlers      // of what fibers dial

	began      int64
	now        int64 // of the clock, when the loop last looked for completions
	wheel      wheel
	freeTimers *callTimer
	freeTiming []*timing
	watched    watched

	team       *team // nil for a loop by itself
	in         inbox
	arrivals   []arrival // accepted, and to be opened
	opened     int       // in this turn
	crowded    bool      // there are too many arrivals to accept more
	acceptMore bool      // listeners may have more, see acceptReady
	atLimit    bool      // MaxConns was found to be reached
	retiring   bool      // draining, but connections end in their own time

	limitComplainAt int64 // when that may be told of again

	held      int // bytes of output and of kept input, see held.go
	heldInput int // of the latter
	high, low int // HighWater and LowWater, or less
	heavyFrom int // how many bytes held bring these down

	acceptPaused     bool  // because of a shortage, until acceptAt
	acceptComplainAt int64 // when a shortage may be told of again

	starvedComplainAt int64 // the same for receive buffers
	refusedComplainAt int64 // and for hand-overs that nobody takes

	acceptAt    int64
	acceptPause time.Duration
	armLater    bool // accepts, their cancels or the waker found the queue full
	deaf        bool // the waker is not armed

	draining bool // no new connections; the loop ends with the last one
	stopped  bool

	udp packets // what there is for UDP sockets

	freeSegments *segment
	zeroCopyFrom int
	zeroCopies   zeroCopies
	statics      statics
	spin         spinner
	glances      int // between looks at the clock
	gather       gatherer
	stats        Stats
	final        Stats // the last snapshot, after the loop has ended
	err          error // why it ended, or what was left over
	done         chan struct{}
}

const (
	// batchMax bounds a turn: so many completions are dispatched before the loop
	// looks after everything else.
	batchMax = 1024
	// A batch is submitted in its middle when what it has queued is worth a call
	// by itself: peers get their answers while the rest is worked on. A call
	// costs about 1,100 cycles (VLDB'26, uring.md 4.1), a send some 5,000.
	flushSends = 64
	flushBytes = 48 << 10
)

// copySizes are the buffers that writes are copied to, apart from the large ones:
// most answers fit the first, and a page of HTML fits the second. As many as there
// are connections with an answer on its way; their memory is used only then.
var copySizes = []bufring.PoolOptions{{BufBytes: 2 << 10, Count: 8192}, {BufBytes: 16 << 10, Count: 2048}}

// newLoop makes what a loop needs, except what only its own thread can.
func newLoop(index int, o *Options, h *handlers) (*loop, error) {
	l := &loop{index: index, o: o, h: h, done: make(chan struct{}),
		batch: make([]ring.Completion, batchMax), spin: newSpinner(o.Spin)}
	l.nobody = Conn{l: l, fd: -1, state: finished | dead}
	l.setMarks(o.HighWater, o.LowWater, o.MaxLoopBytes/2)
	var err error
	c := ring.Config{Engine: o.Engine, EntryCount: o.EntryCount, CompletionCount: o.CompletionCount, Mask: o.Mask}
	if o.over != nil {
		l.r, err = o.over(index, c)
	} else {
		l.r, err = ring.New(c)
	}
	if err != nil {
		return nil, err
	}
	l.recvMultishot = l.r.Have(ring.RecvMultishot)
	l.untold.learn(l.r)
	l.acceptMultishot = l.r.Have(ring.AcceptMultishot)
	l.pollMultishot = l.r.Have(ring.PollMultishot)
	l.share = max(1, o.RecvBufs/8)
	l.zeroCopyFrom = o.ZeroCopyFrom
	if o.ZeroCopyFrom < 0 || !l.r.Have(ring.SendZC|ring.SendmsgZC|ring.UsageReport) || l.r.Engine() == ring.Epoll {
		l.zeroCopyFrom = math.MaxInt
	}
	l.glances = 32 // about a microsecond
	if l.r.Engine() != ring.Uring {
		l.glances = 1 // each is a call
	}
	if l.waker, err = ring.NewWaker(l.r, userData(kindWake, 0, 0)); err != nil {
		_ = l.r.Close()
		return nil, err
	}
	l.mail.wake = func() { _ = l.waker.Wake() }
	l.mail.maxLetters, l.mail.maxBytes = o.MaxPosted, o.MaxPostedBytes
	for _, size := range append(copySizes[:len(copySizes):len(copySizes)], bufring.PoolOptions{BufBytes: o.BulkBufBytes, Count: o.BulkBufs}) {
		size.Poison = o.poison
		p, err := bufring.NewPool(size)
		if err != nil {
			l.discard()
			return nil, err
		}
		l.copies = append(l.copies, p)
		l.large = p
	}
	if l.chunks, err = bufring.NewPool(bufring.PoolOptions{BufBytes: fileBufBytes, Count: o.FileBufs, Poison: o.poison}); err != nil {
		l.discard()
		return nil, err
	}
	return l, nil
}

// pools are all that the loop has.
func (l *loop) pools() []*bufring.Pool {
	if l.chunks == nil {
		return l.copies
	}
	return append(l.copies[:len(l.copies):len(l.copies)], l.chunks)
}

// discard frees a loop that was never started.
func (l *loop) discard() {
	l.draining, l.stopped = true, true
	l.lastMail() // loops that run may have handed something over
	for i := range l.listeners {
		l.closeListener(&l.listeners[i])
	}
	l.eachSocket(func(s *Socket) { _ = l.r.CloseFd(int(s.fd)) })
	_ = l.closePackets()
	for !l.in.closeEmpty() { // another loop has been dealing already
		for _, a := range l.in.take(nil) {
			l.turnAway(a)
		}
	}
	for _, p := range l.pools() {
		_ = p.Close()
	}
	_ = l.waker.Close()
	_ = l.r.Close()
}

// listen opens a listener for the loop. Before the loop starts.
func (l *loop) listen(addr netip.AddrPort, shared, v6only bool) (netip.AddrPort, error) {
	fd, err := l.r.ListenTCP(addr, l.o.Backlog, shared, v6only)
	if err != nil {
		return addr, &OpError{Op: "listen", Addr: TCPAddr(addr), Err: explainListen(err)}
	}
	// Accepted sockets inherit these, which spares calls for each.
	if err := l.tune(fd); err != nil {
		_ = l.r.CloseFd(fd)
		return addr, &OpError{Op: "listen", Addr: TCPAddr(addr), Err: err}
	}
	bound, err := l.r.LocalAddr(fd)
	if err != nil {
		_ = l.r.CloseFd(fd)
		return addr, &OpError{Op: "listen", Addr: TCPAddr(addr), Err: err}
	}
	l.listeners = append(l.listeners, listener{fd: fd, addr: TCPAddr(bound)})
	return bound, nil
}

// tune sets on a TCP socket what Options say.
func (l *loop) tune(fd int) error {
	set := func(level, name, value int) error { return l.r.SetInt(fd, level, name, value) }
	if l.o.KeepAlive > 0 {
		if err := setKeepAlive(set, l.o.KeepAlive, l.o.KeepAliveInterval, l.o.KeepAliveCount); err != nil {
			return err
		}
	}
	if l.o.Delay {
		return nil
	}
	return set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// explainListen adds to an errno of bind or listen what would mend it.
func explainListen(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: another socket has this address; stop that program, or choose another port (0 for any free one)", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: no interface of this machine has this address", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: ports below %s need CAP_NET_BIND_SERVICE", err, "net.ipv4.ip_unprivileged_port_start")
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: no descriptor is free; raise the limit of open files ('ulimit -n' or LimitNOFILE=)", err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: this address family is switched off here", err)
	}
	return err
}

// start sets up, on the loop's own thread, what belongs there.
func (l *loop) start() error {
	if err := l.r.Enable(); err != nil {
		return err
	}
	// As many places as the process may have descriptors, at most; so this can
	// fail, and we do without.
	if l.r.Have(ring.DirectDescriptors|ring.DirectRelease) && l.r.RegisterFiles(directCount) == nil {
		l.directs = directCount
	}
	var err error
	l.group, err = bufring.NewGroup(l.r, bufring.GroupOptions{BufBytes: l.o.RecvBufBytes, Count: l.o.RecvBufs, Poison: l.o.poison})
	if err != nil {
		return err
	}
	l.group.Notify(l.mail.rouse)
	if l.waker.Armed() {
		if !l.waker.Arm() {
			return errors.New("arm the waker: the submission queue is full")
		}
		l.inFlight++
	}
	if l.udp.used > 0 {
		if err := l.usePackets(); err != nil {
			return err
		}
		l.eachSocket(l.markSocket)
	}
	l.armAccept()
	l.began = l.clock()
	l.now = l.began
	return nil
}

// run is the loop's goroutine. ready gets the outcome of start.
func (l *loop) run(ready chan<- error) {
	runtime.LockOSThread()
	l.g = goroutine.ID()
	l.runs.Store(l.g)
	defer l.runs.Store(0)
	// Unlocked at the end only after a clean end: a thread that the kernel still
	// knows as a ring's owner is not given back to the scheduler but ended.
	defer close(l.done)
	unpin, err := l.pin()
	if err == nil {
		err = l.start()
	}
	if err != nil {
		if l.group != nil {
			_ = l.group.Close()
		}
		l.discard()
		if unpin != nil && unpin() == nil {
			runtime.UnlockOSThread()
		}
		ready <- err
		return
	}
	l.label()
	ready <- nil
	for !l.stopped {
		l.wait()
		l.dispatch()
		l.runPosted()
		l.expire()
	}
	l.watched.asleep()
	if l.teardown() && unpin() == nil {
		runtime.UnlockOSThread()
	}
}

// clock is a monotonic time in nanoseconds.
func (l *loop) clock() int64 { return int64(l.r.Now()) }

// entry returns an empty entry, or nil when the queue is full for now.
func (l *loop) entry() *ring.Entry { return l.r.Entry() }

// entered notes the outcome of an enter.
func (l *loop) entered(err error) {
	l.queuedSends, l.queuedBytes = 0, 0
	if err == nil || errors.Is(err, ring.ErrBusy) {
		return // busy: the completions that are in the way are reaped next
	}
	// No enter of a ring in good order fails otherwise. Going on would serve
	// nobody and might corrupt: the loop's memory is shared with the kernel.
	panic(fmt.Sprintf("ringnet: loop %d: %v", l.index, err))
}

// flush submits in the middle of a batch.
func (l *loop) flush() {
	l.stats.Flushes++
	l.entered(l.r.Submit())
}

func (l *loop) reset() { l.next, l.count = 0, 0 }

// reap copies a batch of completions out of the queue.
func (l *loop) reap() bool {
	l.count = l.r.Reap(l.batch)
	return l.count > 0
}

// dispatch hands the batch to the connections it belongs to. A callback that
// panics ends that connection; the rest of the batch goes on.
func (l *loop) dispatch() {
	for l.next < l.count {
		l.dispatchSome()
	}
}

func (l *loop) dispatchSome() {
	defer l.contain()
	l.settleDirty() // what a panic left over
	for l.next < l.count {
		cqe := &l.batch[l.next]
		l.next++
		if l.fibers >= approachFrom {
			l.approach()
		}
		l.complete(cqe)
		if len(l.owing) > 0 {
			l.settleOwing()
		}
		if len(l.dirty) > 0 || !l.woken.empty() {
			l.settleDirty()
		}
		if l.queuedSends >= flushSends || l.queuedBytes >= flushBytes {
			l.flush()
		}
	}
}

// complete finds whose completion it is.
func (l *loop) complete(cqe *ring.Completion) {
	k, gen, slot := splitUserData(cqe.UserData)
	switch k {
	case kindRecv, kindSend, kindPoll, kindRoom, kindCancel, kindCancelRoom, kindRead:
		c := l.table.find(gen, slot)
		if c == nil {
			l.stale(cqe)
			return
		}
		switch k {
		case kindRecv:
			l.onRecv(c, cqe)
		case kindSend:
			l.onSend(c, cqe)
		case kindPoll:
			l.onPoll(c, cqe)
		case kindRoom:
			l.onRoom(c, cqe)
		case kindCancel:
			l.onCancel(c, cqe, cancelling)
		case kindCancelRoom:
			l.onCancel(c, cqe, leaving)
		case kindRead:
			l.onRead(c, cqe)
		}
	case kindZeroCopy:
		l.onZeroCopy(gen, slot, cqe)
	case kindPacket, kindPacketRoom, kindCancelPacket, kindCancelPacketRoom:
		l.completePacket(k, gen, slot, cqe)
	case kindAccept:
		l.onAccept(slot, cqe)
	case kindCancelAccept:
		l.inFlight--
		l.onCancelAccept(slot, cqe)
	case kindConnect:
		l.onConnect(gen, slot, cqe)
	case kindCancelConnect:
		l.onCancelConnect(gen, slot, cqe)
	case kindWake:
		if l.waker.Armed() && !cqe.More() {
			l.inFlight--
			l.rearmWaker()
		}
	}
}

// stale drops a completion of a connection that has gone, but not what it holds.
func (l *loop) stale(cqe *ring.Completion) {
	l.stats.Stale++
	if id, ok := cqe.Buffer(); ok {
		l.group.Put(l.group.Take(id, 0))
	}
}

func (l *loop) rearmWaker() {
	if l.stopped || l.draining && !l.retiring && l.empty() {
		return
	}
	if !l.waker.Arm() {
		l.armLater = true
		l.deaf = true
		return
	}
	l.deaf = false
	l.inFlight++
}

// call runs a callback of c.
func (l *loop) call(c *Conn, f func()) {
	before := l.calling
	l.calling = c
	f()
	l.calling = before
}

// contain turns a panic in a callback into the end of its connection. A panic
// that is not a callback's is our own bug, and goes on.
func (l *loop) contain() {
	c := l.calling
	if c == nil && l.udp.calling == nil {
		return
	}
	v := recover()
	if v == nil {
		return // runtime.Goexit, which nothing can stop
	}
	l.calling, l.offering = nil, nil
	l.stats.Panics++
	cause := &PanicError{Value: v, Stack: debug.Stack()}
	l.o.Logger.Error("ringnet: handler panicked", "loop", l.index, "panic", v, "stack", string(cause.Stack))
	if l.udp.calling != nil {
		l.socketPanicked(cause)
		return
	}
	if l.lentTo != nil {
		l.lentTo = nil
		if l.lent.Valid() {
			l.put(l.lent)
		}
	}
	if f := l.finishing; f != nil {
		l.release(f)
		return
	}
	if c.state&dead == 0 {
		c.cause = cause // also if the peer's end came first: the panic is the news
	}
	l.abort(c, cause)
}

// mark has c settled after the callback that is running, or later in this turn.
func (l *loop) mark(c *Conn) {
	if c.state&(isDirty|finished) == 0 {
		c.state |= isDirty
		l.dirty = append(l.dirty, c)
	}
}

// settleDirty settles the marked ones, and those that settling marks. Then it runs the
// fibers that have been woken, and settles what these mark.
func (l *loop) settleDirty() {
	l.settleMarked()
	if !l.woken.empty() {
		l.resumeWoken()
		l.settleMarked()
	}
}

func (l *loop) settleMarked() {
	for i := 0; i < len(l.dirty); i++ {
		c := l.dirty[i]
		if c == nil {
			continue
		}
		l.dirty[i] = nil
		c.state &^= isDirty
		l.settle(c)
	}
	l.dirty = l.dirty[:0]
}

// later has c settled in the next turn, when the submission queue has room.
func (l *loop) later(c *Conn) {
	if n := len(l.retry); n == 0 || l.retry[n-1] != c {
		l.retry = append(l.retry, c)
	}
}

// runPosted is the third step of a turn: what other goroutines want, and what had
// to wait for room.
func (l *loop) runPosted() {
	l.runMail()
	l.ask()
	if len(l.retry) > 0 {
		batch := l.retry
		l.retry = nil
		l.settleEach(batch)
	}
	if l.armLater {
		l.armLater = false
		if l.deaf {
			l.rearmWaker()
		}
		l.steerAccepts()
	}
	l.runDials()
	if l.limited() {
		l.guard(l.acceptReady)
	}
	l.openArrivals()
	l.receiveReady()
	l.sendFiles()
	l.uncap()
	l.feed()
	l.feedSockets()
	l.guard(func() {}) // settles what the steps above have marked
}

// expire is the fourth step: what is due.
func (l *loop) expire() {
	l.expireTimers()
	if l.acceptPaused || l.dials.next != 0 || len(l.udp.closing) > 0 {
		l.guard(func() {
			now := l.clock()
			l.expireSockets(now)
			l.resumeAccept(now)
			l.expireDials(now)
		})
	}
	if l.draining && l.empty() && len(l.arrivals) == 0 {
		l.stop()
	}
}

// settleEach settles connections one by one, so that a handler's panic about one
// of them leaves none of the others out.
func (l *loop) settleEach(batch []*Conn) {
	for _, c := range batch {
		l.guard(func() { l.settle(c) })
	}
}

// guard runs f, and then settles what it marked, under contain.
func (l *loop) guard(f func()) {
	func() {
		defer l.contain()
		f()
	}()
	// Once for fibers, since each may wake another.
	for woken := !l.woken.empty(); woken || len(l.dirty) > 0 || len(l.owing) > 0; woken = false {
		func() {
			defer l.contain()
			l.settleOwing()
			l.settleDirty()
		}()
	}
}
