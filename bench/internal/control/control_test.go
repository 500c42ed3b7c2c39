package control

import (
	"testing"
	"time"
)

func TestAddressesAreReadAsTheyAreWritten(t *testing.T) {
	for _, c := range []struct{ text, network, address string }{
		{"127.0.0.1:9000", "tcp", "127.0.0.1:9000"},
		{"udp:127.0.0.1:9000", "udp", "127.0.0.1:9000"},
		{"unix:/run/s", "unix", "/run/s"},
	} {
		n, a := Network(c.text)
		if n != c.network || a != c.address {
			t.Errorf("%s: %s and %s", c.text, n, a)
		}
		if got := (Addr{Network: n, Address: a}).String(); got != c.text {
			t.Errorf("%s is written %s", c.text, got)
		}
	}
}

func TestRequestsAreReadAsTheyAreWritten(t *testing.T) {
	want := Request{Offset: 1 << 40, N: 12345}
	b := want.AppendTo([]byte("x"))[1:]
	if len(b) != RequestBytes || ParseRequest(b) != want {
		t.Errorf("%x", b)
	}
}

func TestRoundsWaitForAcknowledgements(t *testing.T) {
	a := NewAcks(2, 4)
	for range 4 {
		a.Wait()
	}
	began := make(chan struct{})
	go func() {
		a.Wait()
		close(began)
	}()
	a.Add([]byte{1}) // one of two receivers
	select {
	case <-began:
		t.Fatal("the fifth round began with a window of 4 unacknowledged")
	case <-time.After(10 * time.Millisecond):
	}
	a.Add([]byte{1})
	<-began
	if Ack(1) != 1 || Ack(16) != 8 {
		t.Errorf("acknowledged at a time: %d, %d", Ack(1), Ack(16))
	}
}
