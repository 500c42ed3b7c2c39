//go:build linux && (amd64 || arm64)

package sys

import (
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadline is how long a test waits for what must come at once.
const deadline = 10 * time.Second

type testRing struct{ *Uring }

// setup makes a ring on the test's own thread, closed with the test.
func setup(t testing.TB, entries uint32, p Params) testRing {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	p.Flags |= IORING_SETUP_CLAMP
	u, err := Setup(entries, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return testRing{u}
}

// one submits what is prepared and takes the next completion.
func (u testRing) one(t testing.TB) Completion {
	t.Helper()
	u.Publish()
	for end := time.Now().Add(deadline); u.Ready() == 0; {
		if _, errno := u.Wait(u.Unconsumed(), 1, time.Second); errno != 0 && errno != unix.EINTR && errno != unix.ETIME {
			t.Fatal(errno)
		}
		if time.Now().After(end) {
			t.Fatal("no completion")
		}
	}
	c := *u.Completion(0)
	u.Advance(1)
	return c
}

func socketPair(t testing.TB) [2]int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) })
	return pair
}

func TestSetupReturnsTheKernelsErrno(t *testing.T) {
	tests := []struct {
		name    string
		entries uint32
		params  Params
	}{
		{name: "no entries", entries: 0},
		{name: "too many entries", entries: 1 << 20},
		{name: "an unknown flag", entries: 1, params: Params{Flags: 1 << 31}},
		{name: "deferred work without a single issuer", entries: 1, params: Params{Flags: IORING_SETUP_DEFER_TASKRUN}},
	}
	for _, tt := range tests {
		u, err := Setup(tt.entries, tt.params)
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: error %v, want EINVAL", tt.name, err)
		}
		if err == nil {
			_ = u.Close()
		}
	}
}

// The queue is gone round several times, so that a wrong index array would show.
func TestEntriesReachTheKernelInOrderWithAndWithoutAnIndexArray(t *testing.T) {
	for _, flags := range []uint32{0, IORING_SETUP_NO_SQARRAY} {
		u, err := Setup(4, Params{Flags: flags})
		if flags != 0 && errors.Is(err, unix.EINVAL) {
			t.Logf("this kernel has no rings without an index array (Linux 6.6)")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if u.EntryCount() != 4 || u.CompletionCount() != 8 {
			t.Errorf("flags %#x: %d entries and %d completions, want 4 and 8", flags, u.EntryCount(), u.CompletionCount())
		}
		sent, got := uint64(0), uint64(0)
		for range 7 {
			for range 3 {
				e := u.Next()
				e.Opcode, e.UserData = IORING_OP_NOP, sent
				sent++
			}
			u.Publish()
			if n, errno := u.Submit(u.Unconsumed()); n != 3 || errno != 0 {
				t.Fatalf("flags %#x: submitted %d, %v", flags, n, errno)
			}
			for i := range u.Ready() {
				if c := u.Completion(i); c.UserData != got+uint64(i) {
					t.Fatalf("flags %#x: completion %d came where %d was due", flags, c.UserData, got+uint64(i))
				}
			}
			got += uint64(u.Ready())
			u.Advance(u.Ready())
		}
		if got != sent {
			t.Errorf("flags %#x: %d of %d completed", flags, got, sent)
		}
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCloseTwiceIsHarmless(t *testing.T) {
	u, err := Setup(1, Params{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDeferredWorkIsSeenThroughTheFlagAndRunByPoll(t *testing.T) {
	u, err := Setup(4, Params{Flags: IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no deferred task work (Linux 6.1)")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = u.Close()

	r := setup(t, 4, Params{Flags: IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG})
	fd, err := NewEventFd()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	*r.Next() = Entry{Opcode: IORING_OP_POLL_ADD, Fd: int32(fd), OpFlags: unix.POLLIN, UserData: 5}
	r.Publish()
	if _, errno := r.Submit(1); errno != 0 {
		t.Fatal(errno)
	}
	if r.NeedsEnter() || r.Ready() != 0 {
		t.Fatal("work is announced before there is any")
	}
	SignalEventFd(fd)
	if !r.NeedsEnter() {
		t.Error("work that waits for this thread is not announced")
	}
	if r.Ready() != 0 {
		t.Error("deferred work ran by itself")
	}
	if _, errno := r.Poll(0); errno != 0 {
		t.Fatal(errno)
	}
	if r.NeedsEnter() || r.Ready() != 1 || r.Completion(0).UserData != 5 {
		t.Errorf("after Poll: %d ready, more announced: %v", r.Ready(), r.NeedsEnter())
	}
}

func TestWaitEndsWithItsTimeout(t *testing.T) {
	u := setup(t, 4, Params{})
	for _, timeout := range []time.Duration{0, time.Microsecond, 20 * time.Millisecond} {
		start := time.Now()
		for { // a signal of Go's scheduler may end a wait early
			_, errno := u.Wait(0, 1, timeout)
			if errno == unix.ETIME {
				break
			}
			if errno != unix.EINTR {
				t.Fatalf("wait of %v: %v, want ETIME", timeout, errno)
			}
		}
		if took := time.Since(start); took < timeout || took > timeout+deadline {
			t.Errorf("a wait of %v took %v", timeout, took)
		}
	}
}

func TestWaitWithoutATimeoutEndsWithACompletion(t *testing.T) {
	u := setup(t, 4, Params{})
	fd, err := NewEventFd()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	*u.Next() = Entry{Opcode: IORING_OP_POLL_ADD, Fd: int32(fd), OpFlags: unix.POLLIN}
	u.Publish()
	go SignalEventFd(fd)
	for u.Ready() == 0 {
		if _, errno := u.Wait(u.Unconsumed(), 1, -1); errno != 0 && errno != unix.EINTR {
			t.Fatal(errno)
		}
	}
}

func TestRegisteredRingDescriptorServesItsThread(t *testing.T) {
	u := setup(t, 4, Params{})
	if err := u.RegisterRingFd(); err != nil {
		t.Fatal(err)
	}
	u.Next().UserData = 1
	if c := u.one(t); c.UserData != 1 {
		t.Errorf("completion %+v", c)
	}
	for range 2 { // the second time there is nothing to undo
		if err := u.UnregisterRingFd(); err != nil {
			t.Error(err)
		}
	}
	u.Next().UserData = 2
	if c := u.one(t); c.UserData != 2 {
		t.Errorf("after the registration was undone: completion %+v", c)
	}
}

func TestCancelAllEndsEverythingInFlight(t *testing.T) {
	u := setup(t, 8, Params{})
	pair := socketPair(t)
	mem := mapped(t, 1)
	for i := range 3 {
		*u.Next() = Entry{Opcode: IORING_OP_RECV, Fd: int32(pair[0]), Addr: Address(mem), Len: 1, UserData: uint64(i)}
	}
	u.Publish()
	if n, errno := u.Submit(3); n != 3 || errno != 0 {
		t.Fatal(n, errno)
	}
	if err := u.CancelAll(time.Second); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	for range 3 {
		if c := u.one(t); syscall.Errno(-c.Res) != unix.ECANCELED {
			t.Errorf("completion %+v, want ECANCELED", c)
		}
	}
}

func TestOperationsNamesWhatTheKernelKnows(t *testing.T) {
	u := setup(t, 1, Params{})
	ops, err := u.Operations()
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []int{IORING_OP_NOP, IORING_OP_READ_FIXED, IORING_OP_ACCEPT, IORING_OP_CONNECT, IORING_OP_SEND, IORING_OP_RECV} {
		if !ops[op] {
			t.Errorf("operation %d is said to be unknown", op)
		}
	}
	if ops[255] {
		t.Error("operation 255 is said to be known")
	}
}

func TestBufRingHeadCountsWhatTheKernelTook(t *testing.T) {
	u := setup(t, 4, Params{})
	r, err := NewBufRing(4)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := u.RegisterBufRing(3, r); err != nil {
		t.Fatal(err)
	}
	if _, err := u.BufRingHead(3); errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel does not tell a buffer ring's head (Linux 6.8)")
	}
	mem := mapped(t, 4)
	for i := range 4 {
		r.Add(mem[i:i+1], uint16(i))
	}
	r.Publish()
	pair := socketPair(t)
	for want := range uint16(4) {
		if head, err := u.BufRingHead(3); err != nil || head != want {
			t.Fatalf("head is %d (%v), want %d", head, err, want)
		}
		if _, errno := Send(pair[1], []byte{1}, 0); errno != 0 {
			t.Fatal(errno)
		}
		*u.Next() = Entry{Opcode: IORING_OP_RECV, Fd: int32(pair[0]), Flags: IOSQE_BUFFER_SELECT, BufIndex: 3}
		if c := u.one(t); c.Res != 1 {
			t.Fatalf("receive: %+v", c)
		}
	}
	if _, err := u.BufRingHead(99); err == nil {
		t.Error("a group that does not exist has a head")
	}
}

func TestWorkersCanBeLimited(t *testing.T) {
	u := setup(t, 1, Params{})
	if err := u.LimitWorkers(2, 2); err != nil {
		t.Error(err)
	}
}

func TestBusyPollIsTakenOrUnknown(t *testing.T) {
	u := setup(t, 1, Params{})
	for _, prefer := range []bool{false, true} {
		if err := u.BusyPoll(50*time.Microsecond, prefer); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	}
}

func TestSendMessagePostsToARingFromAnotherThread(t *testing.T) {
	u := setup(t, 1, Params{})
	sent := make(chan error)
	go func() { sent <- SendMessage(u.Fd(), 77, -5) }()
	err := <-sent
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel posts to a ring only from a ring (Linux 6.13)")
	}
	if err != nil {
		t.Fatal(err)
	}
	if c := u.one(t); c.UserData != 77 || c.Res != -5 {
		t.Errorf("completion %+v, want user data 77 and result -5", c)
	}
	if SendMessage(-1, 1, 0) == nil {
		t.Error("a message to no ring at all was sent")
	}
}

func TestRegisteredFilesAreUsedByIndex(t *testing.T) {
	u := setup(t, 4, Params{})
	if err := u.RegisterFilesSparse(2); err != nil {
		t.Fatal(err)
	}
	pair := socketPair(t)
	if err := u.UpdateFiles(1, []int32{int32(pair[0])}); err != nil {
		t.Fatal(err)
	}
	if _, errno := Send(pair[1], []byte{9}, 0); errno != 0 {
		t.Fatal(errno)
	}
	mem := mapped(t, 1)
	*u.Next() = Entry{Opcode: IORING_OP_RECV, Fd: 1, Flags: IOSQE_FIXED_FILE, Addr: Address(mem), Len: 1}
	if c := u.one(t); c.Res != 1 || mem[0] != 9 {
		t.Errorf("receive by index: %+v, byte %d", c, mem[0])
	}
	if err := u.UpdateFiles(1, []int32{-1}); err != nil {
		t.Error(err)
	}
	*u.Next() = Entry{Opcode: IORING_OP_RECV, Fd: 1, Flags: IOSQE_FIXED_FILE, Addr: Address(mem), Len: 1}
	if c := u.one(t); syscall.Errno(-c.Res) != unix.EBADF {
		t.Errorf("receive from an emptied place: %+v, want EBADF", c)
	}
	if err := u.UpdateFiles(2, []int32{int32(pair[0])}); err == nil {
		t.Error("a place beyond the table was filled")
	}
	if err := u.UnregisterFiles(); err != nil {
		t.Error(err)
	}
}

// UpdateFiles names its argument by address inside a structure, where a stack
// that grows on the way to the system call would leave it behind.
func TestUpdateFilesMovesItsArgumentOffTheStack(t *testing.T) {
	u := setup(t, 1, Params{})
	if err := u.RegisterFilesSparse(1); err != nil {
		t.Fatal(err)
	}
	var err error
	if n := testing.AllocsPerRun(100, func() {
		onStack := [1]int32{-1}
		err = u.UpdateFiles(0, onStack[:])
	}); n < 1 {
		t.Errorf("a local array was allocated %v times on the heap: the kernel reads it on a stack that may move", n)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestRegisteredBuffersAreUsedByIndex(t *testing.T) {
	u := setup(t, 4, Params{})
	mem := mapped(t, 2*PageBytes)
	if err := u.RegisterBuffers([][]byte{mem[:PageBytes], mem[PageBytes:]}); err != nil {
		t.Fatal(err)
	}
	if err := u.RegisterBuffers([][]byte{mem}); err == nil {
		t.Error("buffers were registered twice")
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer Close(p[0])
	defer Close(p[1])
	if _, err := unix.Write(p[1], []byte("fixed")); err != nil {
		t.Fatal(err)
	}
	*u.Next() = Entry{Opcode: IORING_OP_READ_FIXED, Fd: int32(p[0]), Addr: Address(mem[PageBytes:]), Len: 5, BufIndex: 1}
	if c := u.one(t); c.Res != 5 || string(mem[PageBytes:PageBytes+5]) != "fixed" {
		t.Errorf("read into buffer 1: %+v, %q", c, mem[PageBytes:PageBytes+5])
	}
	*u.Next() = Entry{Opcode: IORING_OP_READ_FIXED, Fd: int32(p[0]), Addr: Address(mem[PageBytes:]), Len: 5, BufIndex: 0}
	if c := u.one(t); syscall.Errno(-c.Res) != unix.EFAULT {
		t.Errorf("read outside buffer 0: %+v, want EFAULT", c)
	}
	if err := u.UnregisterBuffers(); err != nil {
		t.Error(err)
	}
	if u.RegisterBuffers(nil) == nil {
		t.Error("no buffers at all were registered")
	}
}
