//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestMmsghdrHasTheKernelsSize(t *testing.T) {
	if n := unsafe.Sizeof(mmsghdr{}); n != 64 {
		t.Errorf("struct mmsghdr is %d bytes here, 64 in the kernel", n)
	}
	if n := unsafe.Offsetof(mmsghdr{}.Len); n != 56 {
		t.Errorf("mmsghdr.msg_len is at %d here, at 56 in the kernel", n)
	}
}

func udpPair(t *testing.T) (from, to int, addr netip.AddrPort) {
	t.Helper()
	open := func() int {
		fd, err := OpenUDP(netip.MustParseAddrPort("127.0.0.1:0"), UDPOptions{PacketInfo: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { Close(fd) })
		return fd
	}
	from, to = open(), open()
	addr, err := LocalAddr(to)
	if err != nil {
		t.Fatal(err)
	}
	return from, to, addr
}

func TestBatchSendsDatagrams(t *testing.T) {
	from, to, addr := udpPair(t)
	b, err := NewBatch()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	mem, err := Map(PageBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(mem)
	copy(mem, "onetwothree")
	name := PutSockaddrScope(make([]byte, SockaddrBytes), addr, 0)
	for range 2 { // a batch is used again
		b.Reset()
		b.Begin(name)
		b.Add(mem[:3])
		b.Begin(name)
		b.Add(mem[3:6])
		b.Add(mem[6:11])
		b.SetSource(netip.MustParseAddr("127.0.0.3"), 0)
		b.Begin(name)
		b.Add(mem[:0])
		b.Begin(name)
		b.Add(mem[:3])
		b.Add(mem[3:6])
		b.Add(mem[6:7])
		b.SetSegment(3)
		if b.Len() != 4 || ParseSegment(b.Control(3)) != 3 || ParseSegment(b.Control(0)) != 0 || !bytes.Equal(b.Name(2), name) {
			t.Fatalf("%d datagrams, segments of %d", b.Len(), ParseSegment(b.Control(3)))
		}
		if got := b.Payload(nil, 1); string(got) != "twothree" {
			t.Fatalf("the second one is %q", got)
		}
		n, errno := b.Send(from)
		if errno != 0 || n != 4 {
			t.Fatalf("%d sent, %v", n, errno)
		}
		into := make([]byte, 100)
		for _, want := range []string{"one", "twothree", "", "one", "two", "t"} {
			n, sa, err := unix.Recvfrom(to, into, 0)
			if err != nil || string(into[:n]) != want {
				t.Fatalf("received %q, %v, want %q", into[:max(0, n)], err, want)
			}
			if host := sa.(*unix.SockaddrInet4).Addr[3]; want == "twothree" && host != 3 {
				t.Errorf("%q came from 127.0.0.%d", want, host)
			}
		}
	}
}

func TestBatchTakesSoMany(t *testing.T) {
	b, err := NewBatch()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	from, to, addr := udpPair(t)
	if err := ConnectUDP(from, addr); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; !b.Full(); n++ {
		b.Begin(nil)
		b.Add(nil)
	}
	if n != BatchPieces {
		t.Fatalf("%d datagrams fit, want %d", n, BatchPieces)
	}
	if sent, errno := b.Send(from); sent != n || errno != 0 {
		t.Fatalf("%d sent, %v", sent, errno)
	}
	if errno := b.SendOne(from, n-1); errno != 0 {
		t.Fatal(errno)
	}
	for range n + 1 {
		if _, _, err := unix.Recvfrom(to, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, errno := b.Send(-1); errno != unix.EBADF {
		t.Errorf("to no descriptor: %v", errno)
	}
}

func TestMembershipRefusesWhatIsNoAddress(t *testing.T) {
	if err := SetMembership(-1, netip.Addr{}, 0, true); err == nil {
		t.Error("no error")
	}
}
