//go:build linux

package ring

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
	"example.com/ringnet/internal/sys"
)

// TestMain fails the package when a test leaves a descriptor open. It also is the
// main function of the children that some tests start, see [inChild].
func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		os.Exit(runChild(name))
	}
	os.Exit(leak.Main(m))
}

// limit is how long a test waits for what should come at once.
const limit = 10 * time.Second

// testRing is a ring on the test's own thread. It gives operations their user
// data, keeps completions until they are asked for, and owns what operations
// use. When the test ends, what is in flight is cancelled and must complete.
type testRing struct {
	*Ring
	t        testing.TB
	last     uint64         // user data given out
	inFlight map[uint64]int // completions without More that are due
	early    []Completion   // reaped and not asked for
	after    []func()       // what to free after the ring, last first
}

func open(t testing.TB, c Config) *testRing {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	ring, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &testRing{Ring: ring, t: t, last: 1000, inFlight: map[uint64]int{}}
	t.Cleanup(func() {
		r.drain()
		for range 2 { // closing twice is harmless
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, f := range slices.Backward(r.after) {
			f()
		}
	})
	if err := r.Enable(); err != nil {
		t.Fatal(err)
	}
	return r
}

// start prepares an operation and returns the user data it was given.
func (r *testRing) start(prepare func(e *Entry)) uint64 {
	r.t.Helper()
	e := r.Entry()
	if e == nil {
		r.t.Fatal("the submission queue is full")
	}
	prepare(e)
	r.last++
	e.SetUserData(r.last)
	r.inFlight[r.last]++
	return r.last
}

// await returns the next completion of the operation with userData.
func (r *testRing) await(userData uint64) Completion {
	r.t.Helper()
	for end := time.Now().Add(limit); ; {
		for i, c := range r.early {
			if c.UserData == userData {
				r.early = slices.Delete(r.early, i, i+1)
				return c
			}
		}
		if time.Now().After(end) {
			r.t.Fatalf("no completion of operation %d", userData)
		}
		r.gather(time.Until(end))
	}
}

// gather waits for one completion and takes all that there are.
func (r *testRing) gather(timeout time.Duration) {
	r.t.Helper()
	if err := r.Wait(1, max(0, timeout)); err != nil {
		r.t.Fatal(err)
	}
	var batch [64]Completion
	for n := r.Reap(batch[:]); n > 0; n = r.Reap(batch[:]) {
		for _, c := range batch[:n] {
			if c.More() {
				continue
			}
			if r.inFlight[c.UserData]--; r.inFlight[c.UserData] <= 0 {
				delete(r.inFlight, c.UserData)
			}
		}
		r.early = append(r.early, batch[:n]...)
	}
}

// do runs an operation to its first completion.
func (r *testRing) do(prepare func(e *Entry)) Completion {
	r.t.Helper()
	return r.await(r.start(prepare))
}

// want runs an operation whose one completion must have the given result.
func (r *testRing) want(res int, prepare func(e *Entry)) {
	r.t.Helper()
	if c := r.do(prepare); c.Res != int32(res) || c.More() {
		r.t.Errorf("completion %+v (%v), want result %d and no more", c, c.Err(), res)
	}
}

// wantErr runs an operation whose one completion must be the given error.
func (r *testRing) wantErr(err error, prepare func(e *Entry)) {
	r.t.Helper()
	if c := r.do(prepare); c.Err() != err || c.More() {
		r.t.Errorf("completion %+v (%v), want error %v and no more", c, c.Err(), err)
	}
}

// silent checks that nothing completes which was not asked for.
func (r *testRing) silent() {
	r.t.Helper()
	r.gather(0)
	if len(r.early) > 0 {
		r.t.Errorf("completed unasked: %+v", r.early)
	}
}

// drain ends everything in flight.
func (r *testRing) drain() {
	if len(r.inFlight) == 0 {
		return
	}
	r.do(func(e *Entry) { e.PrepareCancelAll() })
	for end := time.Now().Add(limit); len(r.inFlight) > 0; {
		if time.Now().After(end) {
			r.t.Errorf("in flight after a cancel of everything: %v", r.inFlight)
			return
		}
		r.gather(time.Until(end))
	}
}

// memory is mapped memory that is freed after the ring.
func (r *testRing) memory(n int) []byte {
	r.t.Helper()
	mem, err := Map(n)
	if err != nil {
		r.t.Fatal(err)
	}
	r.after = append(r.after, func() { _ = Unmap(mem) })
	return mem
}

// message is an empty message.
func (r *testRing) message() Message {
	r.t.Helper()
	ms, err := Messages(r.memory(MessageBytes))
	if err != nil {
		r.t.Fatal(err)
	}
	ms[0].Reset()
	return ms[0]
}

// owns closes a descriptor after the ring.
func (r *testRing) owns(fd int, err error) int {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	r.after = append(r.after, func() { sys.Close(fd) })
	return fd
}

// pair is a connected pair of Unix sockets.
func (r *testRing) pair() (a, b int) {
	r.t.Helper()
	p, err := socketPair()
	return r.owns(p[0], err), r.owns(p[1], err)
}

// listener is a TCP listener on the loopback device.
func (r *testRing) listener() (int, netip.AddrPort) {
	r.t.Helper()
	fd, err := r.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 64, false, false)
	r.owns(fd, err)
	addr, err := r.LocalAddr(fd)
	if err != nil {
		r.t.Fatal(err)
	}
	return fd, addr
}

// dial connects to addr; the socket does not block afterwards.
func (r *testRing) dial(addr netip.AddrPort) int {
	r.t.Helper()
	fd := r.owns(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		r.t.Fatal(err)
	}
	return fd
}

// tcp is a TCP connection over the loopback device.
func (r *testRing) tcp() (client, server int) {
	r.t.Helper()
	l, addr := r.listener()
	client = r.dial(addr)
	// The client is connected a moment before the listener knows of it.
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	return client, r.owns(fd, err)
}

// udp is a datagram socket on the loopback device.
func (r *testRing) udp() (int, netip.AddrPort) {
	r.t.Helper()
	fd := r.owns(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		r.t.Fatal(err)
	}
	addr, err := r.LocalAddr(fd)
	if err != nil {
		r.t.Fatal(err)
	}
	return fd, addr
}

// eventFd is a counter that polls can wait for.
func (r *testRing) eventFd() int {
	r.t.Helper()
	return r.owns(sys.NewEventFd())
}

// group registers a buffer ring of count buffers of size bytes, all with the
// kernel, and returns its memory, buffer after buffer.
func (r *testRing) group(id uint16, count, size int) (*BufRing, []byte) {
	r.t.Helper()
	br, err := NewBufRing(count)
	if err != nil {
		r.t.Fatal(err)
	}
	r.after = append(r.after, func() { _ = br.Close() })
	mem := r.memory(count * size)
	for i := range count {
		br.Add(mem[i*size:(i+1)*size], uint16(i))
	}
	br.Publish()
	if err := r.RegisterBufRing(id, br); err != nil {
		r.t.Fatal(err)
	}
	return br, mem
}

// send puts data into a socket whose buffer has room for it.
func (r *testRing) send(fd int, data string) {
	r.t.Helper()
	if n, errno := sys.Send(fd, []byte(data), 0); n != len(data) || errno != 0 {
		r.t.Fatalf("sent %d of %d bytes, %v", n, len(data), errno)
	}
}

// receive waits until n bytes have come out of a socket.
func (r *testRing) receive(fd, n int) string {
	r.t.Helper()
	got := make([]byte, 0, n)
	for end := time.Now().Add(limit); len(got) < n; {
		b := make([]byte, n-len(got))
		switch m, errno := sys.Recv(fd, b); {
		case errno == unix.EAGAIN:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end).Milliseconds())+1)
		case errno != 0 || m == 0:
			r.t.Fatalf("received %d of %d bytes, then %v", len(got), n, errno)
		default:
			got = append(got, b[:m]...)
		}
		if time.Now().After(end) {
			r.t.Fatalf("received only %d of %d bytes", len(got), n)
		}
	}
	return string(got)
}
