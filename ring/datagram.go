//go:build linux

package ring

import "example.com/ringnet/internal/sys"

// RecvmsgHeaderBytes is what stands in front of the sender's address in a buffer
// that [Entry.PrepareRecvmsgMultishot] filled. So a buffer of the group must have
// room for it, for the name and control lengths of the Message, and for the
// payload.
const RecvmsgHeaderBytes = sys.RecvmsgOutBytes

// ParseRecvmsg takes a buffer apart that [Entry.PrepareRecvmsgMultishot] filled:
// the sender's address, for [ParseSockaddr], control data and payload. b is the
// buffer up to the completion's Res; nameLen and controlLen are the lengths that
// the Message was set with.
//
// A payload that did not fit is cut, with unix.MSG_TRUNC in flags, and so is
// control data, with unix.MSG_CTRUNC. An address that did not fit is cut without a
// flag, and ParseSockaddr refuses it. The parts lie in b, and are valid as long.
//
// An error means that b is no such buffer, or that the lengths are not those of
// its Message. Nothing that a peer sends brings it about. Safe for concurrent use.
func ParseRecvmsg(b []byte, nameLen, controlLen int) (name, control, payload []byte, flags int, err error) {
	return sys.ParseRecvmsg(b, nameLen, controlLen)
}
