//go:build linux

package net

import (
	"errors"
	"io"
	"testing"
)

// A busy connection's socket is in the ring's table, which keeps it open: its
// peer must see the end all the same, and the next connection in its slot must not
// be sent through it.
func TestBusyConnectionsGoThroughDirectDescriptors(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoLease(t))
		want := uint64(0)
		for round := range uint64(few(3)) {
			c, idle := srv.dial(), srv.dial()
			for i := range uint64(3 * directEnter) {
				wantEcho(t, c, payload(round<<32|i, 50))
			}
			wantEcho(t, idle, payload(round, 50))
			if srv.loops[0].directs > 0 {
				want++
			}
			if got := srv.Stats().ToDirect; got != want {
				t.Errorf("round %d: %d connections went to direct descriptors, want %d", round, got, want)
			}
			for i := range srv.loops {
				srv.onLoop(i, func(l *loop) {
					for _, c := range l.testConns() {
						c.Close()
					}
				})
			}
			for _, c := range []io.ReadCloser{c, idle} {
				if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
					t.Errorf("round %d: after the end: %d bytes, %v: want EOF", round, n, err)
				}
				_ = c.Close()
			}
			until(t, "both to be closed", func() bool { return srv.Stats().Connections == 0 })
		}
	})
}

// A connection whose peer ends first has nothing in flight when it ends, and so is
// not shut down but only closed: a table that went on holding its socket would keep
// the peer waiting.
func TestBusyConnectionWhosePeerEndsFirst(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoLease(t))
		for round := range uint64(3) {
			c := srv.dial()
			for i := range uint64(3 * directEnter) {
				wantEcho(t, c, payload(round<<32|i, 50))
			}
			_ = c.CloseWrite()
			wantRest(t, c, nil)
			srv.wantCause(io.EOF)
		}
		if st := srv.Stats(); st.ToDirect == 0 && srv.loops[0].directs > 0 {
			t.Error("no connection went to direct descriptors")
		}
	})
}

// A table that is full, or too small for a connection's slot, costs nobody anything:
// connections beyond it are sent through their descriptors.
func TestConnectionsBeyondTheTableOfDirectDescriptors(t *testing.T) {
	srv := serve(t, Options{Loops: 1, poison: true}, echoLease(t))
	places := uint64(0)
	srv.onLoop(0, func(l *loop) {
		if l.directs > 0 {
			l.directs, places = 2, 2
		}
	})
	for i := range uint64(5) {
		c := srv.dial()
		for j := range uint64(2 * directEnter) {
			wantEcho(t, c, payload(i<<32|j, 50))
		}
	}
	if st := srv.Stats(); st.ToDirect != places || st.Connections != 5 {
		t.Errorf("%d connections went to direct descriptors, want %d; %d are open", st.ToDirect, places, st.Connections)
	}
}
