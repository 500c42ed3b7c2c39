//go:build linux

package ring

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func TestCallsAroundTheQueues(t *testing.T) {
	r := open(t, Config{})
	a, b := r.tcp()
	into := make([]byte, 16)
	if n, errno := r.Recv(b, into); errno != unix.EAGAIN {
		t.Errorf("receive of nothing: %d, %v", n, errno)
	}
	if n, errno := r.Send(a, []byte("plain"), 0); n != 5 || errno != 0 {
		t.Errorf("send: %d, %v", n, errno)
	}
	m := r.message()
	vector(m, r.memory(16))
	if n, errno := r.SendMessage(a, m, 0); n != 8 || errno != 0 {
		t.Errorf("send of a vector: %d, %v", n, errno)
	}
	if got := r.receive(b, 13); got != "plainvectored" {
		t.Errorf("received %q", got)
	}
	if errno := r.Shutdown(a, unix.SHUT_WR); errno != 0 {
		t.Error(errno)
	}
	r.want(unix.POLLIN|unix.POLLRDHUP, func(e *Entry) { e.PreparePoll(b, unix.POLLIN|unix.POLLRDHUP) })
	if n, errno := r.Recv(b, into); n != 0 || errno != 0 {
		t.Errorf("receive at the end of the stream: %d, %v", n, errno)
	}
	p, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	r.owns(p[1], nil)
	if errno := r.CloseFd(p[0]); errno != 0 {
		t.Error(errno)
	}
	if errno := r.CloseFd(-1); errno != unix.EBADF {
		t.Errorf("close of no descriptor: %v", errno)
	}
	r.want(0, func(e *Entry) { e.PrepareRecv(p[1], r.memory(1), 0) })
}

// With SHUT_RDWR an armed receive ends with 0 and a waiting send with EPIPE, as
// the comment of Shutdown says: closing relies on it.
func TestShutdownEndsWhatIsInFlight(t *testing.T) {
	r := open(t, Config{})
	a, _ := r.tcp()
	receive := r.start(func(e *Entry) { e.PrepareRecv(a, r.memory(1), 0) })
	send := r.start(func(e *Entry) { e.PrepareSend(a, r.memory(8<<20), unix.MSG_WAITALL) })
	r.silent()
	if errno := r.Shutdown(a, unix.SHUT_RDWR); errno != 0 {
		t.Fatal(errno)
	}
	if c := r.await(receive); c.Res != 0 {
		t.Errorf("the receive: %+v (%v)", c, c.Err())
	}
	// Some of it went out before: then its number comes instead of EPIPE.
	if c := r.await(send); c.Err() != unix.EPIPE && c.Res <= 0 {
		t.Errorf("the send: %+v (%v)", c, c.Err())
	}
}

func TestSocketOptionsAndAddresses(t *testing.T) {
	r := open(t, Config{})
	a, b := r.tcp()
	mine, err := r.LocalAddr(a)
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := r.PeerAddr(b); err != nil || peer != mine {
		t.Errorf("peer %v (%v), want %v", peer, err, mine)
	}
	if err := r.SetInt(a, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		t.Error(err)
	}
	if on, err := r.GetInt(a, unix.IPPROTO_TCP, unix.TCP_NODELAY); on != 1 || err != nil {
		t.Errorf("TCP_NODELAY is %d, %v", on, err)
	}
	for _, seconds := range []int{0, 5, -1} {
		if err := r.SetLinger(a, seconds); err != nil {
			t.Error(err)
		}
	}
}

func TestTwoRingsListenOnOnePortWhenItIsShared(t *testing.T) {
	r := open(t, Config{})
	fd := r.owns(r.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 8, true, false))
	addr, err := r.LocalAddr(fd)
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, Config{})
	second, err := other.ListenTCP(addr, 8, true, false)
	if err != nil {
		t.Fatal(err)
	}
	sys.Close(second)
	if third, err := other.ListenTCP(addr, 8, false, false); err == nil {
		t.Error("a third listener has the port to itself")
		sys.Close(third)
	}
}
