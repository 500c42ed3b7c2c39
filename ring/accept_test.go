//go:build linux

package ring

import (
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
	"example.com/ringnet/internal/sys"
)

func accept(t *testing.T, r *testRing) {
	l, addr := r.listener()
	waiting := r.start(func(e *Entry) { e.PrepareAccept(l) })
	r.silent()
	client := r.dial(addr)
	c := r.await(waiting)
	if c.Res < 0 || c.More() {
		t.Fatalf("accept: %+v (%v)", c, c.Err())
	}
	fd := r.owns(int(c.Res), nil)
	status, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || status&unix.O_NONBLOCK == 0 {
		t.Errorf("the accepted socket blocks: flags %#x, %v", status, err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the accepted socket would be inherited: flags %#x, %v", flags, err)
	}
	r.send(client, "hello")
	if got := r.receive(fd, 5); got != "hello" {
		t.Errorf("received %q", got)
	}
}

func acceptMultishot(t *testing.T, r *testRing) {
	l, addr := r.listener()
	waiting := r.start(func(e *Entry) { e.PrepareAcceptMultishot(l) })
	for i := range 3 {
		client := r.dial(addr)
		c := r.await(waiting)
		if c.Res < 0 || !c.More() {
			t.Fatalf("accept %d: %+v (%v)", i, c, c.Err())
		}
		fd := r.owns(int(c.Res), nil)
		mine, err := r.LocalAddr(client)
		if err != nil {
			t.Fatal(err)
		}
		if peer, err := r.PeerAddr(fd); err != nil || peer != mine {
			t.Errorf("accept %d: connected to %v (%v), want %v", i, peer, err, mine)
		}
	}
	r.want(0, func(e *Entry) { e.PrepareCancel(waiting) })
	if c := r.await(waiting); c.Err() != unix.ECANCELED || c.More() {
		t.Errorf("after the cancel: %+v (%v)", c, c.Err())
	}
}

func acceptDirect(t *testing.T, r *testRing) {
	if err := r.RegisterFiles(1); err != nil {
		t.Fatal(err)
	}
	l, addr := r.listener()
	client := r.dial(addr)
	before := leak.Count(t)
	r.want(0, func(e *Entry) { e.PrepareAcceptDirect(l) })
	if after := leak.Count(t); after != before {
		t.Errorf("a direct accept took an ordinary descriptor: %d before, %d after", before, after)
	}
	r.send(client, "direct")
	mem := r.memory(16)
	r.want(6, func(e *Entry) { e.PrepareRecv(0, mem, 0); e.UseDirect() })
	if string(mem[:6]) != "direct" {
		t.Errorf("received %q", mem[:6])
	}

	// A full table loses the connection, as the method's comment warns.
	lost := r.dial(addr)
	r.wantErr(unix.ENFILE, func(e *Entry) { e.PrepareAcceptDirect(l) })
	r.want(0, func(e *Entry) { e.PrepareRecv(lost, mem, 0) }) // the end of its stream
}

func acceptMultishotDirect(t *testing.T, r *testRing) {
	if err := r.RegisterFiles(4); err != nil {
		t.Fatal(err)
	}
	l, addr := r.listener()
	waiting := r.start(func(e *Entry) { e.PrepareAcceptMultishotDirect(l) })
	mem := r.memory(16)
	for want := range 3 {
		client := r.dial(addr)
		c := r.await(waiting)
		if c.Res != int32(want) || !c.More() {
			t.Fatalf("accept into place %d: %+v (%v)", want, c, c.Err())
		}
		r.send(client, "x")
		r.want(1, func(e *Entry) { e.PrepareRecv(want, mem, 0); e.UseDirect() })
	}
	r.want(1, func(e *Entry) { e.PrepareCancelFd(l) })
	if c := r.await(waiting); c.Err() != unix.ECANCELED || c.More() {
		t.Errorf("after the cancel: %+v (%v)", c, c.Err())
	}
}

func TestAcceptWithPollFirst(t *testing.T) {
	r := open(t, Config{})
	l, addr := r.listener()
	waiting := r.start(func(e *Entry) { e.PrepareAccept(l); e.PollFirst() })
	r.gather(0)
	if len(r.early) == 1 && r.early[0].Err() == unix.EINVAL {
		r.await(waiting)
		t.Skip("this kernel cannot poll before an accept (Linux 6.10)")
	}
	r.dial(addr)
	c := r.await(waiting)
	if c.Res < 0 {
		t.Fatal(c.Err())
	}
	sys.Close(int(c.Res))
}

// The kernel may say EMFILE only for the accept that finds no place: what waits
// in the backlog is kept.
func TestAcceptGoesOnAfterAnError(t *testing.T) {
	r := open(t, Config{})
	r.wantErr(unix.EBADF, func(e *Entry) { e.PrepareAcceptMultishot(-1) })
	a, _ := r.pair()
	r.wantErr(unix.EINVAL, func(e *Entry) { e.PrepareAccept(a) }) // not a listener
	accept(t, r)
}
