//go:build linux

package ring

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/uring"
	"example.com/ringnet/internal/sys"
)

// Have probes one feature by doing the smallest real operation with it. There are
// three answers: nil (the kernel has it), an error that matches ErrNotSupported
// (it has not), and any other error (could not tell, for want of a descriptor,
// say). The first two are remembered for the life of the process.
// Safe for concurrent use.
func Have(f Features) error {
	if bits.OnesCount32(uint32(f)) != 1 || f&AllFeatures == 0 {
		return fmt.Errorf("ring: Have(%v): ask for one feature at a time", f)
	}
	p := &probes[bits.TrailingZeros32(uint32(f))]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known {
		return p.answer
	}
	err := p.try()
	switch {
	case err == nil:
	case unknownToKernel(err):
		err = fmt.Errorf("%v: %w (%w)", f, ErrNotSupported, err)
	case errors.Is(err, ErrNotSupported):
		err = fmt.Errorf("%v: %w", f, err)
	default:
		return fmt.Errorf("probe %v: cannot tell: %w", f, err)
	}
	p.known, p.answer = true, err
	return err
}

// unknownToKernel reports the errnos with which a kernel answers operations,
// registrations and flags that it has never heard of.
func unknownToKernel(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)
}

var probes = [...]struct {
	mu     sync.Mutex
	known  bool
	answer error
	try    func() error
}{
	{try: probeBufferRings},
	{try: probeAcceptMultishot},
	{try: probeRecvMultishot},
	{try: probePollMultishot},
	{try: func() error { return probeSendZC(sys.IORING_OP_SEND_ZC, false) }},
	{try: func() error { return probeSendZC(sys.IORING_OP_SENDMSG_ZC, false) }},
	{try: func() error { return probeSendZC(sys.IORING_OP_SEND_ZC, true) }},
	{try: probeDirectDescriptors},
	{try: probeMessageRing},
	{try: probeSyncMessage},
	{try: probeRegisteredRing},
	{try: func() error { return probeSetup(sys.IORING_SETUP_DEFER_TASKRUN | sys.IORING_SETUP_SINGLE_ISSUER) }},
	{try: func() error { return probeSetup(sys.IORING_SETUP_SINGLE_ISSUER) }},
	{try: func() error { return probeSetup(sys.IORING_SETUP_NO_SQARRAY) }},
	{try: probeUnixRecvMultishot},
	{try: probeRecvMultishotReset},
	{try: probeDirectRelease},
	{try: probeRecvMultishotLate},
}

// probeRing is a small ring without flags, so that any thread may use it.
type probeRing struct {
	*sys.Uring
}

func newProbeRing() (probeRing, error) {
	u, err := sys.Setup(8, sys.Params{Flags: sys.IORING_SETUP_CLAMP})
	if err != nil {
		return probeRing{}, setupError(err)
	}
	return probeRing{u}, nil
}

// do submits one prepared entry and returns the first completion.
func (p probeRing) do() (Completion, error) {
	p.Publish()
	for deadline := time.Now().Add(time.Second); ; {
		_, errno := p.Wait(p.Unconsumed(), 1, 100*time.Millisecond)
		if p.Ready() > 0 {
			c := Completion(*p.Completion(0))
			p.Advance(1)
			return c, nil
		}
		if errno != 0 && errno != unix.EINTR && errno != unix.ETIME {
			return Completion{}, errno
		}
		if time.Now().After(deadline) {
			return Completion{}, errors.New("no completion within a second")
		}
	}
}

// expectMore does the entry and wants a completion that promises another.
func (p probeRing) expectMore() error {
	c, err := p.do()
	if err != nil {
		return err
	}
	if err := c.Err(); err != nil {
		return err
	}
	if !c.More() {
		return fmt.Errorf("%w: it completed only once", ErrNotSupported)
	}
	return nil
}

func (p probeRing) entry() *Entry { return (*Entry)(p.Next()) }

func probeBufferRings() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	r, err := sys.NewBufRing(1)
	if err != nil {
		return err
	}
	defer r.Close()
	return p.RegisterBufRing(0, r)
}

func probeAcceptMultishot() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	// A Unix socket with a name of the kernel's choice (autobind) touches
	// neither the network nor the file system.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1); err != nil {
		return err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	if err := unix.Connect(client, sa); err != nil {
		return err
	}
	e := p.entry()
	e.PrepareAcceptMultishot(fd)
	c, err := p.do()
	if err != nil {
		return err
	}
	if err := c.Err(); err != nil {
		return err
	}
	_ = unix.Close(int(c.Res))
	if !c.More() {
		return fmt.Errorf("%w: it completed only once", ErrNotSupported)
	}
	return nil
}

func probeRecvMultishot() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	r, err := sys.NewBufRing(2)
	if err != nil {
		return err
	}
	defer r.Close()
	mem, err := sys.Map(sys.PageBytes)
	if err != nil {
		return err
	}
	defer sys.Unmap(mem)
	r.Add(mem[:64], 0)
	r.Add(mem[64:128], 1)
	r.Publish()
	if err := p.RegisterBufRing(0, r); err != nil {
		return err
	}
	pair, err := socketPair()
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if _, errno := sys.Send(pair[1], []byte{1}, 0); errno != 0 {
		return errno
	}
	p.entry().PrepareRecvMultishot(pair[0], 0)
	return p.expectMore()
}

// probeUnixRecvMultishot has bytes and the end of the stream come together: behind
// the receive but before the kernel looks after it (task work that is deferred does
// not run until it is asked for, so what is a race elsewhere is certain here), and
// before the receive. The kernel of 6.18.44 still misses the end in the last case.
func probeUnixRecvMultishot() error {
	return errors.Join(probeUnixEnd(false, false), probeUnixEnd(true, false), probeUnixEnd(true, true))
}

func probeUnixEnd(first, poll bool) error {
	runtime.LockOSThread() // such a ring belongs to a thread
	defer runtime.UnlockOSThread()
	const flags = sys.IORING_SETUP_CLAMP | sys.IORING_SETUP_SINGLE_ISSUER | sys.IORING_SETUP_DEFER_TASKRUN
	u, err := sys.Setup(8, sys.Params{Flags: flags})
	if err != nil {
		if unknownToKernel(err) {
			return err
		}
		return setupError(err)
	}
	p := probeRing{u}
	defer p.Close()
	r, err := sys.NewBufRing(4)
	if err != nil {
		return err
	}
	defer r.Close()
	mem, err := sys.Map(sys.PageBytes)
	if err != nil {
		return err
	}
	defer sys.Unmap(mem)
	for i := range 4 {
		r.Add(mem[64*i:64*i+64], uint16(i))
	}
	r.Publish()
	if err := p.RegisterBufRing(0, r); err != nil {
		return err
	}
	pair, err := socketPair()
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	arm := func() syscall.Errno {
		e := p.entry()
		e.PrepareRecvMultishot(pair[0], 0)
		if poll {
			e.PollFirst()
		}
		p.Publish()
		_, errno := p.Submit(p.Unconsumed())
		return errno
	}
	if !first {
		if errno := arm(); errno != 0 {
			return errno
		}
	}
	if _, errno := sys.Send(pair[1], []byte{1}, 0); errno != 0 {
		return errno
	}
	if errno := sys.Shutdown(pair[1], unix.SHUT_WR); errno != 0 {
		return errno
	}
	if first {
		if errno := arm(); errno != 0 {
			return errno
		}
	}
	for {
		c, err := p.do()
		switch {
		case err != nil:
			return err
		case c.Err() != nil:
			return c.Err()
		case !c.More():
			return nil
		}
		// The end comes at once, if it ever will.
		if _, errno := p.Wait(0, 1, 5*time.Millisecond); errno != 0 && errno != unix.EINTR && errno != unix.ETIME {
			return errno
		}
		if p.Ready() == 0 {
			return fmt.Errorf("%w: it misses the end of a stream", ErrNotSupported)
		}
	}
}

func probePollMultishot() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	fd, err := sys.NewEventFd()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sys.SignalEventFd(fd)
	p.entry().PreparePollMultishot(fd, unix.POLLIN)
	return p.expectMore()
}

// probeSendZC sends on a Unix socket, where no zero copy exists: a kernel that
// knows the operation says EOPNOTSUPP, one that does not says EINVAL.
func probeSendZC(op uint8, report bool) error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	pair, err := socketPair()
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	mem, err := sys.Map(sys.PageBytes)
	if err != nil {
		return err
	}
	defer sys.Unmap(mem)
	ms, err := Messages(mem)
	if err != nil {
		return err
	}
	e := p.entry()
	if op == sys.IORING_OP_SENDMSG_ZC {
		ms[0].Reset()
		ms[0].Append(mem[len(mem)-1:])
		e.PrepareSendmsgZC(pair[0], ms[0], 0)
	} else {
		e.PrepareSendZC(pair[0], mem[:1], 0)
	}
	if report {
		e.ReportUsage()
	}
	c, err := p.do()
	if err != nil {
		return err
	}
	if c.Res >= 0 || syscall.Errno(-c.Res) == unix.EOPNOTSUPP {
		return nil
	}
	return c.Err()
}

func probeDirectDescriptors() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	return p.RegisterFilesSparse(1)
}

// probeDirectRelease closes a socket that was in the table: its peer must see the end
// of the stream.
func probeDirectRelease() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.RegisterFilesSparse(1); err != nil {
		return err
	}
	pair, err := socketPair()
	if err != nil {
		return err
	}
	defer unix.Close(pair[1])
	err = p.UpdateFiles(0, []int32{int32(pair[0])})
	if err == nil {
		err = p.UpdateFiles(0, []int32{-1})
	}
	_ = unix.Close(pair[0])
	if err != nil {
		return err
	}
	switch n, errno := sys.Recv(pair[1], make([]byte, 1)); {
	case n == 0 && errno == 0:
		return nil
	case errno == unix.EAGAIN:
		return fmt.Errorf("%w: a closed socket stays open", ErrNotSupported)
	default:
		return errno
	}
}

func probeMessageRing() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	p.entry().PrepareMessage(p.Fd(), 1, 0)
	c, err := p.do()
	if err != nil {
		return err
	}
	return c.Err()
}

func probeSyncMessage() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	return sys.SendMessage(p.Fd(), 1, 0)
}

func probeRegisteredRing() error {
	p, err := newProbeRing()
	if err != nil {
		return err
	}
	defer p.Close()
	// Both calls concern the table of the calling thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.RegisterRingFd(); err != nil {
		return err
	}
	return p.UnregisterRingFd()
}

// probeSetup asks for a ring with flags and nothing else that could be refused.
func probeSetup(flags uint32) error {
	u, err := sys.Setup(8, sys.Params{Flags: flags | sys.IORING_SETUP_CLAMP})
	if err != nil {
		if unknownToKernel(err) {
			return err
		}
		return setupError(err)
	}
	return u.Close()
}

func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// RingFd is the descriptor of a ring behind which the kernel stands, as a target
// for [Entry.PrepareMessage]; -1 for other engines.
func (r *Ring) RingFd() int {
	if e, ok := r.eng.(*uring.Engine); ok {
		return e.Fd()
	}
	return -1
}
