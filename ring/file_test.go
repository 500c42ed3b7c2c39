//go:build linux

package ring

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// file is a temporary file with the given contents.
func (r *testRing) file(contents string) *os.File {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(contents), 0o600); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.after = append(r.after, func() { _ = f.Close() })
	return f
}

func read(t *testing.T, r *testRing) {
	fd := int(r.file("0123456789").Fd())
	mem := r.memory(16)
	r.want(4, func(e *Entry) { e.PrepareRead(fd, mem[:4], 3) })
	if string(mem[:4]) != "3456" {
		t.Errorf("read %q at offset 3", mem[:4])
	}
	for _, want := range []string{"012345", "6789"} { // by the file's own position
		r.want(len(want), func(e *Entry) { e.PrepareRead(fd, mem[:6], -1) })
		if string(mem[:len(want)]) != want {
			t.Errorf("read %q, want %q", mem[:len(want)], want)
		}
	}
	r.want(0, func(e *Entry) { e.PrepareRead(fd, mem, -1) })
	r.want(0, func(e *Entry) { e.PrepareRead(fd, mem, 1<<40) })
}

func readFixed(t *testing.T, r *testRing) {
	fd := int(r.file("0123456789").Fd())
	mem := r.memory(8192)
	if err := r.RegisterBuffers([][]byte{mem[:4096], mem[4096:]}); err != nil {
		t.Fatal(err)
	}
	r.want(7, func(e *Entry) { e.PrepareReadFixed(fd, mem[5000:5010], 3, 1) })
	if string(mem[5000:5008]) != "3456789\x00" {
		t.Errorf("read %q", mem[5000:5008])
	}
	r.wantErr(unix.EFAULT, func(e *Entry) { e.PrepareReadFixed(fd, mem[5000:5010], 3, 0) })
	if err := r.UnregisterBuffers(); err != nil {
		t.Error(err)
	}
	r.wantErr(unix.EFAULT, func(e *Entry) { e.PrepareReadFixed(fd, mem[5000:5010], 3, 1) })
}

// contents reads a file from its beginning, around the ring.
func contents(t *testing.T, f *os.File) string {
	t.Helper()
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

func write(t *testing.T, r *testRing) {
	f := r.file("0123456789")
	mem := r.memory(16)
	copy(mem, "abcdef")
	r.want(2, func(e *Entry) { e.PrepareWrite(int(f.Fd()), mem[:2], 4) })
	r.want(3, func(e *Entry) { e.PrepareWrite(int(f.Fd()), mem[2:5], -1) })
	if got := contents(t, f); got != "cde3ab6789" {
		t.Errorf("the file holds %q", got)
	}
}

func writeFixed(t *testing.T, r *testRing) {
	f := r.file("0123456789")
	mem := r.memory(4096)
	copy(mem[100:], "fixed")
	if err := r.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	r.want(5, func(e *Entry) { e.PrepareWriteFixed(int(f.Fd()), mem[100:105], 8, 0) })
	if got := contents(t, f); got != "01234567fixed" {
		t.Errorf("the file holds %q", got)
	}
}

func connect(t *testing.T, r *testRing) {
	l, addr := r.listener()
	sockaddr, err := PutSockaddr(r.memory(SockaddrBytes), addr)
	if err != nil {
		t.Fatal(err)
	}
	fd := r.owns(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
	r.want(0, func(e *Entry) { e.PrepareConnect(fd, sockaddr) })
	if peer, err := r.PeerAddr(fd); err != nil || peer != addr {
		t.Errorf("connected to %v (%v), want %v", peer, err, addr)
	}
	server, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	r.owns(server, err)

	// A port on which nobody listens: bound, so that nobody else will.
	bound := r.owns(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	if err := unix.Bind(bound, inet4(netip.MustParseAddrPort("127.0.0.1:0"))); err != nil {
		t.Fatal(err)
	}
	deaf, err := r.LocalAddr(bound)
	if err != nil {
		t.Fatal(err)
	}
	if sockaddr, err = PutSockaddr(sockaddr[:SockaddrBytes], deaf); err != nil {
		t.Fatal(err)
	}
	refused := r.owns(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
	r.wantErr(unix.ECONNREFUSED, func(e *Entry) { e.PrepareConnect(refused, sockaddr) })
}

func closeFd(t *testing.T, r *testRing) {
	p, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	peer := r.owns(p[1], nil)
	r.want(0, func(e *Entry) { e.PrepareClose(p[0]) })
	r.want(0, func(e *Entry) { e.PrepareRecv(peer, r.memory(1), 0) }) // end of stream
	r.wantErr(unix.EBADF, func(e *Entry) { e.PrepareClose(-1) })
}

func closeDirect(t *testing.T, r *testRing) {
	if err := r.RegisterFiles(2); err != nil {
		t.Fatal(err)
	}
	p, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	peer := r.owns(p[1], nil)
	if err := r.UpdateFiles(1, []int32{int32(p[0])}); err != nil {
		t.Fatal(err)
	}
	sys.Close(p[0]) // the table's reference remains
	mem := r.memory(4)
	r.send(peer, "x")
	r.want(1, func(e *Entry) { e.PrepareRecv(1, mem, 0); e.UseDirect() })
	r.want(0, func(e *Entry) { e.PrepareCloseDirect(1) })
	r.want(0, func(e *Entry) { e.PrepareRecv(peer, mem, 0) }) // end of stream
	r.wantErr(unix.EBADF, func(e *Entry) { e.PrepareCloseDirect(1) })
	if err := r.UnregisterFiles(); err != nil {
		t.Error(err)
	}
}

func install(t *testing.T, r *testRing) {
	if err := r.RegisterFiles(3); err != nil {
		t.Fatal(err)
	}
	a, b := r.pair()
	if err := r.UpdateFiles(2, []int32{int32(a)}); err != nil {
		t.Fatal(err)
	}
	c := r.do(func(e *Entry) { e.PrepareInstall(2) })
	if c.Res < 0 {
		t.Fatal(c.Err())
	}
	fd := r.owns(int(c.Res), nil)
	if fd == a {
		t.Error("the descriptor is the one that was there before")
	}
	r.send(fd, "through")
	if got := r.receive(b, 7); got != "through" {
		t.Errorf("received %q", got)
	}
	r.wantErr(unix.EBADF, func(e *Entry) { e.PrepareInstall(0) }) // an empty place
}

func shutdown(t *testing.T, r *testRing) {
	a, b := r.tcp()
	mem := r.memory(4)
	waiting := r.start(func(e *Entry) { e.PrepareRecv(b, mem, 0) })
	r.want(0, func(e *Entry) { e.PrepareShutdown(a, unix.SHUT_WR) })
	if c := r.await(waiting); c.Res != 0 {
		t.Errorf("the peer received %d (%v), want the end of the stream", c.Res, c.Err())
	}
	r.send(b, "back") // the other direction still works
	r.want(4, func(e *Entry) { e.PrepareRecv(a, mem, 0) })
	r.wantErr(unix.ENOTSOCK, func(e *Entry) { e.PrepareShutdown(r.eventFd(), unix.SHUT_WR) })
}
