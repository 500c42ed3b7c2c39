//go:build linux

package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// linkVariable names two network devices, "one,other", that are joined outside of this
// machine and gather what they send: on the way between such two the kernel copies
// nothing, as it does on loopback and veth. kernels/init sets it.
const linkVariable = "RINGNET_TEST_LINK"

// link is that pair: one device with an address on this side, and the other one in
// a network namespace of its own, so that what goes between leaves the machine.
type link struct {
	own  netip.Addr
	away *namespace
	name string // of the other device
}

// namespace is a network namespace, and the thread that is in it.
type namespace struct {
	work chan func()
	fd   int
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{work: make(chan func()), fd: -1}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Skipf("cannot make a network namespace here: %v", err)
	}
	t.Cleanup(func() {
		close(n.work)
		_ = unix.Close(n.fd)
	})
	return n
}

// do runs f on the thread in the namespace.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// newLink joins two devices.
func newLink(t *testing.T, one, other string) *link {
	t.Helper()
	k := &link{own: netip.MustParseAddr("10.99.0.1"), away: newNamespace(t), name: other}
	for _, err := range []error{
		moveDevice(other, k.away.fd),
		giveAddress(one, k.own),
		switchDevice(one, true),
		k.away.do(func() error { return giveAddress(other, k.own.Next()) }),
		k.switchPeer(true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// By itself it comes back with the last socket that had the namespace.
		err := k.away.do(func() error { return moveDevice(other, home) })
		if err := errors.Join(err, switchDevice(one, false), unix.Close(home)); err != nil {
			t.Error(err)
		}
	})
	return k
}

// switchPeer has the other device answer, or nobody.
func (k *link) switchPeer(on bool) error {
	return k.away.do(func() error { return switchDevice(k.name, on) })
}

// dial connects from the other side.
func (k *link) dial(t *testing.T, addr Addr) *stdnet.TCPConn {
	t.Helper()
	var c peerConn
	err := k.away.do(func() (err error) {
		c, err = connect(addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*stdnet.TCPConn)
}

// moveDevice puts a device into another network namespace.
func moveDevice(name string, namespace int) error {
	i, err := stdnet.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// A header, which device, and one attribute: IFLA_NET_NS_FD.
	const length = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg + unix.SizeofRtAttr + 4
	m := binary.NativeEndian.AppendUint32(nil, length)
	m = binary.NativeEndian.AppendUint16(m, unix.RTM_NEWLINK)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // number and sender
	m = append(m, make([]byte, 4)...) // family and type
	m = binary.NativeEndian.AppendUint32(m, uint32(i.Index))
	m = append(m, make([]byte, 8)...) // flags, and which of them
	m = binary.NativeEndian.AppendUint16(m, unix.SizeofRtAttr+4)
	m = binary.NativeEndian.AppendUint16(m, unix.IFLA_NET_NS_FD)
	m = binary.NativeEndian.AppendUint32(m, uint32(namespace))
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("move %s: an answer of %d bytes", name, n)
	}
	if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))); errno != 0 {
		return fmt.Errorf("move %s to another namespace: %w", name, errno)
	}
	return nil
}

// deviceCall changes something about a device of the calling thread's namespace.
func deviceCall(name string, request uint, set func(*unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := set(r); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, request, r); err != nil {
		return fmt.Errorf("%s: ioctl %#x: %w", name, request, err)
	}
	return nil
}

func giveAddress(name string, addr netip.Addr) error {
	err := deviceCall(name, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) })
	if err != nil {
		return err
	}
	return deviceCall(name, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
}

func switchDevice(name string, on bool) error {
	return deviceCall(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		if on {
			r.SetUint16(unix.IFF_UP)
		}
		return nil
	})
}

// serve is the suite's, on this side of the link.
func (k *link) serve(t *testing.T, o Options, s script) *server {
	t.Helper()
	o.Loops, o.poison = 1, true
	return serve(t, o, s, netip.AddrPortFrom(k.own, 0).String())
}

// Between machines zero copy is what it says. Everything else in this package runs
// over loopback, where the kernel copies, and says so.
func TestZeroCopyOverALink(t *testing.T) {
	needUring(t)
	devices := os.Getenv(linkVariable)
	if devices == "" {
		t.Skipf("%s names no devices that are joined outside of this machine: kernels/run has some", linkVariable)
	}
	one, other, ok := strings.Cut(devices, ",")
	if !ok {
		t.Fatalf("%s is %q: want two devices with a comma between", linkVariable, devices)
	}
	for _, f := range []ring.Features{ring.SendZC, ring.SendmsgZC, ring.UsageReport} {
		if err := ring.Have(f); err != nil {
			t.Skipf("nothing is sent without a copy: %v", err)
		}
	}
	k := newLink(t, one, other)
	t.Run("leases", k.testLeases)
	t.Run("memory", k.testMemory)
	t.Run("static", k.testStatic)
	t.Run("not copied", k.testNotCopied)
	for _, end := range linkEnds {
		t.Run(end.name+", of a peer that does not read", func(t *testing.T) { k.testEnd(t, 8<<20, false, end.end, end.causes) })
		t.Run(end.name+", of a peer that is silent", func(t *testing.T) { k.testEnd(t, 8<<20, true, end.end, end.causes) })
		t.Run(end.name+", of a peer that is silent when all was sent", func(t *testing.T) { k.testEnd(t, 20<<10, true, end.end, end.causes) })
	}
}

// prove has the server send b by SendMemory until it knows that the way to the peer
// does not copy.
func (k *link) prove(t *testing.T, srv *server, c *stdnet.TCPConn) {
	t.Helper()
	until(t, "the connection to be accepted", func() bool { return srv.Stats().Connections == 1 })
	b := payload(77, 64<<10)
	proven := false
	for range 20 {
		done := make(chan error, 1)
		srv.onLoop(0, func(l *loop) {
			if err := l.testConns()[0].SendMemory(b, func(err error) { done <- err }); err != nil {
				t.Error(err)
			}
		})
		wantRead(t, c, b)
		if err := await(t, done, "done"); err != nil {
			t.Fatal(err)
		}
		srv.onLoop(0, func(l *loop) {
			r := l.testConns()[0].seldom().route
			proven = r != nil && r.proven
		})
		if proven {
			return
		}
	}
	st := srv.Stats()
	t.Fatalf("the way to the peer is not found to be one without copies: %d zero-copy sends, %d copied, %d refused",
		st.ZeroCopySends, st.ZeroCopyCopied, st.ZeroCopyRefused)
}

// wantSends wants further zero-copy sends, n at least, that carried most of size bytes
// and, but for a few, copied nothing: drivers copy a last packet of a few bytes, and
// then the report says so of all that was sent with it.
func wantSends(t *testing.T, srv *server, before Stats, n int, size int) {
	t.Helper()
	until(t, "all notifications", func() bool {
		quiet := false
		srv.onLoop(0, func(l *loop) { quiet = len(l.zeroCopies.free) == len(l.zeroCopies.sends) })
		return quiet
	})
	st := srv.Stats()
	sends, bytes := st.ZeroCopySends-before.ZeroCopySends, st.ZeroCopyBytes-before.ZeroCopyBytes
	t.Logf("%d zero-copy sends of %d of %d bytes; %d copied, %d refused", sends, bytes, size, st.ZeroCopyCopied, st.ZeroCopyRefused)
	if sends < uint64(n) || bytes < uint64(size/2) {
		t.Errorf("%d zero-copy sends of %d of %d bytes: want %d at least, and most of the bytes", sends, bytes, size, n)
	}
	if st.ZeroCopyCopied > st.ZeroCopySends/4 || st.ZeroCopyRefused != 0 {
		t.Errorf("%d of %d zero-copy sends copied, %d were refused: want few and none", st.ZeroCopyCopied, st.ZeroCopySends, st.ZeroCopyRefused)
	}
}

// Received buffers that are sent again come back only when the peer has them.
func (k *link) testLeases(t *testing.T) {
	srv := k.serve(t, Options{}, echoLease(t))
	c := k.dial(t, srv.addr())
	srv.toBulk(c)
	k.prove(t, srv, c)
	before := srv.Stats()
	const rounds, size = 4, 400_000
	for i := range rounds {
		wantEcho(t, c, payload(uint64(i), size))
	}
	wantSends(t, srv, before, rounds, rounds*size)
}

// tcpInfo is what the kernel knows of a connection. What it has taken may be more than
// what the loop has heard of.
func tcpInfo(t *testing.T, c *Conn) *unix.TCPInfo {
	info, err := unix.GetsockoptTCPInfo(int(c.fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Error(err)
		return &unix.TCPInfo{}
	}
	return info
}

// done comes when the peer's machine has the bytes, and not before: the memory is
// overwritten in it.
func (k *link) testMemory(t *testing.T) {
	const rounds, size = 6, 300_000
	var start, end uint64 // acknowledged before, and what will have been written
	done := make(chan error, rounds)
	srv := k.serve(t, Options{}, script{data: func(c *Conn, b []byte) int {
		if start == 0 {
			start = tcpInfo(t, c).Bytes_acked
		}
		for _, which := range b {
			mem := payload(uint64(which), size)
			end += size
			last := end
			err := c.SendMemory(mem, func(err error) {
				// What is left for a last send may be too little for zero copy.
				if there := tcpInfo(t, c).Bytes_acked - start; there+uint64(c.l.zeroCopyFrom) < last {
					t.Errorf("done is called when the peer has acknowledged %d bytes of %d", there, last)
				}
				for i := range mem {
					mem[i] = 0xee
				}
				done <- err
			})
			if err != nil {
				t.Error(err)
			}
		}
		return len(b)
	}})
	c := k.dial(t, srv.addr())
	k.prove(t, srv, c)
	before := srv.Stats()
	ask := []byte{0, 1, 2, 3, 4, 5}
	write(t, c, ask[:1])
	wantRead(t, c, payload(0, size)) // one alone
	write(t, c, ask[1:])
	for _, which := range ask[1:] { // and several together
		wantRead(t, c, payload(uint64(which), size))
	}
	for range rounds {
		if err := await(t, done, "done"); err != nil {
			t.Errorf("done: %v", err)
		}
	}
	wantSends(t, srv, before, 2, rounds*size)
}

// Static content is sent from a registered buffer, and in vectors.
func (k *link) testStatic(t *testing.T) {
	content := payload(5, 500_000)
	s, err := NewStatic(content)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 4
	srv := k.serve(t, Options{}, script{data: func(c *Conn, b []byte) int {
		for _, which := range b {
			if which == 1 {
				_, _ = c.Write([]byte("head"))
			}
			if err := c.SendStatic(s, 0, -1); err != nil {
				t.Error(err)
			}
			if which == 1 {
				if err := c.SendStatic(s, 1000, 100_000); err != nil {
					t.Error(err)
				}
			}
		}
		return len(b)
	}})
	c := k.dial(t, srv.addr())
	k.prove(t, srv, c)
	before := srv.Stats()
	for range rounds {
		write(t, c, []byte{0})
		wantRead(t, c, content)
		write(t, c, []byte{1})
		wantRead(t, c, bytes.Join([][]byte{[]byte("head"), content, content[1000:101_000]}, nil))
	}
	wantSends(t, srv, before, 2*rounds, rounds*(2*len(content)+100_000))
	srv.onLoop(0, func(l *loop) {
		if len(l.statics.index) != 1 {
			t.Errorf("%d Statics are registered, want 1", len(l.statics.index))
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.mem != nil {
		t.Error("the memory of a closed Static that nothing waits for is still there")
	}
}

// stalled sends b to the peer, which does not read, until no more of it goes.
func (k *link) stalled(t *testing.T, srv *server, b []byte, done func(error)) {
	t.Helper()
	srv.onLoop(0, func(l *loop) {
		if err := l.testConns()[0].SendMemory(b, done); err != nil {
			t.Error(err)
		}
	})
	until(t, "a notification is outstanding", func() bool {
		waits := false
		srv.onLoop(0, func(l *loop) {
			c := l.testConns()[0]
			waits = c.seldom().notices > 0 && c.state&sendArmed == 0 && (c.out.head == nil || c.state&full != 0)
		})
		return waits
	})
}

// The kernel has no copy: what is changed after it took the bytes, and before it sends
// them, is what the peer gets. Nobody may do that; here it shows what the reports say.
func (k *link) testNotCopied(t *testing.T) {
	srv := k.serve(t, Options{}, script{})
	c := k.dial(t, srv.addr())
	k.prove(t, srv, c)
	sent := payload(3, 8<<20)
	want := bytes.Clone(sent)
	var before uint64
	until(t, "all is acknowledged", func() bool {
		var info *unix.TCPInfo
		srv.onLoop(0, func(l *loop) { info = tcpInfo(t, l.testConns()[0]) })
		before = info.Bytes_acked
		return info.Unacked == 0 && info.Notsent_bytes == 0
	})
	done := make(chan error, 1)
	k.stalled(t, srv, sent, func(err error) { done <- err })
	var from, to int
	until(t, "bytes wait in the kernel, and the peer takes none", func() bool {
		var info *unix.TCPInfo
		srv.onLoop(0, func(l *loop) { info = tcpInfo(t, l.testConns()[0]) })
		from = int(info.Bytes_acked - before)
		to = from + int(info.Notsent_bytes)
		return info.Unacked == 0 && to-from > 10_000
	})
	for i := from; i < to; i++ {
		sent[i] ^= 0xff
	}
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(got), err)
	}
	if err := await(t, done, "done"); err != nil {
		t.Errorf("done: %v", err)
	}
	changed := 0
	for i := from; i < to; i++ {
		if got[i] != want[i] {
			changed++
			got[i] ^= 0xff
		}
	}
	if err := differ(got, want); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d bytes that the kernel had were sent as they were later", changed, to-from)
	if changed < (to-from)/2 {
		t.Errorf("of %d bytes that the kernel had taken and not sent, %d were sent as they were later: it has copied the others", to-from, changed)
	}
}

// linkEnds are ways to end a connection whose notifications are outstanding.
var linkEnds = []struct {
	name   string
	causes []error // of which OnClose is told one
	end    func(t *testing.T, srv *server)
}{
	{name: "Abort", causes: []error{errEnough}, end: func(t *testing.T, srv *server) {
		srv.onLoop(0, func(l *loop) { l.testConns()[0].Abort(errEnough) })
	}},
	{name: "Close", causes: []error{ErrCloseTimeout}, end: func(t *testing.T, srv *server) {
		srv.onLoop(0, func(l *loop) { l.testConns()[0].Close() })
	}},
	{name: "Close and Abort", causes: []error{errEnough, nil, ErrCloseTimeout}, end: func(t *testing.T, srv *server) {
		srv.onLoop(0, func(l *loop) { l.testConns()[0].Close() })
		srv.onLoop(0, func(l *loop) {
			if all := l.testConns(); len(all) > 0 { // else CloseTimeout was first
				all[0].Abort(errEnough)
			}
		})
	}},
	{name: "Shutdown", causes: []error{ErrServerClosed}, end: func(t *testing.T, srv *server) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v, want %v", err, context.DeadlineExceeded)
		}
	}},
	{name: "Server.Close", causes: []error{ErrServerClosed}, end: func(t *testing.T, srv *server) {
		if err := srv.Close(); err != nil {
			t.Errorf("Server.Close: %v", err)
		}
	}},
}

var errEnough = errors.New("enough")

// However a connection ends, it does so in time, and all memory comes back.
func (k *link) testEnd(t *testing.T, size int, silent bool, end func(*testing.T, *server), causes []error) {
	closeTimeout := 200 * time.Millisecond
	if causes[0] == ErrServerClosed {
		closeTimeout = time.Hour
	}
	var calls []error
	srv := k.serve(t, Options{CloseTimeout: closeTimeout}, script{close: func(*Conn, error) {
		calls = append(calls, errEnough) // marks the place
	}})
	c := k.dial(t, srv.addr())
	k.prove(t, srv, c)
	s, err := NewStatic(payload(9, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	if silent {
		if err := k.switchPeer(false); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := k.switchPeer(true); err != nil {
				t.Error(err)
			}
		}()
	}
	sent := srv.Stats().BytesSent
	k.stalled(t, srv, payload(8, size), func(err error) { calls = append(calls, err) })
	handed := srv.Stats().BytesSent-sent >= uint64(size)
	if !handed {
		srv.onLoop(0, func(l *loop) {
			if err := l.testConns()[0].SendStatic(s, 0, -1); err != nil {
				t.Error(err)
			}
		})
	}
	end(t, srv)
	if got := srv.cause(); !slices.ContainsFunc(causes, func(want error) bool { return errors.Is(got, want) }) {
		t.Errorf("OnClose was told %v, want one of %v", got, causes)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.mem != nil {
		t.Error("the connection has ended and keeps a Static")
	}
	if len(calls) != 2 || !errors.Is(calls[1], errEnough) || (calls[0] == nil) != handed {
		t.Errorf("done and OnClose were told %v; all was handed to the kernel: %v", calls, handed)
	}
}
