//go:build linux

package sim_test

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine/sim"
	"example.com/ringnet/internal/sys"
)

// bench is a world with one listener, for tests of what the kernel would do.
type bench struct {
	*sim.Engine
	t  *testing.T
	q  *sys.Queues
	ln int
}

func newBench(t *testing.T, o sim.Options) *bench {
	t.Helper()
	if o.EntryCount == 0 {
		o.EntryCount, o.CompletionCount = 8, 16
	}
	e := sim.New(o)
	ln, err := e.ListenTCP(netip.MustParseAddrPort("10.0.0.1:0"), 1, false, false)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Engine: e, t: t, q: e.Queues(), ln: ln}
}

// route is a network without surprises.
var route = sim.Route{Link: sim.Link{Latency: 10 * time.Microsecond, Piece: 1 << 20}, RecvBytes: 3000, SendBytes: 3000}

// connect gives a peer, and the descriptor of the server's end.
func (b *bench) connect() (*sim.Peer, int) {
	b.t.Helper()
	var peer *sim.Peer
	b.Dial(7, route, func(p *sim.Peer) { peer = p })
	b.submit(sys.Entry{Opcode: sys.IORING_OP_ACCEPT, Fd: int32(b.ln), UserData: 1})
	c := b.only()
	if c.Res < 0 {
		b.t.Fatalf("accept: %v", syscall.Errno(-c.Res))
	}
	return peer, int(c.Res)
}

func (b *bench) submit(entries ...sys.Entry) {
	b.t.Helper()
	for _, e := range entries {
		*b.q.Next() = e
	}
	b.q.Publish()
	if n, errno := b.Submit(b.q.Unconsumed()); errno != 0 || n != len(entries) {
		b.t.Fatalf("submit %d entries: %d, %v", len(entries), n, errno)
	}
}

// reap polls and takes every completion that is there.
func (b *bench) reap() []sys.Completion {
	b.t.Helper()
	if _, errno := b.Poll(0); errno != 0 {
		b.t.Fatal(errno)
	}
	var all []sys.Completion
	for i := range b.q.Ready() {
		all = append(all, *b.q.Completion(i))
	}
	b.q.Advance(b.q.Ready())
	return all
}

// pass lets time go by.
func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	if _, errno := b.Wait(0, b.q.Ready()+1000, d); errno != unix.ETIME {
		b.t.Fatalf("wait: %v", errno)
	}
}

// unseen lets time go by in which the ring does not look.
func (b *bench) unseen() {
	b.t.Helper()
	for end := b.Clock() + time.Millisecond; b.Clock() < end; {
		b.Now()
		b.submit()
	}
}

func (b *bench) only() sys.Completion {
	b.t.Helper()
	all := b.reap()
	if len(all) != 1 {
		b.t.Fatalf("%d completions, want one: %+v", len(all), all)
	}
	return all[0]
}

// violates wants so many violations.
func (b *bench) violates(want int) {
	b.t.Helper()
	if got := b.Violations(); len(got) != want {
		b.t.Errorf("%d violations, want %d: %q", len(got), want, got)
	}
}

// give registers a group of count buffers of size bytes.
func (b *bench) give(count, size int) (mem []byte) {
	b.t.Helper()
	places := 1
	for places < count {
		places *= 2
	}
	r, err := sys.NewBufRing(places)
	if err != nil {
		b.t.Fatal(err)
	}
	if mem, err = sys.Map(count * size); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = r.Close()
		_ = sys.Unmap(mem)
	})
	for i := range count {
		r.Add(mem[i*size:(i+1)*size], uint16(i))
	}
	r.Publish()
	if err := b.RegisterBufRing(0, r); err != nil {
		b.t.Fatal(err)
	}
	return mem
}

func recvMultishot(fd int) sys.Entry {
	return sys.Entry{Opcode: sys.IORING_OP_RECV, Fd: int32(fd), UserData: 2, Flags: sys.IOSQE_BUFFER_SELECT, Ioprio: sys.IORING_RECV_MULTISHOT}
}

func send(fd int, b []byte, flags int) sys.Entry {
	return sys.Entry{Opcode: sys.IORING_OP_SEND, Fd: int32(fd), UserData: 3, Addr: sys.Address(b), Len: uint32(len(b)), OpFlags: uint32(flags)}
}

func cancel(userData uint64) sys.Entry {
	return sys.Entry{Opcode: sys.IORING_OP_ASYNC_CANCEL, Fd: -1, UserData: 4, Addr: userData}
}

const (
	more     = sys.IORING_CQE_F_MORE
	buffer   = sys.IORING_CQE_F_BUFFER
	nonEmpty = sys.IORING_CQE_F_SOCK_NONEMPTY
)

// results are what completions say, without the numbers of buffers.
func results(all []sys.Completion) (res []int32, flags []uint32) {
	for _, c := range all {
		res, flags = append(res, c.Res), append(flags, c.Flags&0xffff)
	}
	return res, flags
}

func (b *bench) want(what string, res []int32, flags []uint32) {
	b.t.Helper()
	gotRes, gotFlags := results(b.reap())
	if !slices.Equal(gotRes, res) || !slices.Equal(gotFlags, flags) {
		b.t.Errorf("%s: results %v with flags %x, want %v with %x", what, gotRes, gotFlags, res, flags)
	}
}

func write(t *testing.T, p *sim.Peer, b []byte) {
	t.Helper()
	if n, err := p.Write(b); n != len(b) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func TestAnEmptyGroupEndsAMultishotReceive(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	b.give(2, 10)
	b.submit(recvMultishot(fd))
	write(t, p, make([]byte, 25))
	b.pass(time.Millisecond)
	b.want("25 bytes into two buffers of 10", []int32{10, 10, -int32(unix.ENOBUFS)}, []uint32{more | buffer | nonEmpty, more | buffer | nonEmpty, 0})
	// The kernel takes a buffer before it looks: without one it is ENOBUFS at once.
	b.submit(recvMultishot(fd))
	b.want("armed on an empty group", []int32{-int32(unix.ENOBUFS)}, []uint32{0})
	b.violates(0)
}

func TestTheEndOfAStreamEndsAMultishotReceiveBehindItsBytes(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	mem := b.give(4, 10)
	b.submit(recvMultishot(fd))
	write(t, p, []byte("hello"))
	p.CloseWrite()
	b.pass(time.Millisecond)
	b.want("bytes and the end", []int32{5, 0}, []uint32{more | buffer, 0})
	if got := string(mem[:5]); got != "hello" {
		t.Errorf("the buffer has %q", got)
	}
}

func TestTheLastCompletionMayCarryBytes(t *testing.T) {
	b := newBench(t, sim.Options{Faults: sim.Faults{LastWithData: 1000}})
	p, fd := b.connect()
	b.give(4, 10)
	b.submit(recvMultishot(fd))
	write(t, p, make([]byte, 20))
	b.pass(time.Millisecond)
	b.want("20 bytes", []int32{10}, []uint32{buffer | nonEmpty})
}

func TestAFullQueueEndsAMultishotReceiveAndKeepsTheOrder(t *testing.T) {
	b := newBench(t, sim.Options{EntryCount: 2, CompletionCount: 2})
	p, fd := b.connect()
	b.give(8, 10)
	b.submit(recvMultishot(fd), sys.Entry{Opcode: sys.IORING_OP_POLL_ADD, Fd: int32(b.ln), OpFlags: unix.POLLIN, UserData: 5})
	write(t, p, make([]byte, 45))
	b.pass(time.Millisecond)
	if !b.q.Overflowed() {
		t.Error("nothing says that a completion did not fit")
	}
	b.want("what fits", []int32{10, 10}, []uint32{more | buffer | nonEmpty, more | buffer | nonEmpty})
	b.want("what did not", []int32{10}, []uint32{buffer | nonEmpty})
	if b.q.Overflowed() {
		t.Error("the queue still says that completions wait outside")
	}
}

func TestACancelHasTwoCompletions(t *testing.T) {
	b := newBench(t, sim.Options{})
	_, fd := b.connect()
	b.give(2, 10)
	b.submit(recvMultishot(fd))
	b.submit(cancel(2))
	all := b.reap()
	slices.SortFunc(all, func(x, y sys.Completion) int { return int(x.UserData) - int(y.UserData) })
	if res, _ := results(all); !slices.Equal(res, []int32{-int32(unix.ECANCELED), 0}) {
		t.Errorf("cancel: %v", res)
	}
	b.submit(cancel(2))
	b.want("a cancel of what is over", []int32{-int32(unix.ENOENT)}, []uint32{0})
}

func TestASendThatDoesNotWaitIsShortOrEAGAIN(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	mem, err := sys.Map(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(mem)
	poll := sys.Entry{Opcode: sys.IORING_OP_POLL_ADD, Fd: int32(fd), UserData: 6, OpFlags: unix.POLLOUT, Len: sys.IORING_POLL_ADD_MULTI}
	b.submit(send(fd, mem, unix.MSG_DONTWAIT))
	b.want("a send that is too large", []int32{3000}, []uint32{0})
	b.submit(send(fd, mem, unix.MSG_DONTWAIT))
	b.want("a send without room", []int32{-int32(unix.EAGAIN)}, []uint32{0})
	b.submit(poll)
	b.want("a poll without room", nil, nil)
	b.pass(time.Millisecond)
	if n, err := p.Read(mem[:500]); n != 500 || err != nil {
		t.Fatalf("read: %d, %v", n, err)
	}
	b.pass(time.Millisecond)
	b.want("less than a third is no room for a poll", nil, nil)
	for {
		if _, err := p.Read(mem); err != nil {
			break
		}
	}
	b.pass(time.Millisecond)
	b.want("room", []int32{unix.POLLOUT}, []uint32{more})
	b.pass(time.Millisecond)
	b.want("no edge without a want of room", nil, nil)
}

func TestASendThatWaitsForAllReadsItsMemoryWhenItSends(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	mem, err := sys.Map(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(mem)
	b.submit(send(fd, mem, unix.MSG_WAITALL))
	b.want("it waits", nil, nil)
	mem[4999] = 77 // which no program may do
	b.pass(time.Millisecond)
	got := make([]byte, 5000)
	n, _ := p.Read(got)
	b.pass(time.Millisecond)
	b.want("the rest went out", []int32{5000}, []uint32{0})
	b.pass(time.Millisecond)
	if m, err := p.Read(got[n:]); n+m != 5000 || err != nil || got[4999] != 77 {
		t.Errorf("the peer got %d bytes, %v, the last is %d", n+m, err, got[4999])
	}
}

func TestAZeroCopySendNotifiesWhenItsBytesHaveArrived(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	mem, err := sys.Map(100)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(mem)
	e := send(fd, mem, 0)
	e.Opcode = sys.IORING_OP_SEND_ZC
	b.submit(e)
	b.want("the result", []int32{100}, []uint32{more})
	mem[50] = 9
	b.pass(time.Millisecond)
	b.want("the notification", []int32{0}, []uint32{sys.IORING_CQE_F_NOTIF})
	if _, _ = p.Read(mem); mem[50] != 9 {
		t.Error("the memory was read before its bytes went out")
	}
}

func TestShutdownEndsAnArmedReceive(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	b.give(2, 10)
	b.submit(recvMultishot(fd))
	if errno := b.Shutdown(fd, unix.SHUT_RDWR); errno != 0 {
		t.Fatal(errno)
	}
	b.want("shutdown", []int32{0}, []uint32{0})
	b.pass(time.Millisecond)
	if _, err := p.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads: %v", err)
	}
	write(t, p, []byte{1})
	b.pass(time.Millisecond)
	if _, err := p.Write([]byte{1}); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer writes to nobody: %v", err)
	}
}

func TestAResetIsToldOnce(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	p.Reset()
	b.pass(time.Millisecond)
	if _, errno := b.Send(fd, []byte{1}, 0); errno != unix.ECONNRESET {
		t.Errorf("send: %v", errno)
	}
	if _, errno := b.Send(fd, []byte{1}, 0); errno != unix.EPIPE {
		t.Errorf("a second send: %v", errno)
	}
	if n, errno := b.Recv(fd, make([]byte, 1)); n != 0 || errno != 0 {
		t.Errorf("a receive after it: %d, %v", n, errno)
	}
	if _, err := b.PeerAddr(fd); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("the address of a peer that is gone: %v", err)
	}
}

func TestAResetBehindBytesCanBeForgotten(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		b := newBench(t, sim.Options{ForgetsResets: forgets})
		p, fd := b.connect()
		b.give(4, 10)
		b.submit(recvMultishot(fd))
		write(t, p, make([]byte, 15))
		b.unseen()
		p.Reset()
		b.unseen()
		if !forgets {
			b.want("bytes and a reset", []int32{10, 5, -int32(unix.ECONNRESET)}, []uint32{more | buffer | nonEmpty, more | buffer, 0})
			continue
		}
		b.want("bytes and a reset", []int32{10, 5}, []uint32{more | buffer | nonEmpty, more | buffer})
		b.pass(time.Second)
		b.want("and later", nil, nil)
		// A receive without room for bytes goes beside the one that is armed.
		if _, errno := b.Recv(fd, nil); errno != unix.ECONNRESET {
			t.Errorf("a receive without room: %v", errno)
		}
		if n := b.Counts().ResetsForgotten; n != 1 {
			t.Errorf("%d resets were forgotten", n)
		}
		b.violates(0)
	}
}

func TestAnEndBehindBytesCanBeForgottenByALateReceive(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		for _, pollFirst := range []bool{false, true} {
			b := newBench(t, sim.Options{ForgetsLate: forgets})
			p, fd := b.connect()
			b.give(4, 10)
			write(t, p, make([]byte, 15))
			b.pass(time.Millisecond)
			p.Reset()
			b.pass(time.Millisecond)
			e := recvMultishot(fd)
			if pollFirst {
				e.Ioprio |= sys.IORING_RECVSEND_POLL_FIRST
			}
			b.submit(e)
			if !forgets || !pollFirst {
				b.want("bytes and a reset", []int32{10, 5, -int32(unix.ECONNRESET)}, []uint32{more | buffer | nonEmpty, more | buffer, 0})
				continue
			}
			b.want("bytes and a reset", []int32{10, 5}, []uint32{more | buffer | nonEmpty, more | buffer})
			b.pass(time.Second)
			b.want("and later", nil, nil)
			if _, errno := b.Recv(fd, nil); errno != unix.ECONNRESET {
				t.Errorf("a receive without room: %v", errno)
			}
			if n := b.Counts().LateForgotten; n != 1 {
				t.Errorf("%d ends were forgotten", n)
			}
			b.violates(0)
		}
	}
	// What comes when it waits already is told.
	b := newBench(t, sim.Options{ForgetsLate: true})
	p, fd := b.connect()
	b.give(4, 10)
	e := recvMultishot(fd)
	e.Ioprio |= sys.IORING_RECVSEND_POLL_FIRST
	b.submit(e)
	write(t, p, make([]byte, 5))
	b.unseen()
	p.Reset()
	b.unseen()
	b.want("bytes and a reset", []int32{5, -int32(unix.ECONNRESET)}, []uint32{more | buffer, 0})
}

func TestCloseWithUnreadBytesResetsThePeer(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	write(t, p, []byte{1})
	b.pass(time.Millisecond)
	if errno := b.CloseFd(fd); errno != 0 {
		t.Fatal(errno)
	}
	b.pass(time.Millisecond)
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer reads: %v", err)
	}
}

func TestADirectDescriptorKeepsItsSocketOpen(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	if err := errors.Join(b.RegisterFilesSparse(4), b.UpdateFiles(2, []int32{int32(fd)})); err != nil {
		t.Fatal(err)
	}
	b.CloseFd(fd)
	b.pass(time.Millisecond)
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the peer reads: %v", err)
	}
	mem := make([]byte, 1)
	e := send(2, mem, unix.MSG_DONTWAIT)
	e.Flags = sys.IOSQE_FIXED_FILE
	b.submit(e)
	b.want("a send through the table", []int32{1}, []uint32{0})
	if err := b.UpdateFiles(2, []int32{-1}); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Millisecond)
	if n, err := p.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("the peer reads: %d, %v", n, err)
	}
	if _, err := p.Read(make([]byte, 2)); err != io.EOF {
		t.Errorf("the peer reads: %v", err)
	}
	b.violates(0)
}

func TestDescriptorsAreUsedAgainAtOnceAndTheirNumberIsLimited(t *testing.T) {
	b := newBench(t, sim.Options{Descriptors: 1})
	_, fd := b.connect()
	b.Dial(8, route, func(*sim.Peer) {})
	accept := sys.Entry{Opcode: sys.IORING_OP_ACCEPT, Fd: int32(b.ln), UserData: 1, Ioprio: sys.IORING_ACCEPT_MULTISHOT}
	b.submit(accept)
	b.want("accept over the limit", []int32{-int32(unix.EMFILE)}, []uint32{0})
	b.CloseFd(fd)
	b.submit(accept)
	b.want("accept below it", []int32{int32(fd)}, []uint32{more})
}

func TestAPollOfAStreamThatHasEndedTellsOnce(t *testing.T) {
	b := newBench(t, sim.Options{})
	p, fd := b.connect()
	b.submit(sys.Entry{Opcode: sys.IORING_OP_POLL_ADD, Fd: int32(fd), UserData: 6, OpFlags: unix.POLLIN | unix.POLLRDHUP, Len: sys.IORING_POLL_ADD_MULTI})
	write(t, p, []byte{1})
	b.pass(time.Millisecond)
	b.want("bytes", []int32{unix.POLLIN}, []uint32{more})
	p.CloseWrite()
	b.pass(time.Millisecond)
	b.want("the end", []int32{unix.POLLIN | unix.POLLRDHUP}, []uint32{more})
	b.want("nothing new", nil, nil)
}

func TestWhatNoProgramMayDoIsNoticed(t *testing.T) {
	mem := make([]byte, 10)
	for name, do := range map[string]func(b *bench, p *sim.Peer, fd int){
		"two receives on one socket": func(b *bench, _ *sim.Peer, fd int) {
			e := recvMultishot(fd)
			b.submit(e)
			e.UserData = 99
			b.submit(e)
		},
		"a close with an operation in flight": func(b *bench, _ *sim.Peer, fd int) {
			b.submit(recvMultishot(fd))
			b.CloseFd(fd)
		},
		"a second close": func(b *bench, _ *sim.Peer, fd int) {
			b.CloseFd(fd)
			b.CloseFd(fd)
		},
		"an operation on a closed descriptor": func(b *bench, _ *sim.Peer, fd int) {
			b.CloseFd(fd)
			b.submit(recvMultishot(fd))
		},
		"a direct receive beside an armed one": func(b *bench, _ *sim.Peer, fd int) {
			b.submit(recvMultishot(fd))
			b.Recv(fd, mem)
		},
		"user data that is in use": func(b *bench, p *sim.Peer, fd int) {
			poll := sys.Entry{Opcode: sys.IORING_OP_POLL_ADD, Fd: int32(fd), UserData: 6, OpFlags: unix.POLLRDHUP}
			b.submit(poll, poll)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, sim.Options{})
			p, fd := b.connect()
			b.give(4, 10)
			do(b, p, fd)
			b.violates(1)
		})
	}
}

func TestWhatIsLeftAtTheEndIsNoticed(t *testing.T) {
	b := newBench(t, sim.Options{})
	_, fd := b.connect()
	b.submit(sys.Entry{Opcode: sys.IORING_OP_POLL_ADD, Fd: int32(fd), UserData: 6, OpFlags: unix.POLLIN})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.violates(3) // the operation, and two descriptors
}

func TestABufferPublishedTwiceIsNoticed(t *testing.T) {
	b := newBench(t, sim.Options{})
	r, err := sys.NewBufRing(4)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mem, err := sys.Map(16)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(mem)
	r.Add(mem, 3)
	r.Add(mem, 3)
	r.Publish()
	if err := b.RegisterBufRing(0, r); err != nil {
		t.Fatal(err)
	}
	b.reap()
	b.violates(1)
}

func TestAWaitThatNothingCanEndStopsTheWorld(t *testing.T) {
	b := newBench(t, sim.Options{})
	defer func() {
		if _, ok := recover().(sim.Stop); !ok {
			t.Error("the wait came back")
		}
	}()
	b.Wait(0, 1, -1)
}

func TestAWakeEndsAWait(t *testing.T) {
	b := newBench(t, sim.Options{})
	b.After(time.Second, func() { _ = b.Wake(42) })
	if _, errno := b.Wait(0, 1, -1); errno != 0 {
		t.Fatal(errno)
	}
	if c := b.only(); c.UserData != 42 || b.Clock() < time.Second {
		t.Errorf("user data %d after %v", c.UserData, b.Clock())
	}
}

func TestEntersThatTakeNothingLeaveTheEntries(t *testing.T) {
	b := newBench(t, sim.Options{Faults: sim.Faults{EnterEBUSY: 1000}})
	*b.q.Next() = sys.Entry{Opcode: sys.IORING_OP_NOP, UserData: 1}
	b.q.Publish()
	if n, errno := b.Poll(1); n != 0 || errno != unix.EBUSY {
		t.Errorf("poll: %d, %v", n, errno)
	}
	if b.q.Unconsumed() != 1 {
		t.Error("the entry is gone")
	}
}

func TestTheSameSeedIsTheSameKernel(t *testing.T) {
	for range 3 {
		x, y := sim.New(sim.Options{Seed: 5, EntryCount: 1, CompletionCount: 2}), sim.New(sim.Options{Seed: 5, EntryCount: 1, CompletionCount: 2})
		for range 100 {
			x.Poll(0)
			y.Poll(0)
			if x.Now() != y.Now() {
				t.Fatal("two worlds of one seed differ")
			}
		}
	}
}
