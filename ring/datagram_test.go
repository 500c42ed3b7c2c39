//go:build linux

package ring

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's own buffers, with areas that are large enough and that are not.
func TestParseRecvmsgReadsWhatTheKernelWrote(t *testing.T) {
	const inet4Bytes = 16 // struct sockaddr_in
	tests := []struct {
		name                string
		nameLen, controlLen int
		bufBytes            int
		send                string

		payload         string
		flags           int
		noName          bool // cut too short to be read
		noControl       bool
		controlWasSmall bool
	}{
		{name: "room for all", nameLen: SockaddrBytes, controlLen: 64, bufBytes: 256, send: "hello", payload: "hello"},
		{name: "an exact fit", nameLen: inet4Bytes, controlLen: unix.CmsgSpace(12), bufBytes: RecvmsgHeaderBytes + inet4Bytes + unix.CmsgSpace(12) + 5,
			send: "hello", payload: "hello"},
		{name: "an empty datagram", nameLen: SockaddrBytes, controlLen: 64, bufBytes: 256},
		{name: "no name and no control data wanted", bufBytes: 64, send: "hello", payload: "hello", noName: true, noControl: true},
		{name: "a name that is cut", nameLen: 6, controlLen: 64, bufBytes: 256, send: "hello", payload: "hello", noName: true},
		{name: "a payload that is cut", nameLen: SockaddrBytes, bufBytes: RecvmsgHeaderBytes + SockaddrBytes + 2, send: "hello",
			payload: "he", flags: unix.MSG_TRUNC, noControl: true},
		{name: "control data that is cut", nameLen: SockaddrBytes, controlLen: 20, bufBytes: 256, send: "hello", payload: "hello",
			flags: unix.MSG_CTRUNC, controlWasSmall: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Config{})
			if !r.Have(RecvMultishot | BufferRings) {
				t.Skip("no multishot receive here")
			}
			_, mem := r.group(5, 1, tt.bufBytes)
			to, addr := r.udp()
			if tt.controlLen > 0 {
				if err := r.SetInt(to, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
					t.Fatal(err)
				}
			}
			from, sender := r.udp()
			m := r.message()
			if tt.nameLen > 0 {
				m.SetName(r.memory(tt.nameLen))
			}
			if tt.controlLen > 0 {
				m.SetControl(r.memory(tt.controlLen))
			}
			waiting := r.start(func(e *Entry) { e.PrepareRecvmsgMultishot(to, m, 5) })
			if err := unix.Sendto(from, []byte(tt.send), 0, inet4(addr)); err != nil {
				t.Fatal(err)
			}
			c := r.await(waiting)
			if _, ok := c.Buffer(); c.Res < 0 || !ok {
				t.Fatalf("%+v (%v)", c, c.Err())
			}
			name, control, payload, flags, err := ParseRecvmsg(mem[:c.Res], tt.nameLen, tt.controlLen)
			if err != nil {
				t.Fatal(err)
			}
			if string(payload) != tt.payload || flags != tt.flags {
				t.Errorf("payload %q, flags %#x, want %q, %#x", payload, flags, tt.payload, tt.flags)
			}
			got, ok := ParseSockaddr(name)
			if ok == tt.noName || ok && got != sender {
				t.Errorf("received from %v (%v), sent from %v", got, ok, sender)
			}
			switch {
			case tt.noControl:
				if len(control) != 0 {
					t.Errorf("control data %x, want none", control)
				}
			case tt.controlWasSmall:
				if len(control) > tt.controlLen {
					t.Errorf("%d bytes of control data in %d", len(control), tt.controlLen)
				}
			default:
				ms, err := unix.ParseSocketControlMessage(control)
				if err != nil || len(ms) != 1 || ms[0].Header.Type != unix.IP_PKTINFO {
					t.Errorf("control data %x: %+v, %v", control, ms, err)
				}
			}
		})
	}
}

// Both ways to receive, on both engines: an empty datagram is one, and ends a
// multishot receive.
func TestRecvmsgOfEmptyDatagrams(t *testing.T) {
	for _, c := range []Config{{}, {Engine: Epoll}} {
		t.Run(c.Engine.String(), func(t *testing.T) {
			r := open(t, c)
			if !r.Have(RecvMultishot | BufferRings) {
				t.Skip("no multishot receive here")
			}
			_, mem := r.group(6, 4, 256)
			to, addr := r.udp()
			from, sender := r.udp()
			m := r.message()
			m.SetName(r.memory(SockaddrBytes))
			for _, data := range []string{"", "hello", ""} {
				waiting := r.start(func(e *Entry) { e.PrepareRecvmsgMultishot(to, m, 6) })
				if err := unix.Sendto(from, []byte(data), 0, inet4(addr)); err != nil {
					t.Fatal(err)
				}
				got := r.await(waiting)
				id, ok := got.Buffer()
				if !ok || int(got.Res) != RecvmsgHeaderBytes+SockaddrBytes+len(data) || got.More() != (data != "") {
					t.Fatalf("multishot, %q: %+v (%v)", data, got, got.Err())
				}
				name, _, payload, _, err := ParseRecvmsg(mem[256*int(id):][:got.Res], SockaddrBytes, 0)
				if peer, ok := ParseSockaddr(name); err != nil || string(payload) != data || !ok || peer != sender {
					t.Errorf("multishot, %q: %q from %v, %v", data, payload, peer, err)
				}
				if got.More() {
					r.do(func(e *Entry) { e.PrepareCancel(waiting) })
					r.await(waiting)
				}
			}
		})
	}
}
