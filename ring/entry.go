//go:build linux

package ring

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// Entry is one place of the submission queue. Prepare it with one Prepare method,
// then set its user data and flags. It is zero when [Ring.Entry] returns it, and
// belongs to the caller until the next submit, poll or wait.
//
// Slices named in Prepare methods are read or written until the operation's last
// completion; see the package comment for what memory may be used.
type Entry sys.Entry

func (e *Entry) prepare(op uint8, fd int) {
	e.Opcode, e.Fd = op, int32(fd)
}

func (e *Entry) memory(b []byte) {
	e.Addr, e.Len = sys.Address(b), uint32(len(b))
}

// SetUserData sets the value that every completion of this entry carries.
func (e *Entry) SetUserData(u uint64) { e.UserData = u }

// UseDirect makes the descriptor an index into the ring's table of direct
// descriptors. Since Linux 5.1.
func (e *Entry) UseDirect() { e.Flags |= sys.IOSQE_FIXED_FILE }

// Link makes the next entry wait for this one, and fail with ECANCELED if this
// one fails or falls short. Both must be part of one submit. Since Linux 5.3.
func (e *Entry) Link() { e.Flags |= sys.IOSQE_IO_LINK }

// SkipSuccess makes the entry complete without a word if it succeeds; only a
// failure posts a completion. Not together with multishot. Since Linux 5.17.
func (e *Entry) SkipSuccess() { e.Flags |= sys.IOSQE_CQE_SKIP_SUCCESS }

// PollFirst makes a receive, send or accept wait for readiness before its first
// attempt, which pays when that attempt would fail. Receive and send since Linux
// 5.19, accept since 6.10.
func (e *Entry) PollFirst() {
	if e.Opcode == sys.IORING_OP_ACCEPT {
		e.Ioprio |= sys.IORING_ACCEPT_POLL_FIRST
		return
	}
	e.Ioprio |= sys.IORING_RECVSEND_POLL_FIRST
}

// ReportUsage makes the notification of a zero-copy send say whether the kernel
// copied after all ([Completion.Copied]). Since Linux 6.2.
func (e *Entry) ReportUsage() { e.Ioprio |= sys.IORING_SEND_ZC_REPORT_USAGE }

// PrepareNop completes at once with 0.
func (e *Entry) PrepareNop() { e.prepare(sys.IORING_OP_NOP, -1) }

// PrepareAccept accepts one connection; the result is its descriptor, made with
// SOCK_NONBLOCK and SOCK_CLOEXEC.
func (e *Entry) PrepareAccept(fd int) {
	e.prepare(sys.IORING_OP_ACCEPT, fd)
	e.OpFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
}

// PrepareAcceptMultishot accepts connections until an error, a full completion
// queue or a cancel ends it. The last completion may still carry a descriptor.
// Since Linux 5.19 (AcceptMultishot).
func (e *Entry) PrepareAcceptMultishot(fd int) {
	e.PrepareAccept(fd)
	e.Ioprio = sys.IORING_ACCEPT_MULTISHOT
}

// PrepareAcceptDirect accepts one connection into a free place of the table of
// direct descriptors; the result is the index. A full table loses the connection
// with ENFILE, so it must be larger than the connection limit. Since Linux 5.19
// (DirectDescriptors).
func (e *Entry) PrepareAcceptDirect(fd int) {
	e.prepare(sys.IORING_OP_ACCEPT, fd)
	e.OpFlags = unix.SOCK_NONBLOCK // CLOEXEC is refused: there is nothing to inherit
	e.FileIndex = sys.IORING_FILE_INDEX_ALLOC
}

// PrepareAcceptMultishotDirect is PrepareAcceptDirect, many times.
// Since Linux 5.19 (AcceptMultishot, DirectDescriptors).
func (e *Entry) PrepareAcceptMultishotDirect(fd int) {
	e.PrepareAcceptDirect(fd)
	e.Ioprio = sys.IORING_ACCEPT_MULTISHOT
}

// PrepareRecv receives into b, with flags of recv(2).
func (e *Entry) PrepareRecv(fd int, b []byte, flags int) {
	e.prepare(sys.IORING_OP_RECV, fd)
	e.memory(b)
	e.OpFlags = uint32(flags)
}

// PrepareRecvSelect receives once, into a buffer that the kernel takes from a
// registered group when data is there ([Completion.Buffer]); -ENOBUFS when the
// group is empty. Since Linux 5.19 (BufferRings).
func (e *Entry) PrepareRecvSelect(fd int, group uint16) {
	e.prepare(sys.IORING_OP_RECV, fd)
	e.Flags |= sys.IOSQE_BUFFER_SELECT
	e.BufIndex = group
}

// PrepareRecvMultishot is PrepareRecvSelect, many times: it ends on end of
// stream, error, an empty group, a full completion queue or a cancel. On Unix
// stream sockets some kernels miss an end of stream that comes together with the
// last bytes (UnixRecvMultishot), and on others some forget a reset there
// (RecvMultishotReset, RecvMultishotLate). Since Linux 6.0 (RecvMultishot).
func (e *Entry) PrepareRecvMultishot(fd int, group uint16) {
	e.PrepareRecvSelect(fd, group)
	e.Ioprio |= sys.IORING_RECV_MULTISHOT
}

// PrepareRecvmsg receives into m's vector, with flags of recvmsg(2).
func (e *Entry) PrepareRecvmsg(fd int, m Message, flags int) {
	e.prepare(sys.IORING_OP_RECVMSG, fd)
	e.Addr, e.Len, e.OpFlags = m.m.Address(), 1, uint32(flags)
}

// PrepareRecvmsgSelect receives one datagram: its payload into a buffer that the
// kernel takes from a group ([Completion.Buffer]), address and control data to where
// m has them; m's vector must be empty. An empty datagram completes with 0 and takes
// no buffer. Since Linux 5.19 (BufferRings).
func (e *Entry) PrepareRecvmsgSelect(fd int, m Message, group uint16) {
	e.PrepareRecvmsg(fd, m, 0)
	e.Flags |= sys.IOSQE_BUFFER_SELECT
	e.BufIndex = group
}

// PrepareRecvmsgMultishot receives datagrams into buffers of a group, each with
// the sender's address and control data in front; m's vector must be empty and
// only its name and control lengths are used. An empty datagram is delivered and
// ends it. Since Linux 6.0 (RecvMultishot).
func (e *Entry) PrepareRecvmsgMultishot(fd int, m Message, group uint16) {
	e.PrepareRecvmsg(fd, m, 0)
	e.Flags |= sys.IOSQE_BUFFER_SELECT
	e.Ioprio |= sys.IORING_RECV_MULTISHOT
	e.BufIndex = group
}

// PrepareSend sends b, with flags of send(2). With unix.MSG_WAITALL the kernel
// goes on until all is sent; a cancel then answers with the number of bytes that
// went out. At most one send may be in flight on a stream: two can interleave.
func (e *Entry) PrepareSend(fd int, b []byte, flags int) {
	e.prepare(sys.IORING_OP_SEND, fd)
	e.memory(b)
	e.OpFlags = uint32(flags)
}

// PrepareSendmsg sends m's vector. See PrepareSend.
func (e *Entry) PrepareSendmsg(fd int, m Message, flags int) {
	e.prepare(sys.IORING_OP_SENDMSG, fd)
	e.Addr, e.Len, e.OpFlags = m.m.Address(), 1, uint32(flags)
}

// PrepareSendZC sends b without copying it where the route allows. If the first
// completion has More, a notification follows, on errors too, and b may not be
// touched before it. Since Linux 6.0 (SendZC).
func (e *Entry) PrepareSendZC(fd int, b []byte, flags int) {
	e.PrepareSend(fd, b, flags)
	e.Opcode = sys.IORING_OP_SEND_ZC
}

// PrepareSendZCFixed is PrepareSendZC from within registered buffer index, whose
// pages are pinned already. Since Linux 6.0 (SendZC).
func (e *Entry) PrepareSendZCFixed(fd int, b []byte, flags int, index uint16) {
	e.PrepareSendZC(fd, b, flags)
	e.Ioprio |= sys.IORING_RECVSEND_FIXED_BUF
	e.BufIndex = index
}

// PrepareSendmsgZC is PrepareSendZC for a vector. Since Linux 6.1 (SendmsgZC).
func (e *Entry) PrepareSendmsgZC(fd int, m Message, flags int) {
	e.PrepareSendmsg(fd, m, flags)
	e.Opcode = sys.IORING_OP_SENDMSG_ZC
}

// PrepareRead reads from a file at offset; -1 is the file's own position.
func (e *Entry) PrepareRead(fd int, b []byte, offset int64) {
	e.prepare(sys.IORING_OP_READ, fd)
	e.memory(b)
	e.Off = uint64(offset)
}

// PrepareReadFixed is PrepareRead into registered buffer index.
func (e *Entry) PrepareReadFixed(fd int, b []byte, offset int64, index uint16) {
	e.PrepareRead(fd, b, offset)
	e.Opcode, e.BufIndex = sys.IORING_OP_READ_FIXED, index
}

// PrepareWrite writes to a file at offset; -1 is the file's own position.
func (e *Entry) PrepareWrite(fd int, b []byte, offset int64) {
	e.PrepareRead(fd, b, offset)
	e.Opcode = sys.IORING_OP_WRITE
}

// PrepareWriteFixed is PrepareWrite from registered buffer index.
func (e *Entry) PrepareWriteFixed(fd int, b []byte, offset int64, index uint16) {
	e.PrepareRead(fd, b, offset)
	e.Opcode, e.BufIndex = sys.IORING_OP_WRITE_FIXED, index
}

// PrepareConnect connects to sockaddr, an address from [PutSockaddr].
func (e *Entry) PrepareConnect(fd int, sockaddr []byte) {
	e.prepare(sys.IORING_OP_CONNECT, fd)
	e.Addr, e.Off = sys.Address(sockaddr), uint64(len(sockaddr))
}

// PrepareClose closes a descriptor. It cancels nothing that is in flight on it.
func (e *Entry) PrepareClose(fd int) { e.prepare(sys.IORING_OP_CLOSE, fd) }

// PrepareCloseDirect empties a place of the table of direct descriptors.
// Since Linux 5.15 (DirectDescriptors).
func (e *Entry) PrepareCloseDirect(index uint32) {
	e.prepare(sys.IORING_OP_CLOSE, 0)
	e.FileIndex = index + 1
}

// PrepareShutdown is shutdown(2). The kernel always hands it to a worker thread;
// with a real descriptor, [Ring.Shutdown] is cheaper.
func (e *Entry) PrepareShutdown(fd, how int) {
	e.prepare(sys.IORING_OP_SHUTDOWN, fd)
	e.Len = uint32(how)
}

// PrepareCancel cancels the operation that carries userData. ENOENT (it is over)
// and EALREADY (it runs) are ordinary results; either way the operation's own
// last completion comes by itself.
func (e *Entry) PrepareCancel(userData uint64) {
	e.prepare(sys.IORING_OP_ASYNC_CANCEL, -1)
	e.Addr = userData
}

// PrepareCancelFd cancels every operation on a descriptor; the result is their
// number. Since Linux 5.19.
func (e *Entry) PrepareCancelFd(fd int) {
	e.prepare(sys.IORING_OP_ASYNC_CANCEL, fd)
	e.OpFlags = sys.IORING_ASYNC_CANCEL_FD | sys.IORING_ASYNC_CANCEL_ALL
}

// PrepareCancelAll cancels every operation of the ring; the result is their
// number. Since Linux 5.19.
func (e *Entry) PrepareCancelAll() {
	e.prepare(sys.IORING_OP_ASYNC_CANCEL, -1)
	e.OpFlags = sys.IORING_ASYNC_CANCEL_ANY | sys.IORING_ASYNC_CANCEL_ALL
}

// PreparePoll waits for events of poll(2) once; the result is those that came.
func (e *Entry) PreparePoll(fd int, events uint32) {
	e.prepare(sys.IORING_OP_POLL_ADD, fd)
	e.OpFlags = events
}

// PreparePollMultishot reports events each time they come, edge by edge, until
// cancelled, an error or a full completion queue. Since Linux 5.13 (PollMultishot).
func (e *Entry) PreparePollMultishot(fd int, events uint32) {
	e.PreparePoll(fd, events)
	e.Len = sys.IORING_POLL_ADD_MULTI
}

// PrepareTimeout completes with -ETIME after the time in ts ([PutTimespec]), or
// with 0 once count other completions have come (0: do not count).
func (e *Entry) PrepareTimeout(ts []byte, count uint32) {
	e.prepare(sys.IORING_OP_TIMEOUT, -1)
	e.Addr, e.Len, e.Off = sys.Address(ts[:TimespecBytes]), 1, uint64(count)
}

// PrepareTimeoutRemove ends the timeout that carries userData.
func (e *Entry) PrepareTimeoutRemove(userData uint64) {
	e.prepare(sys.IORING_OP_TIMEOUT_REMOVE, -1)
	e.Addr = userData
}

// PrepareLinkTimeout cancels the entry that it is linked behind after the time in
// ts. Since Linux 5.5.
func (e *Entry) PrepareLinkTimeout(ts []byte) {
	e.PrepareTimeout(ts, 0)
	e.Opcode = sys.IORING_OP_LINK_TIMEOUT
}

// PrepareMessage posts a completion with userData and res to the ring whose
// descriptor is target ([Ring.RingFd]). Success does not mean that somebody reaps it.
// Since Linux 5.18 (MessageRing).
func (e *Entry) PrepareMessage(target int, userData uint64, res int32) {
	e.prepare(sys.IORING_OP_MSG_RING, target)
	e.Off, e.Len, e.Addr = userData, uint32(res), sys.IORING_MSG_DATA
}

// PrepareInstall gives direct descriptor index an ordinary descriptor as well;
// the result is its number. Since Linux 6.8.
func (e *Entry) PrepareInstall(index uint32) {
	e.prepare(sys.IORING_OP_FIXED_FD_INSTALL, int(index))
	e.Flags |= sys.IOSQE_FIXED_FILE
}

// TimespecBytes is the size of a time in the kernel's form.
const TimespecBytes = 16

// PutTimespec writes d in the kernel's form into b, for PrepareTimeout.
func PutTimespec(b []byte, d time.Duration) {
	binary.NativeEndian.PutUint64(b, uint64(d/time.Second))
	binary.NativeEndian.PutUint64(b[8:], uint64(d%time.Second))
}

// SockaddrBytes is enough for any IPv4 or IPv6 address in the kernel's form.
const SockaddrBytes = sys.SockaddrBytes

// PutSockaddr writes addr in the kernel's form into b, which has at least
// SockaddrBytes, and returns the part used, for PrepareConnect.
func PutSockaddr(b []byte, addr netip.AddrPort) ([]byte, error) { return sys.PutSockaddr(b, addr) }

// ParseSockaddr reads an address in the kernel's form, as PutSockaddr writes it;
// ok is false when b is too short for its family, or the family is not an IP one.
// An IPv4 address in IPv6 form comes out as IPv4. Safe for concurrent use.
func ParseSockaddr(b []byte) (addr netip.AddrPort, ok bool) { return sys.ParseSockaddr(b) }
