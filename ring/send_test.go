//go:build linux

package ring

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func send(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(16)
	copy(mem, "payload")
	r.want(7, func(e *Entry) { e.PrepareSend(a, mem[:7], 0) })
	if got := r.receive(b, 7); got != "payload" {
		t.Errorf("received %q", got)
	}
	// No SIGPIPE: it would end the test.
	c, d := r.pair()
	sys.Shutdown(d, unix.SHUT_RDWR)
	r.wantErr(unix.EPIPE, func(e *Entry) { e.PrepareSend(c, mem[:7], 0) })
}

// With MSG_WAITALL one completion stands for all of a buffer that is many times
// larger than the socket's.
func sendAll(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(8 << 20)
	pattern(mem)
	waiting := r.start(func(e *Entry) { e.PrepareSend(a, mem, unix.MSG_WAITALL) })
	r.silent() // it cannot be done: nobody has read yet
	got := make([]byte, 0, len(mem))
	into := r.memory(256 << 10)
	for len(got) < len(mem) {
		c := r.do(func(e *Entry) { e.PrepareRecv(b, into, 0) })
		if c.Res <= 0 {
			t.Fatalf("received %d (%v)", c.Res, c.Err())
		}
		got = append(got, into[:c.Res]...)
	}
	if c := r.await(waiting); int(c.Res) != len(mem) || c.More() {
		t.Errorf("sent %d of %d (%v)", c.Res, len(mem), c.Err())
	}
	if !bytes.Equal(got, mem) {
		t.Error("the bytes changed on the way")
	}
}

// A cancel answers with what went out already, not with ECANCELED: the stream has
// been written to.
func sendCancelled(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(8 << 20)
	waiting := r.start(func(e *Entry) { e.PrepareSend(a, mem, unix.MSG_WAITALL) })
	r.silent()
	c := r.do(func(e *Entry) { e.PrepareCancel(waiting) })
	if c.Res != 0 {
		t.Errorf("cancel: %v", c.Err())
	}
	sent := r.await(waiting)
	if sent.Res <= 0 || int(sent.Res) >= len(mem) || sent.More() {
		t.Fatalf("cancelled send: %+v (%v), want some bytes and not all", sent, sent.Err())
	}
	sys.Shutdown(a, unix.SHUT_WR)
	into, got := r.memory(256<<10), 0
	for {
		c := r.do(func(e *Entry) { e.PrepareRecv(b, into, 0) })
		if c.Res <= 0 {
			break
		}
		got += int(c.Res)
	}
	if got != int(sent.Res) {
		t.Errorf("the peer received %d bytes, the send said %d", got, sent.Res)
	}
}

// vector fills m with pieces of mem that together spell "vectored".
func vector(m Message, mem []byte) {
	copy(mem, "ve_ctor_ed")
	m.Append(mem[0:2])
	m.Append(mem[3:7])
	m.Append(nil)
	m.Append(mem[8:10])
}

func sendmsg(t *testing.T, r *testRing) {
	a, b := r.tcp()
	m := r.message()
	vector(m, r.memory(16))
	if m.Len() != 4 {
		t.Errorf("%d pieces, want 4", m.Len())
	}
	r.want(8, func(e *Entry) { e.PrepareSendmsg(a, m, unix.MSG_WAITALL) })
	if got := r.receive(b, 8); got != "vectored" {
		t.Errorf("received %q", got)
	}

	// A datagram to an address.
	from, _ := r.udp()
	to, addr := r.udp()
	name, err := PutSockaddr(r.memory(SockaddrBytes), addr)
	if err != nil {
		t.Fatal(err)
	}
	m.SetName(name)
	r.want(8, func(e *Entry) { e.PrepareSendmsg(from, m, 0) })
	if got := r.receive(to, 8); got != "vectored" {
		t.Errorf("received %q", got)
	}
	m.Reset()
	if m.Len() != 0 {
		t.Errorf("after Reset %d pieces", m.Len())
	}
}

// zeroCopy runs a zero-copy send of want bytes to both its completions. It asks
// for a usage report where the kernel can give one.
func (r *testRing) zeroCopy(want int, prepare func(e *Entry)) {
	r.t.Helper()
	report := true
	userData := r.start(func(e *Entry) { prepare(e); e.ReportUsage() })
	c := r.await(userData)
	if c.Err() == unix.EINVAL { // before Linux 6.2
		report = false
		if c.More() {
			r.await(userData)
		}
		userData = r.start(prepare)
		c = r.await(userData)
	}
	if int(c.Res) != want || !c.More() || c.Notification() {
		r.t.Fatalf("result %+v (%v), want %d and a notification to follow", c, c.Err(), want)
	}
	n := r.await(userData)
	if !n.Notification() || n.More() {
		r.t.Fatalf("notification %+v", n)
	}
	// The loopback device hands the pages to a receiver, so the kernel copies.
	if report && !n.Copied() {
		r.t.Errorf("notification %+v does not say that the loopback device copied", n)
	}
}

func sendZC(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(64 << 10)
	pattern(mem)
	read := make(chan string)
	go func() { read <- r.receive(b, len(mem)) }()
	r.zeroCopy(len(mem), func(e *Entry) { e.PrepareSendZC(a, mem, unix.MSG_WAITALL) })
	if <-read != string(mem) {
		t.Error("the bytes changed on the way")
	}
}

// An error of a zero-copy send may have a notification too, and the memory is the
// kernel's until then. Unix sockets know no zero copy.
func sendZCRefused(t *testing.T, r *testRing) {
	a, _ := r.pair()
	mem := r.memory(16)
	userData := r.start(func(e *Entry) { e.PrepareSendZC(a, mem, 0) })
	c := r.await(userData)
	if c.Err() != unix.EOPNOTSUPP {
		t.Errorf("result %+v (%v), want EOPNOTSUPP", c, c.Err())
	}
	if c.More() {
		if n := r.await(userData); !n.Notification() || n.More() {
			t.Errorf("notification %+v", n)
		}
	}
}

func sendZCFixed(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(8 << 10)
	pattern(mem)
	if err := r.RegisterBuffers([][]byte{mem[:4096], mem[4096:]}); err != nil {
		t.Fatal(err)
	}
	r.zeroCopy(100, func(e *Entry) { e.PrepareSendZCFixed(a, mem[5000:5100], unix.MSG_WAITALL, 1) })
	if got := r.receive(b, 100); got != string(mem[5000:5100]) {
		t.Errorf("received %q", got)
	}
	// Outside of the buffer that it names.
	userData := r.start(func(e *Entry) { e.PrepareSendZCFixed(a, mem[5000:5100], 0, 0) })
	c := r.await(userData)
	if c.Err() != unix.EFAULT {
		t.Errorf("send from outside the buffer: %+v (%v), want EFAULT", c, c.Err())
	}
	if c.More() {
		r.await(userData)
	}
}

func sendmsgZC(t *testing.T, r *testRing) {
	a, b := r.tcp()
	m := r.message()
	vector(m, r.memory(16))
	r.zeroCopy(8, func(e *Entry) { e.PrepareSendmsgZC(a, m, unix.MSG_WAITALL) })
	if got := r.receive(b, 8); got != "vectored" {
		t.Errorf("received %q", got)
	}
}

// pattern fills b with bytes that differ from place to place.
func pattern(b []byte) {
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
}

func TestMessagesNeedsRoomForOne(t *testing.T) {
	if ms, err := Messages(make([]byte, MessageBytes-1)); err == nil {
		t.Errorf("%d messages in too little memory", len(ms))
	}
	r := open(t, Config{})
	ms, err := Messages(r.memory(3*MessageBytes + 5))
	if err != nil || len(ms) != 3 {
		t.Errorf("%d messages, %v; want 3", len(ms), err)
	}
	ms[0].Reset()
	for i := range MaxVector {
		if !ms[0].Append(nil) {
			t.Errorf("piece %d of %d was refused", i, MaxVector)
		}
	}
	if ms[0].Append(nil) {
		t.Error("a full vector took one more piece")
	}
}

// Control data is sent: a descriptor is passed over a Unix socket.
func TestSendmsgPassesADescriptorAsControlData(t *testing.T) {
	r := open(t, Config{})
	a, b := r.pair()
	passed := r.eventFd()
	mem := r.memory(256)
	m := r.message()
	mem[0] = 'x'
	m.Append(mem[:1])
	m.SetControl(mem[16 : 16+copy(mem[16:], unix.UnixRights(passed))])
	r.want(1, func(e *Entry) { e.PrepareSendmsg(a, m, 0) })

	control := mem[128:256]
	m.Reset()
	m.Append(mem[1:2])
	m.SetControl(control)
	r.want(1, func(e *Entry) { e.PrepareRecvmsg(b, m, unix.MSG_CMSG_CLOEXEC) })
	got, err := unix.ParseSocketControlMessage(control[:unix.CmsgSpace(4)])
	if err != nil || len(got) != 1 {
		t.Fatalf("control data: %v, %v", got, err)
	}
	fds, err := unix.ParseUnixRights(&got[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors: %v, %v", fds, err)
	}
	defer sys.Close(fds[0])
	sys.SignalEventFd(fds[0])
	r.want(unix.POLLIN, func(e *Entry) { e.PreparePoll(passed, unix.POLLIN) })
}
