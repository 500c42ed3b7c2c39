//go:build linux

package ring

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine"
	"example.com/ringnet/internal/engine/epoll"
	"example.com/ringnet/internal/engine/uring"
	"example.com/ringnet/internal/sys"
)

// KernelFloor is the oldest kernel on which io_uring is used: DEFER_TASKRUN and
// SENDMSG_ZC came with it. It is documentation; what decides is [Have].
const KernelFloor = "6.1"

// Config is what a ring is made with. The zero value is right for most.
type Config struct {
	// Engine chooses what stands behind the queues. Default [Auto].
	Engine EngineKind

	// EntryCount is the size of the submission queue, rounded up to a power of
	// two. Default 256, range 1 to 32,768.
	EntryCount int

	// CompletionCount is the size of the completion queue, rounded up to a power
	// of two. One multishot entry makes many completions, so it should be a good
	// deal larger than EntryCount. Default 8 times EntryCount but at least 4,096;
	// range 2 to 65,536 and not below EntryCount.
	CompletionCount int

	// Mask switches features off, as if the kernel did not have them.
	Mask Features

	// SQPoll makes a kernel thread take entries, so that submitting needs no
	// system call; the value is how long it spins before it sleeps. It costs a
	// core. Default 0: off.
	SQPoll time.Duration

	// BusyPoll makes waits poll the network device for so long before they
	// sleep. It needs a device with NAPI ids, which loopback has not. Default 0:
	// off. Since Linux 6.9.
	BusyPoll time.Duration
}

// EngineKind names an engine.
type EngineKind uint8

const (
	// Auto takes the fastest engine that can be had.
	Auto EngineKind = iota
	// Uring is the kernel's io_uring. Since Linux 6.1 (KernelFloor).
	Uring
	// Epoll does the same operations with epoll(7) and plain calls: wherever
	// io_uring is forbidden or too old.
	Epoll
	// Sim is the simulated kernel of this module's own tests. It cannot be chosen.
	Sim
)

// String is the name that flags use: auto, uring, epoll.
func (k EngineKind) String() string {
	switch k {
	case Auto:
		return "auto"
	case Uring:
		return "uring"
	case Epoll:
		return "epoll"
	case Sim:
		return "sim"
	}
	return fmt.Sprintf("EngineKind(%d)", uint8(k))
}

// ParseEngine reads a name as String gives it.
func ParseEngine(name string) (EngineKind, error) {
	for _, k := range []EngineKind{Auto, Uring, Epoll} {
		if name == k.String() {
			return k, nil
		}
	}
	return 0, fmt.Errorf("engine %q is unknown: use auto, uring or epoll", name)
}

// check fills the defaults in and refuses what is out of range.
func (c Config) check() (Config, error) {
	if c.Engine > Epoll {
		return c, fmt.Errorf("ring: Engine is %v: use ring.Auto, ring.Uring or ring.Epoll", c.Engine)
	}
	if c.EntryCount == 0 {
		c.EntryCount = 256
	}
	if c.EntryCount < 1 || c.EntryCount > 32768 {
		return c, fmt.Errorf("ring: EntryCount is %d: it must be from 1 to 32768", c.EntryCount)
	}
	if c.CompletionCount == 0 {
		c.CompletionCount = min(max(8*c.EntryCount, 4096), 65536)
	}
	if c.CompletionCount < max(2, c.EntryCount) || c.CompletionCount > 65536 {
		return c, fmt.Errorf("ring: CompletionCount is %d: it must be from 2 to 65536 and not below EntryCount (%d)", c.CompletionCount, c.EntryCount)
	}
	if c.SQPoll < 0 || c.BusyPoll < 0 {
		return c, fmt.Errorf("ring: SQPoll (%v) and BusyPoll (%v) must not be negative", c.SQPoll, c.BusyPoll)
	}
	if c.SQPoll > 0 && c.SQPoll < time.Millisecond {
		return c, fmt.Errorf("ring: SQPoll is %v: the kernel counts in milliseconds, use at least 1ms", c.SQPoll)
	}
	return c, nil
}

// Counters is what a ring has done since it was made.
type Counters struct {
	Enters      uint64 // calls into the engine
	Waits       uint64 // of those, the ones that were allowed to block
	Submitted   uint64 // entries the engine took
	Completions uint64 // completions reaped
	Overflows   uint64 // enters that found completions waiting outside the queue
	Interrupts  uint64 // enters ended by a signal
	Busy        uint64 // enters refused until completions are reaped
	Glances     uint64 // polls of an engine that is not the kernel, see Glance
}

// Ring is one queue pair. See the package comment for who may use it when.
type Ring struct {
	q        *sys.Queues
	eng      engine.Engine
	kind     EngineKind
	reason   error    // why it is not io_uring, if that was to be tried
	have     Features // of an engine that is not the kernel
	passive  bool
	cfg      Config
	counters Counters
}

// ErrBusy says that the engine took no entries until completions are reaped
// (EBUSY: the completion queue has overflowed; EAGAIN: no memory for requests).
// Nothing is lost: reap, and submit again.
var ErrBusy = errors.New("ring: busy, reap completions first")

// New makes a ring, disabled until Enable. May be called on any goroutine.
//
// With Engine Auto it is io_uring where that can be had, else epoll, and Reason
// tells why. With Engine Uring, when io_uring cannot be had, the error is a
// *[SetupError], which says the likely cause and what would mend it.
func New(c Config) (*Ring, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.Engine == Epoll {
		return newEpoll(c, nil)
	}
	eng, err := newUring(c)
	switch {
	case err == nil:
		return &Ring{q: eng.Queues(), eng: eng, kind: Uring, cfg: c}, nil
	case c.Engine == Auto && (errors.Is(err, ErrNotSupported) || errors.Is(err, unix.ENOMEM)):
		return newEpoll(c, err)
	}
	return nil, err
}

func newUring(c Config) (*uring.Engine, error) {
	o := uring.Options{EntryCount: uint32(c.EntryCount), CompletionCount: uint32(c.CompletionCount),
		SQPoll: c.SQPoll, BusyPoll: c.BusyPoll, NoRegisteredFd: c.Mask&RegisteredRing != 0}
	if c.Mask&NoEntryArray != 0 {
		o.Mask |= sys.IORING_SETUP_NO_SQARRAY
	}
	if c.Mask&DeferTaskrun != 0 {
		o.Mask |= sys.IORING_SETUP_DEFER_TASKRUN
	}
	if c.Mask&SingleIssuer != 0 {
		o.Mask |= sys.IORING_SETUP_SINGLE_ISSUER
	}
	eng, err := uring.New(o)
	if err != nil {
		return nil, setupError(err)
	}
	if c.Engine == Auto {
		// A kernel that has io_uring, but is too old for what makes it worth it.
		if err := Have(BufferRings); errors.Is(err, ErrNotSupported) {
			_ = eng.Close()
			return nil, err
		}
	}
	return eng, nil
}

// epollFeatures is what the emulation does; the others are about io_uring itself.
const epollFeatures = BufferRings | AcceptMultishot | RecvMultishot | PollMultishot | SendZC | SendmsgZC | UsageReport |
	SyncMessage | UnixRecvMultishot | RecvMultishotReset | RecvMultishotLate

func newEpoll(c Config, reason error) (*Ring, error) {
	if c.SQPoll > 0 || c.BusyPoll > 0 {
		return nil, fmt.Errorf("ring: SQPoll and BusyPoll need io_uring: %w", ErrNotSupported)
	}
	eng, err := epoll.New(epoll.Options{EntryCount: uint32(c.EntryCount), CompletionCount: uint32(c.CompletionCount)})
	if err != nil {
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			err = fmt.Errorf("%w: no descriptor is free; raise the limit of open files ('ulimit -n' or LimitNOFILE=)", err)
		}
		return nil, fmt.Errorf("make an epoll ring: %w", err)
	}
	r := Over(eng, Epoll, epollFeatures, c)
	r.reason = reason
	return r, nil
}

// Over makes a ring over an engine that exists. For this module: the engine's type
// is internal to it.
func Over(eng engine.Engine, kind EngineKind, have Features, c Config) *Ring {
	return &Ring{q: eng.Queues(), eng: eng, kind: kind, have: have, passive: eng.Passive(), cfg: c}
}

// Enable makes the calling thread the ring's own. The goroutine must be locked
// to it (runtime.LockOSThread) for as long as it uses the ring.
func (r *Ring) Enable() error {
	if err := r.eng.Enable(); err != nil {
		return fmt.Errorf("enable ring: %w", err)
	}
	return nil
}

// Close ends the ring. Every operation must have had its last completion: those
// still in flight are cancelled by the kernel later, and memory they name must
// outlive that. Closing twice is harmless.
func (r *Ring) Close() error { return r.eng.Close() }

// Engine tells what stands behind the queues.
func (r *Ring) Engine() EngineKind { return r.kind }

// Reason is why Auto did not choose io_uring; nil if it did, or had no choice.
func (r *Ring) Reason() error { return r.reason }

// Now is a monotonic clock, from an arbitrary beginning.
func (r *Ring) Now() time.Duration { return r.eng.Now() }

// EntryCount is the size of the submission queue.
func (r *Ring) EntryCount() int { return int(r.q.EntryCount()) }

// CompletionCount is the size of the completion queue.
func (r *Ring) CompletionCount() int { return int(r.q.CompletionCount()) }

// Counters returns what the ring has done so far. Only on the ring's goroutine.
func (r *Ring) Counters() Counters { return r.counters }

// Lost counts completions that the kernel dropped for want of memory, and
// entries that it rejected as malformed. It stays zero in a healthy process.
func (r *Ring) Lost() uint32 { return r.q.Lost() }

// Entry returns an empty entry to prepare. When the queue is full it submits
// first; nil means that it is still full, because the engine is busy: reap
// completions and try again later.
func (r *Ring) Entry() *Entry {
	if e := r.q.Next(); e != nil {
		return (*Entry)(e)
	}
	if r.Submit() != nil {
		return nil
	}
	return (*Entry)(r.q.Next())
}

// Free is the number of entries that can be prepared before the queue is full.
func (r *Ring) Free() int { return int(r.q.Free()) }

// Pending is the number of prepared entries that the engine has not taken.
func (r *Ring) Pending() int { return int(r.q.Unconsumed()) }

// Submit hands the prepared entries over, without looking for completions. A
// short submit is no error: the rest stays pending.
func (r *Ring) Submit() error {
	n := r.q.Unconsumed()
	if n == 0 {
		return nil
	}
	r.q.Publish()
	r.counters.Enters++
	return r.result(r.eng.Submit(n))
}

// Poll hands the prepared entries over and makes every completion visible that
// can be had without blocking. It calls the engine even when nothing is prepared.
func (r *Ring) Poll() error {
	n := r.q.Unconsumed()
	r.q.Publish()
	r.counters.Enters++
	if r.q.Overflowed() {
		r.counters.Overflows++
	}
	return r.result(r.eng.Poll(n))
}

// Wait hands the prepared entries over and blocks until at least min completions
// are visible, timeout has passed (negative: no limit), or a signal came. So a
// return says nothing about completions: look at Ready.
func (r *Ring) Wait(min int, timeout time.Duration) error {
	n := r.q.Unconsumed()
	r.q.Publish()
	r.counters.Enters++
	r.counters.Waits++
	if r.q.Overflowed() {
		r.counters.Overflows++
	}
	return r.result(r.eng.Wait(n, uint32(min), timeout))
}

// result sorts the outcome of an enter: what is ordinary becomes nil.
func (r *Ring) result(n int, errno syscall.Errno) error {
	switch errno {
	case 0:
		r.counters.Submitted += uint64(n)
		return nil
	case unix.ETIME:
		return nil // the timeout of a wait
	case unix.EINTR:
		// The Go scheduler preempts with SIGURG, so this is a matter of course.
		// Nothing was submitted; Unconsumed still counts it.
		r.counters.Interrupts++
		return nil
	case unix.EBUSY, unix.EAGAIN:
		r.counters.Busy++
		return ErrBusy
	case unix.EEXIST:
		return fmt.Errorf("enter ring: %w: it was enabled on another thread; lock the goroutine to its thread (runtime.LockOSThread) before Enable", errno)
	case unix.EBADF, unix.EINVAL:
		// A registered ring is looked up in a table of the calling thread.
		return fmt.Errorf("enter ring: %w: it is closed, or it was enabled on another thread; lock the goroutine to its thread (runtime.LockOSThread) before Enable", errno)
	case unix.EBADFD:
		return fmt.Errorf("enter ring: %w: call Enable first", errno)
	case unix.EBADR:
		return fmt.Errorf("enter ring: %w: the kernel dropped completions for want of memory", errno)
	}
	return fmt.Errorf("enter ring: %w", errno)
}

// Ready is the number of completions that Reap would copy.
func (r *Ring) Ready() int { return int(r.q.Ready()) }

// NeedsEnter reports that completions wait until the next Poll or Wait: work that
// the kernel deferred to this thread, or completions that did not fit. Reading it
// costs one load and no system call.
func (r *Ring) NeedsEnter() bool { return r.q.NeedsEnter() }

// Glance reports whether completions are there or can be had by a Poll. With
// io_uring it costs two loads; where nobody fills the queue by himself it polls.
func (r *Ring) Glance() bool {
	if r.q.Ready() > 0 || r.q.NeedsEnter() {
		return true
	}
	if !r.passive {
		return false
	}
	r.counters.Glances++
	_, _ = r.eng.Poll(0) // an errno comes again with the next enter
	return r.q.Ready() > 0
}

// Reap copies completions into dst, oldest first, gives their places back to the
// engine, and returns how many it copied.
func (r *Ring) Reap(dst []Completion) int {
	n := min(r.q.Ready(), uint32(len(dst)))
	if n == 0 {
		return 0
	}
	for i := range n {
		dst[i] = Completion(*r.q.Completion(i))
	}
	r.q.Advance(n)
	r.counters.Completions += uint64(n)
	return int(n)
}
