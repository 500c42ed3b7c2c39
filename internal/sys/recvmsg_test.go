//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// received is what the kernel would leave in a buffer.
func received(out RecvmsgOut, rest string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, out.NameLen)
	b = binary.NativeEndian.AppendUint32(b, out.ControlLen)
	b = binary.NativeEndian.AppendUint32(b, out.PayloadLen)
	b = binary.NativeEndian.AppendUint32(b, out.Flags)
	return append(b, rest...)
}

func TestParseRecvmsgTakesABufferApart(t *testing.T) {
	tests := []struct {
		name                string
		out                 RecvmsgOut
		rest                string
		nameLen, controlLen int

		wantName, wantControl, wantPayload string
	}{
		{name: "nothing but a header"},
		{name: "a payload", out: RecvmsgOut{PayloadLen: 5}, rest: "hello", wantPayload: "hello"},
		{name: "all areas full", out: RecvmsgOut{NameLen: 4, ControlLen: 7, PayloadLen: 5}, rest: "namecontrolhello",
			nameLen: 4, controlLen: 7, wantName: "name", wantControl: "control", wantPayload: "hello"},
		{name: "areas half full", out: RecvmsgOut{NameLen: 4, ControlLen: 2, PayloadLen: 5}, rest: "name....co.....hello",
			nameLen: 8, controlLen: 7, wantName: "name", wantControl: "co", wantPayload: "hello"},
		{name: "areas empty", out: RecvmsgOut{PayloadLen: 5}, rest: "........hello", nameLen: 4, controlLen: 4, wantPayload: "hello"},
		{name: "an empty datagram", out: RecvmsgOut{NameLen: 4}, rest: "name", nameLen: 4, wantName: "name"},
		{name: "a name that was cut", out: RecvmsgOut{NameLen: 16, PayloadLen: 1}, rest: "namex", nameLen: 4, wantName: "name", wantPayload: "x"},
		{name: "a payload that was cut", out: RecvmsgOut{PayloadLen: 1000, Flags: unix.MSG_TRUNC}, rest: "he", wantPayload: "he"},
		{name: "a payload of which nothing was left", out: RecvmsgOut{PayloadLen: 1000, Flags: unix.MSG_TRUNC}},
		{name: "control data that was cut", out: RecvmsgOut{Flags: unix.MSG_CTRUNC}, rest: "....", controlLen: 4},
		{name: "a whole buffer, not cut to the result", out: RecvmsgOut{PayloadLen: 5}, rest: "hello.........", wantPayload: "hello"},
		{name: "the largest lengths", out: RecvmsgOut{NameLen: math.MaxUint32, PayloadLen: math.MaxUint32, Flags: math.MaxInt32},
			rest: "namehello", nameLen: 4, wantName: "name", wantPayload: "hello"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := received(tt.out, tt.rest)
			name, control, payload, flags, err := ParseRecvmsg(b, tt.nameLen, tt.controlLen)
			if err != nil {
				t.Fatal(err)
			}
			if string(name) != tt.wantName || string(control) != tt.wantControl || string(payload) != tt.wantPayload || uint32(flags) != tt.out.Flags {
				t.Errorf("%q, %q, %q, %#x; want %q, %q, %q, %#x", name, control, payload, flags, tt.wantName, tt.wantControl, tt.wantPayload, tt.out.Flags)
			}
		})
	}
}

func TestParseRecvmsgRefusesWhatIsNone(t *testing.T) {
	whole := received(RecvmsgOut{NameLen: 4, ControlLen: 4, PayloadLen: 1}, "nameCTRLx")
	tests := []struct {
		name                string
		b                   []byte
		nameLen, controlLen int
		says                string
	}{
		{name: "nothing", says: "too short"},
		{name: "half a header", b: whole[:RecvmsgOutBytes-1], says: "too short"},
		{name: "no room for the name", b: whole[:RecvmsgOutBytes+3], nameLen: 4, says: "too short"},
		{name: "no room for the control data", b: whole[:RecvmsgOutBytes+7], nameLen: 4, controlLen: 4, says: "too short"},
		{name: "a negative name", b: whole, nameLen: -1, says: "-1"},
		{name: "negative control data", b: whole, controlLen: -1, says: "-1"},
		{name: "areas whose sum overflows", b: whole, nameLen: math.MaxInt, controlLen: math.MaxInt, says: "too short"},
		{name: "one area that would overflow", b: whole, nameLen: 4, controlLen: math.MaxInt, says: "too short"},
		{name: "more control data than its area", b: whole, nameLen: 4, controlLen: 3, says: "control data"},
	}
	for _, tt := range tests {
		if name, control, payload, _, err := ParseRecvmsg(tt.b, tt.nameLen, tt.controlLen); err == nil {
			t.Errorf("%s was taken for %q, %q, %q", tt.name, name, control, payload)
		} else if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: the error does not say %q: %v", tt.name, tt.says, err)
		}
	}
}

// What a program appends to one part must not overwrite the next.
func TestPartsOfARecvmsgDoNotGrowIntoEachOther(t *testing.T) {
	b := received(RecvmsgOut{NameLen: 2, ControlLen: 2, PayloadLen: 2}, "na..co..pa..")
	before := bytes.Clone(b)
	name, control, payload, _, err := ParseRecvmsg(b, 4, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{name, control, payload} {
		if len(part) != 2 || cap(part) != 2 {
			t.Errorf("%q has room for %d bytes", part, cap(part))
		}
		_ = append(part, "XXXX"...)
	}
	if !bytes.Equal(b, before) {
		t.Errorf("the buffer became %q", b)
	}
}

func FuzzParseRecvmsg(f *testing.F) {
	f.Add([]byte(nil), 0, 0)
	f.Add(received(RecvmsgOut{NameLen: 4, ControlLen: 4, PayloadLen: 5}, "nameCTRLhello"), 4, 4)
	f.Add(received(RecvmsgOut{NameLen: 4, ControlLen: 4, PayloadLen: 5}, "nameCTRLhello"), 4, 3)
	f.Add(received(RecvmsgOut{NameLen: math.MaxUint32, PayloadLen: math.MaxUint32}, "name"), 4, 0)
	f.Add(received(RecvmsgOut{ControlLen: math.MaxUint32}, "name"), math.MaxInt, math.MaxInt)
	f.Add(received(RecvmsgOut{}, ""), -1, math.MinInt)
	f.Fuzz(func(t *testing.T, b []byte, nameLen, controlLen int) {
		before := bytes.Clone(b)
		name, control, payload, flags, err := ParseRecvmsg(b, nameLen, controlLen)
		if !bytes.Equal(b, before) {
			t.Fatal("the buffer was changed")
		}
		if err != nil {
			if name != nil || control != nil || payload != nil || flags != 0 {
				t.Fatalf("with the error %v come %q, %q, %q, %#x", err, name, control, payload, flags)
			}
			return
		}
		if nameLen < 0 || controlLen < 0 {
			t.Fatalf("areas of %d and %d bytes were taken", nameLen, controlLen)
		}
		// Each part is the beginning of its area, as long as the header says or as
		// the area is.
		at := RecvmsgOutBytes
		for i, p := range []struct {
			got  []byte
			area int
		}{{name, nameLen}, {control, controlLen}, {payload, len(b) - RecvmsgOutBytes - nameLen - controlLen}} {
			said := uint64(binary.NativeEndian.Uint32(b[4*i:]))
			if want := int(min(said, uint64(p.area))); len(p.got) != want || cap(p.got) != want {
				t.Fatalf("part %d has %d bytes with room for %d, want %d (the header says %d, its area has %d)", i, len(p.got), cap(p.got), want, said, p.area)
			}
			if !bytes.Equal(p.got, b[at:at+len(p.got)]) {
				t.Fatalf("part %d is %q, want %q", i, p.got, b[at:at+len(p.got)])
			}
			at += p.area
		}
		if at != len(b) {
			t.Fatalf("the areas end at %d of %d", at, len(b))
		}
		if said := binary.NativeEndian.Uint32(b[12:]); uint32(flags) != said {
			t.Fatalf("flags %#x, the header says %#x", flags, said)
		}
	})
}
