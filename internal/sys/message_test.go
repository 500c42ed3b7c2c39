//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMessagesLiesOverItsMemory(t *testing.T) {
	tests := []struct{ bytes, count int }{
		{MessageBytes, 1}, {MessageBytes + 1, 1}, {2*MessageBytes - 1, 1}, {2 * MessageBytes, 2}, {64 * MessageBytes, 64},
	}
	for _, tt := range tests {
		mem := mapped(t, tt.bytes)
		ms, err := Messages(mem)
		if err != nil || len(ms) != tt.count {
			t.Errorf("%d bytes hold %d messages (%v), want %d", tt.bytes, len(ms), err, tt.count)
			continue
		}
		for i := range ms {
			if got, want := ms[i].Address(), Address(mem)+uint64(i*MessageBytes); got != want {
				t.Errorf("message %d is at %#x, want %#x", i, got, want)
			}
		}
	}
	if _, err := Messages(make([]byte, MessageBytes-1)); err == nil {
		t.Error("a message was laid over too little memory")
	}
}

func TestMessageHoldsMaxVectorPiecesAndSendsThemInOrder(t *testing.T) {
	ms, err := Messages(mapped(t, MessageBytes))
	if err != nil {
		t.Fatal(err)
	}
	m := &ms[0]
	pair := socketPair(t)
	mem := mapped(t, MaxVector*3)
	for i := range mem {
		mem[i] = byte(i)
	}
	for range 2 { // the second time round, Reset must have forgotten the first
		m.Reset()
		for i := range MaxVector {
			if !m.Append(mem[3*i : 3*i+3]) {
				t.Fatalf("piece %d of %d was refused", i, MaxVector)
			}
		}
		if m.Append(mem) {
			t.Error("a full vector took one more piece")
		}
		if m.Len() != MaxVector {
			t.Errorf("%d pieces, want %d", m.Len(), MaxVector)
		}
		if n, errno := m.Send(pair[0], 0); n != len(mem) || errno != 0 {
			t.Fatalf("sent %d, %v", n, errno)
		}
		got := make([]byte, len(mem)+1)
		if n, errno := Recv(pair[1], got); n != len(mem) || errno != 0 || !bytes.Equal(got[:n], mem) {
			t.Fatalf("received %d bytes, %v: %v", n, errno, got[:n])
		}
	}
}

func TestMessageSendDoesNotBlockAndRaisesNoSignal(t *testing.T) {
	ms, err := Messages(mapped(t, MessageBytes))
	if err != nil {
		t.Fatal(err)
	}
	m := &ms[0]
	m.Reset()
	m.Append(mapped(t, 1<<20))
	pair := socketPair(t)
	for {
		if _, errno := m.Send(pair[0], 0); errno == unix.EAGAIN {
			break
		} else if errno != 0 {
			t.Fatal(errno)
		}
	}
	gone := socketPair(t)
	if errno := Shutdown(gone[1], unix.SHUT_RDWR); errno != 0 {
		t.Fatal(errno)
	}
	if _, errno := m.Send(gone[0], 0); errno != unix.EPIPE {
		t.Errorf("send to a peer that is gone: %v, want EPIPE", errno)
	}
}
