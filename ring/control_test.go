//go:build linux

package ring

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func cancel(t *testing.T, r *testRing) {
	a, _ := r.pair()
	one := r.start(func(e *Entry) { e.PrepareRecv(a, r.memory(1), 0) })
	two := r.start(func(e *Entry) { e.PreparePoll(a, unix.POLLIN) })
	r.silent()
	r.want(0, func(e *Entry) { e.PrepareCancel(one) })
	if c := r.await(one); c.Err() != unix.ECANCELED || c.More() {
		t.Errorf("the cancelled receive: %+v (%v)", c, c.Err())
	}
	r.wantErr(unix.ENOENT, func(e *Entry) { e.PrepareCancel(one) })
	r.silent() // the other operation goes on
	r.want(0, func(e *Entry) { e.PrepareCancel(two) })
	if c := r.await(two); c.Err() != unix.ECANCELED {
		t.Errorf("the cancelled poll: %+v (%v)", c, c.Err())
	}
}

func cancelFd(t *testing.T, r *testRing) {
	a, b := r.pair()
	var onA [3]uint64
	for i := range onA {
		onA[i] = r.start(func(e *Entry) { e.PreparePoll(a, unix.POLLIN) })
	}
	onB := r.start(func(e *Entry) { e.PreparePoll(b, unix.POLLIN) })
	r.silent()
	r.want(3, func(e *Entry) { e.PrepareCancelFd(a) })
	for _, u := range onA {
		if c := r.await(u); c.Err() != unix.ECANCELED {
			t.Errorf("%+v (%v)", c, c.Err())
		}
	}
	r.silent()
	r.send(a, "x")
	if c := r.await(onB); c.Res != unix.POLLIN {
		t.Errorf("the poll of the other descriptor: %+v (%v)", c, c.Err())
	}
}

func cancelAll(t *testing.T, r *testRing) {
	a, b := r.pair()
	ts := r.memory(TimespecBytes)
	PutTimespec(ts, time.Hour)
	all := []uint64{
		r.start(func(e *Entry) { e.PreparePoll(a, unix.POLLIN) }),
		r.start(func(e *Entry) { e.PrepareRecv(b, r.memory(1), 0) }),
		r.start(func(e *Entry) { e.PrepareTimeout(ts, 0) }),
	}
	r.silent()
	r.want(3, func(e *Entry) { e.PrepareCancelAll() })
	for _, u := range all {
		if c := r.await(u); c.Err() != unix.ECANCELED {
			t.Errorf("%+v (%v)", c, c.Err())
		}
	}
	// With nothing in flight newer kernels say 0, older ones ENOENT.
	if c := r.do(func(e *Entry) { e.PrepareCancelAll() }); c.Res != 0 && c.Err() != unix.ENOENT {
		t.Errorf("cancel of nothing: %+v (%v)", c, c.Err())
	}
}

func poll(t *testing.T, r *testRing) {
	a, b := r.pair()
	r.want(unix.POLLOUT, func(e *Entry) { e.PreparePoll(a, unix.POLLIN|unix.POLLOUT) })
	waiting := r.start(func(e *Entry) { e.PreparePoll(a, unix.POLLIN) })
	r.silent()
	r.send(b, "x")
	if c := r.await(waiting); c.Res != unix.POLLIN || c.More() {
		t.Errorf("%+v (%v)", c, c.Err())
	}
	r.want(unix.POLLIN, func(e *Entry) { e.PreparePoll(a, unix.POLLIN) }) // it still is
	r.wantErr(unix.EBADF, func(e *Entry) { e.PreparePoll(-1, unix.POLLIN) })
}

func pollMultishot(t *testing.T, r *testRing) {
	fd := r.eventFd()
	waiting := r.start(func(e *Entry) { e.PreparePollMultishot(fd, unix.POLLIN) })
	r.silent()
	for i := range 5 { // never drained: each signal is an edge of its own
		sys.SignalEventFd(fd)
		if c := r.await(waiting); c.Res != unix.POLLIN || !c.More() {
			t.Fatalf("signal %d: %+v (%v)", i, c, c.Err())
		}
	}
	r.silent()
	r.want(0, func(e *Entry) { e.PrepareCancel(waiting) })
	if c := r.await(waiting); c.Err() != unix.ECANCELED || c.More() {
		t.Errorf("after the cancel: %+v (%v)", c, c.Err())
	}
}

func timeout(t *testing.T, r *testRing) {
	ts := r.memory(TimespecBytes)
	const long = 3 * time.Millisecond
	PutTimespec(ts, long)
	start := time.Now()
	r.wantErr(unix.ETIME, func(e *Entry) { e.PrepareTimeout(ts, 0) })
	if took := time.Since(start); took < long {
		t.Errorf("a timeout of %v took %v", long, took)
	}
	PutTimespec(ts, 0)
	r.wantErr(unix.ETIME, func(e *Entry) { e.PrepareTimeout(ts, 0) })
}

// A timeout with a count ends with 0 once so many other operations completed.
func timeoutCounting(t *testing.T, r *testRing) {
	ts := r.memory(TimespecBytes)
	PutTimespec(ts, time.Hour)
	waiting := r.start(func(e *Entry) { e.PrepareTimeout(ts, 2) })
	r.want(0, func(e *Entry) { e.PrepareNop() })
	r.silent()
	r.want(0, func(e *Entry) { e.PrepareNop() })
	if c := r.await(waiting); c.Res != 0 {
		t.Errorf("%+v (%v)", c, c.Err())
	}
}

func timeoutRemove(t *testing.T, r *testRing) {
	ts := r.memory(TimespecBytes)
	PutTimespec(ts, time.Hour)
	waiting := r.start(func(e *Entry) { e.PrepareTimeout(ts, 0) })
	r.silent()
	r.want(0, func(e *Entry) { e.PrepareTimeoutRemove(waiting) })
	if c := r.await(waiting); c.Err() != unix.ECANCELED {
		t.Errorf("the removed timeout: %+v (%v)", c, c.Err())
	}
	r.wantErr(unix.ENOENT, func(e *Entry) { e.PrepareTimeoutRemove(waiting) })
}

func linkTimeout(t *testing.T, r *testRing) {
	a, b := r.pair()
	mem, ts := r.memory(4), r.memory(TimespecBytes)
	PutTimespec(ts, time.Millisecond)
	receive := r.start(func(e *Entry) { e.PrepareRecv(a, mem, 0); e.Link() })
	limit := r.start(func(e *Entry) { e.PrepareLinkTimeout(ts) })
	if c := r.await(receive); c.Err() != unix.ECANCELED {
		t.Errorf("a receive whose time is over: %+v (%v)", c, c.Err())
	}
	if c := r.await(limit); c.Err() != unix.ETIME {
		t.Errorf("its timeout: %+v (%v)", c, c.Err())
	}

	PutTimespec(ts, time.Hour)
	receive = r.start(func(e *Entry) { e.PrepareRecv(a, mem, 0); e.Link() })
	limit = r.start(func(e *Entry) { e.PrepareLinkTimeout(ts) })
	r.silent()
	r.send(b, "x")
	if c := r.await(receive); c.Res != 1 {
		t.Errorf("a receive in time: %+v (%v)", c, c.Err())
	}
	if c := r.await(limit); c.Err() != unix.ECANCELED {
		t.Errorf("its timeout: %+v (%v)", c, c.Err())
	}
}

func linked(t *testing.T, r *testRing) {
	mem := r.memory(4)
	good := r.start(func(e *Entry) { e.PrepareNop(); e.Link() })
	bad := r.start(func(e *Entry) { e.PrepareRead(-1, mem, 0); e.Link() })
	behind := r.start(func(e *Entry) { e.PrepareNop() })
	free := r.start(func(e *Entry) { e.PrepareNop() })
	if c := r.await(good); c.Res != 0 {
		t.Errorf("the first: %+v (%v)", c, c.Err())
	}
	if c := r.await(bad); c.Err() != unix.EBADF {
		t.Errorf("the one that fails: %+v (%v)", c, c.Err())
	}
	if c := r.await(behind); c.Err() != unix.ECANCELED {
		t.Errorf("the one linked behind it: %+v (%v)", c, c.Err())
	}
	if c := r.await(free); c.Res != 0 {
		t.Errorf("the one that is not linked: %+v (%v)", c, c.Err())
	}
}

func silent(t *testing.T, r *testRing) {
	mem := r.memory(4)
	unheard := r.start(func(e *Entry) { e.PrepareNop(); e.SkipSuccess() })
	bad := r.start(func(e *Entry) { e.PrepareRead(-1, mem, 0); e.SkipSuccess() })
	behind := r.start(func(e *Entry) { e.PrepareNop() })
	if c := r.await(bad); c.Err() != unix.EBADF {
		t.Errorf("the one that fails: %+v (%v)", c, c.Err())
	}
	if c := r.await(behind); c.Res != 0 {
		t.Errorf("the one behind: %+v (%v)", c, c.Err())
	}
	delete(r.inFlight, unheard)
	r.silent()
}

func message(t *testing.T, r *testRing) {
	// To itself: the message and the result of sending it.
	r.want(0, func(e *Entry) { e.PrepareMessage(r.RingFd(), 7, 123) })
	if c := r.await(7); c.Res != 123 || c.More() {
		t.Errorf("message to itself: %+v", c)
	}

	// To a ring of another thread, which waits for it.
	type outcome struct {
		c   Completion
		err error
	}
	ready, got, ended := make(chan int), make(chan outcome, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		other, err := New(Config{EntryCount: 1, Mask: r.cfg.Mask})
		if err == nil {
			defer other.Close()
			err = other.Enable()
		}
		if err != nil {
			t.Error(err)
			close(ready)
			return
		}
		ready <- other.RingFd()
		var c [1]Completion
		for end := time.Now().Add(limit); other.Reap(c[:]) == 0 && err == nil && time.Now().Before(end); {
			err = other.Wait(1, time.Until(end))
		}
		got <- outcome{c[0], err}
	}()
	fd, ok := <-ready
	if !ok {
		return
	}
	r.want(0, func(e *Entry) { e.PrepareMessage(fd, 1<<63|5, -9) })
	<-ended
	if o := <-got; o.err != nil || o.c.UserData != 1<<63|5 || o.c.Res != -9 {
		t.Errorf("message to another ring: %+v, %v", o.c, o.err)
	}
	r.wantErr(unix.EBADFD, func(e *Entry) { e.PrepareMessage(r.eventFd(), 1, 0) }) // not a ring
}
