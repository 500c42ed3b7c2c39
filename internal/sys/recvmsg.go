//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"fmt"
)

// RecvmsgOutBytes is the size of struct io_uring_recvmsg_out.
const RecvmsgOutBytes = 16

// ParseRecvmsg takes a buffer apart that a multishot recvmsg filled: the first Res
// bytes of it, for a message whose name and control areas have the given lengths.
//
//	┌────────────┬───────────────┬──────────────────┬───────────────┐
//	│ RecvmsgOut │ name          │ control          │ payload       │
//	└────────────┴───────────────┴──────────────────┴───────────────┘
//	  16 bytes     nameLen         controlLen         what is left
//
// The areas keep their lengths whatever is in them. The header says how much that
// is: of the name and the payload how long they were before they were cut to fit
// (io_recvmsg_multishot in io_uring/net.c), so these two may exceed their areas; of
// the control data what is there. flags are those of recvmsg(2): MSG_TRUNC for a
// payload that was cut, MSG_CTRUNC for control data.
//
// The parts lie in buf, and none has room to grow into the next. An error means
// that buf is no such buffer, or that the lengths are not those of its message.
func ParseRecvmsg(buf []byte, nameLen, controlLen int) (name, control, payload []byte, flags int, err error) {
	if nameLen < 0 || controlLen < 0 {
		return nil, nil, nil, 0, fmt.Errorf("received message: areas of %d and %d bytes", nameLen, controlLen)
	}
	// One after the other, since a sum of both could overflow.
	room := len(buf) - RecvmsgOutBytes
	if room < 0 || nameLen > room || controlLen > room-nameLen {
		return nil, nil, nil, 0, fmt.Errorf("received message of %d bytes: too short for a header of %d and areas of %d and %d", len(buf), RecvmsgOutBytes, nameLen, controlLen)
	}
	// Field by field: a buffer need not be aligned for RecvmsgOut.
	out := RecvmsgOut{
		NameLen:    binary.NativeEndian.Uint32(buf),
		ControlLen: binary.NativeEndian.Uint32(buf[4:]),
		PayloadLen: binary.NativeEndian.Uint32(buf[8:]),
		Flags:      binary.NativeEndian.Uint32(buf[12:]),
	}
	if uint64(out.ControlLen) > uint64(controlLen) {
		return nil, nil, nil, 0, fmt.Errorf("received message: %d bytes of control data in an area of %d", out.ControlLen, controlLen)
	}
	part := func(at, area int, used uint32) []byte {
		end := at + int(min(uint64(area), uint64(used)))
		return buf[at:end:end]
	}
	name = part(RecvmsgOutBytes, nameLen, out.NameLen)
	control = part(RecvmsgOutBytes+nameLen, controlLen, out.ControlLen)
	payload = part(RecvmsgOutBytes+nameLen+controlLen, room-nameLen-controlLen, out.PayloadLen)
	return name, control, payload, int(out.Flags), nil
}
