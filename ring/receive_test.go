//go:build linux

package ring

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func recv(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(16)
	waiting := r.start(func(e *Entry) { e.PrepareRecv(a, mem, 0) })
	r.silent()
	r.send(b, "later")
	if c := r.await(waiting); c.Res != 5 || string(mem[:5]) != "later" {
		t.Errorf("received %d (%v): %q", c.Res, c.Err(), mem[:5])
	}
	r.send(b, "twice")
	r.want(5, func(e *Entry) { e.PrepareRecv(a, mem, unix.MSG_PEEK) })
	r.want(3, func(e *Entry) { e.PrepareRecv(a, mem[:3], 0) })
	r.want(2, func(e *Entry) { e.PrepareRecv(a, mem[3:], 0) })
	if string(mem[:5]) != "twice" {
		t.Errorf("received %q", mem[:5])
	}
	waiting = r.start(func(e *Entry) { e.PrepareRecv(a, mem, 0); e.PollFirst() })
	r.silent()
	sys.Shutdown(b, unix.SHUT_WR)
	if c := r.await(waiting); c.Res != 0 || c.More() {
		t.Errorf("at the end of the stream: %+v (%v)", c, c.Err())
	}
	r.wantErr(unix.EBADF, func(e *Entry) { e.PrepareRecv(-1, mem, 0) })
}

func recvSelect(t *testing.T, r *testRing) {
	br, mem := r.group(3, 2, 4)
	if br.EntryCount() != 2 {
		t.Errorf("a buffer ring of %d places, want 2", br.EntryCount())
	}
	a, b := r.tcp()
	r.send(b, "abcdefghi")
	for i, want := range []string{"abcd", "efgh"} {
		c := r.do(func(e *Entry) { e.PrepareRecvSelect(a, 3) })
		id, ok := c.Buffer()
		if c.Res != 4 || !ok || int(id) != i || string(mem[4*i:4*i+4]) != want {
			t.Fatalf("receive %d: %+v (%v) in buffer %d: %q", i, c, c.Err(), id, mem)
		}
		if !c.NonEmpty() {
			t.Errorf("receive %d left bytes behind and says the socket is empty", i)
		}
	}
	c := r.do(func(e *Entry) { e.PrepareRecvSelect(a, 3) })
	if _, ok := c.Buffer(); ok || c.Err() != unix.ENOBUFS {
		t.Errorf("receive without a free buffer: %+v (%v), want ENOBUFS", c, c.Err())
	}
	br.Add(mem[:4], 9)
	br.Publish()
	c = r.do(func(e *Entry) { e.PrepareRecvSelect(a, 3) })
	if id, ok := c.Buffer(); c.Res != 1 || !ok || id != 9 || mem[0] != 'i' {
		t.Errorf("after a buffer came back: %+v (%v): %q", c, c.Err(), mem)
	}
	if c.NonEmpty() {
		t.Error("everything was received and the socket is said to hold more")
	}
	r.wantErr(unix.ENOBUFS, func(e *Entry) { e.PrepareRecvSelect(a, 99) }) // no such group
}

func recvMultishot(t *testing.T, r *testRing) {
	br, mem := r.group(0, 4, 8)
	a, b := r.tcp()
	waiting := r.start(func(e *Entry) { e.PrepareRecvMultishot(a, 0) })
	for i, data := range []string{"one", "two", "three", "four"} {
		r.send(b, data)
		c := r.await(waiting)
		id, ok := c.Buffer()
		if int(c.Res) != len(data) || !ok || int(id) != i || !c.More() || string(mem[8*i:8*i+len(data)]) != data {
			t.Fatalf("%s: %+v (%v) in buffer %d: %q", data, c, c.Err(), id, mem)
		}
	}
	r.send(b, "five")
	if c := r.await(waiting); c.Err() != unix.ENOBUFS || c.More() {
		t.Fatalf("without a free buffer: %+v (%v), want ENOBUFS and no more", c, c.Err())
	}
	br.Add(mem[:8], 0)
	br.Add(mem[8:16], 1)
	br.Publish()
	waiting = r.start(func(e *Entry) { e.PrepareRecvMultishot(a, 0) })
	if c := r.await(waiting); c.Res != 4 || !c.More() || string(mem[:4]) != "five" {
		t.Fatalf("armed again: %+v (%v): %q", c, c.Err(), mem[:4])
	}
	sys.Shutdown(b, unix.SHUT_WR)
	c := r.await(waiting)
	if _, ok := c.Buffer(); c.Res != 0 || c.More() || ok {
		t.Errorf("at the end of the stream: %+v (%v)", c, c.Err())
	}
}

// With POLL_FIRST a receive can be armed on an empty group, where it would else
// end with ENOBUFS at once.
func recvPollFirst(t *testing.T, r *testRing) {
	br, mem := r.group(0, 2, 8)
	a, b := r.tcp()
	for range 2 { // all buffers
		r.send(b, "x")
		r.want(1, func(e *Entry) { e.PrepareRecvSelect(a, 0) })
	}
	waiting := r.start(func(e *Entry) { e.PrepareRecvMultishot(a, 0); e.PollFirst() })
	r.silent()
	br.Add(mem[:8], 7)
	br.Add(mem[8:], 8) // Linux 6.1 wants a buffer to find that the socket is empty
	br.Publish()
	r.send(b, "again")
	c := r.await(waiting)
	if id, _ := c.Buffer(); c.Res != 5 || id != 7 || !c.More() || string(mem[:5]) != "again" {
		t.Errorf("%+v (%v): %q", c, c.Err(), mem[:5])
	}
}

// Bytes and a reset behind them have come before the receive is armed.
func recvLate(t *testing.T, r *testRing) {
	r.group(0, 8, 8)
	for _, pollFirst := range []bool{false, true} {
		b, a, err := tcpPair()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(a)
		if err := sendAndReset(b, a, []byte("bytes")); err != nil {
			t.Fatal(err)
		}
		waiting := r.start(func(e *Entry) {
			e.PrepareRecvMultishot(a, 0)
			if pollFirst {
				e.PollFirst()
			}
		})
		if c := r.await(waiting); c.Res != 5 || !c.More() {
			t.Fatalf("%+v (%v)", c, c.Err())
		}
		if pollFirst && !r.Have(RecvMultishotLate) {
			r.silent()
			if _, errno := r.Recv(a, nil); errno != unix.ECONNRESET {
				t.Errorf("a receive without room: %v", errno)
			}
			sys.Shutdown(a, unix.SHUT_RDWR) // which wakes it, however it answers
			r.await(waiting)
			continue
		}
		if c := r.await(waiting); c.Err() != unix.ECONNRESET || c.More() {
			t.Errorf("poll first %v: %+v (%v)", pollFirst, c, c.Err())
		}
	}
}

func recvmsg(t *testing.T, r *testRing) {
	to, addr := r.udp()
	from, sender := r.udp()
	m, mem, name := r.message(), r.memory(16), r.memory(SockaddrBytes)
	m.Append(mem[:4])
	m.Append(mem[8:12])
	m.SetName(name)
	waiting := r.start(func(e *Entry) { e.PrepareRecvmsg(to, m, 0) })
	r.silent()
	if err := unix.Sendto(from, []byte("abcdef"), 0, inet4(addr)); err != nil {
		t.Fatal(err)
	}
	if c := r.await(waiting); c.Res != 6 || string(mem) != "abcd\x00\x00\x00\x00ef\x00\x00\x00\x00\x00\x00" {
		t.Errorf("received %d (%v): %q", c.Res, c.Err(), mem)
	}
	if got, ok := sys.ParseSockaddr(name); !ok || got != sender {
		t.Errorf("received from %v, sent from %v", got, sender)
	}
}

func recvmsgSelect(t *testing.T, r *testRing) {
	_, mem := r.group(7, 4, 256)
	to, addr := r.udp()
	from, sender := r.udp()
	for _, data := range []string{"hello", "", "you"} {
		m := r.message()
		name := r.memory(SockaddrBytes)
		m.SetName(name)
		waiting := r.start(func(e *Entry) { e.PrepareRecvmsgSelect(to, m, 7) })
		if err := unix.Sendto(from, []byte(data), 0, inet4(addr)); err != nil {
			t.Fatal(err)
		}
		got := r.await(waiting)
		id, ok := got.Buffer()
		if int(got.Res) != len(data) || ok != (data != "") || got.More() {
			t.Fatalf("%q: %+v (%v)", data, got, got.Err())
		}
		if ok && string(mem[256*int(id):][:got.Res]) != data {
			t.Errorf("received %q, want %q", mem[256*int(id):][:got.Res], data)
		}
		if peer, ok := ParseSockaddr(name[:m.NameLen()]); !ok || peer != sender || m.Flags() != 0 || m.ControlLen() != 0 {
			t.Errorf("from %v, flags %x, want %v", peer, m.Flags(), sender)
		}
	}
}

func recvmsgMultishot(t *testing.T, r *testRing) {
	const size, header = 128, 16
	_, mem := r.group(5, 8, size)
	to, addr := r.udp()
	m, name := r.message(), r.memory(SockaddrBytes)
	m.SetName(name)
	waiting := r.start(func(e *Entry) { e.PrepareRecvmsgMultishot(to, m, 5) })
	for i, data := range []string{"first", "second", "", "fourth"} {
		from, sender := r.udp()
		if err := unix.Sendto(from, []byte(data), 0, inet4(addr)); err != nil {
			t.Fatal(err)
		}
		c := r.await(waiting)
		id, ok := c.Buffer()
		if c.Res < 0 || !ok {
			t.Fatalf("datagram %d: %+v (%v)", i, c, c.Err())
		}
		// The kernel takes an empty datagram for the end of a stream.
		if c.More() != (data != "") {
			t.Errorf("datagram %d of %d bytes: more is %v", i, len(data), c.More())
		}
		if !c.More() {
			waiting = r.start(func(e *Entry) { e.PrepareRecvmsgMultishot(to, m, 5) })
		}
		// struct io_uring_recvmsg_out, then the name's whole room, then the payload.
		b := mem[int(id)*size : int(id)*size+int(c.Res)]
		if n := binary.NativeEndian.Uint32(b); n != 16 {
			t.Errorf("datagram %d: a name of %d bytes", i, n)
		}
		if n := binary.NativeEndian.Uint32(b[8:]); int(n) != len(data) {
			t.Errorf("datagram %d: a payload of %d bytes, want %d", i, n, len(data))
		}
		if got, ok := sys.ParseSockaddr(b[header : header+SockaddrBytes]); !ok || got != sender {
			t.Errorf("datagram %d: received from %v, sent from %v", i, got, sender)
		}
		if payload := string(b[header+SockaddrBytes:]); payload != data {
			t.Errorf("datagram %d: %q, want %q", i, payload, data)
		}
	}
}

func inet4(addr netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
}

func TestCompletionReadsItsFlags(t *testing.T) {
	tests := []struct {
		name         string
		c            Completion
		err          error
		more         bool
		notification bool
		copied       bool
		nonEmpty     bool
		buffer       uint16
		hasBuffer    bool
	}{
		{name: "a result", c: Completion{Res: 5}},
		{name: "an error", c: Completion{Res: -int32(unix.EPIPE)}, err: unix.EPIPE},
		{name: "one of many", c: Completion{Flags: 2}, more: true},
		{name: "a buffer", c: Completion{Flags: 1 | 0xffff<<16}, buffer: 0xffff, hasBuffer: true},
		{name: "buffer 0", c: Completion{Flags: 1}, hasBuffer: true},
		{name: "more in the socket", c: Completion{Res: 1, Flags: 4}, nonEmpty: true},
		{name: "a notification", c: Completion{Flags: 8}, notification: true},
		{name: "a notification of a copy", c: Completion{Flags: 8, Res: -1 << 31}, notification: true, copied: true, err: nil},
	}
	for _, tt := range tests {
		id, ok := tt.c.Buffer()
		if tt.c.More() != tt.more || tt.c.Notification() != tt.notification || tt.c.NonEmpty() != tt.nonEmpty ||
			ok != tt.hasBuffer || ok && id != tt.buffer || tt.notification && tt.c.Copied() != tt.copied ||
			!tt.notification && tt.c.Err() != tt.err {
			t.Errorf("%s is read wrongly: %+v", tt.name, tt.c)
		}
	}
}
