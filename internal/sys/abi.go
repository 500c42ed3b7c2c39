//go:build linux && (amd64 || arm64)

package sys

import "structs"

// Operations, enum io_uring_op.
const (
	IORING_OP_NOP              = 0
	IORING_OP_READ_FIXED       = 4
	IORING_OP_WRITE_FIXED      = 5
	IORING_OP_POLL_ADD         = 6
	IORING_OP_POLL_REMOVE      = 7
	IORING_OP_SENDMSG          = 9
	IORING_OP_RECVMSG          = 10
	IORING_OP_TIMEOUT          = 11
	IORING_OP_TIMEOUT_REMOVE   = 12
	IORING_OP_ACCEPT           = 13
	IORING_OP_ASYNC_CANCEL     = 14
	IORING_OP_LINK_TIMEOUT     = 15
	IORING_OP_CONNECT          = 16
	IORING_OP_CLOSE            = 19
	IORING_OP_FILES_UPDATE     = 20
	IORING_OP_READ             = 22
	IORING_OP_WRITE            = 23
	IORING_OP_SEND             = 26
	IORING_OP_RECV             = 27
	IORING_OP_SPLICE           = 30
	IORING_OP_SHUTDOWN         = 34
	IORING_OP_MSG_RING         = 40
	IORING_OP_SEND_ZC          = 47
	IORING_OP_SENDMSG_ZC       = 48
	IORING_OP_FIXED_FD_INSTALL = 54
)

// Entry flags, sqe->flags.
const (
	IOSQE_FIXED_FILE       = 1 << 0
	IOSQE_IO_DRAIN         = 1 << 1
	IOSQE_IO_LINK          = 1 << 2
	IOSQE_IO_HARDLINK      = 1 << 3
	IOSQE_ASYNC            = 1 << 4
	IOSQE_BUFFER_SELECT    = 1 << 5
	IOSQE_CQE_SKIP_SUCCESS = 1 << 6
)

// Set-up flags, io_uring_params.flags.
const (
	IORING_SETUP_SQPOLL        = 1 << 1
	IORING_SETUP_SQ_AFF        = 1 << 2
	IORING_SETUP_CQSIZE        = 1 << 3
	IORING_SETUP_CLAMP         = 1 << 4
	IORING_SETUP_R_DISABLED    = 1 << 6
	IORING_SETUP_SUBMIT_ALL    = 1 << 7
	IORING_SETUP_COOP_TASKRUN  = 1 << 8
	IORING_SETUP_TASKRUN_FLAG  = 1 << 9
	IORING_SETUP_SINGLE_ISSUER = 1 << 12
	IORING_SETUP_DEFER_TASKRUN = 1 << 13
	IORING_SETUP_NO_SQARRAY    = 1 << 16
)

// Features the kernel reports at set-up, io_uring_params.features.
const (
	IORING_FEAT_SINGLE_MMAP     = 1 << 0
	IORING_FEAT_NODROP          = 1 << 1
	IORING_FEAT_SUBMIT_STABLE   = 1 << 2
	IORING_FEAT_EXT_ARG         = 1 << 8
	IORING_FEAT_REG_REG_RING    = 1 << 13
	IORING_FEAT_RECVSEND_BUNDLE = 1 << 14
)

// Flags of io_uring_enter(2).
const (
	IORING_ENTER_GETEVENTS       = 1 << 0
	IORING_ENTER_SQ_WAKEUP       = 1 << 1
	IORING_ENTER_SQ_WAIT         = 1 << 2
	IORING_ENTER_EXT_ARG         = 1 << 3
	IORING_ENTER_REGISTERED_RING = 1 << 4
)

// Flags the kernel keeps in the submission queue, sq_ring->flags.
const (
	IORING_SQ_NEED_WAKEUP = 1 << 0
	IORING_SQ_CQ_OVERFLOW = 1 << 1
	IORING_SQ_TASKRUN     = 1 << 2
)

// Completion flags, cqe->flags.
const (
	IORING_CQE_F_BUFFER        = 1 << 0
	IORING_CQE_F_MORE          = 1 << 1
	IORING_CQE_F_SOCK_NONEMPTY = 1 << 2
	IORING_CQE_F_NOTIF         = 1 << 3
	IORING_CQE_F_BUF_MORE      = 1 << 4
	IORING_CQE_BUFFER_SHIFT    = 16
)

// Offsets for mmap(2) of a ring's memory.
const (
	IORING_OFF_SQ_RING = 0
	IORING_OFF_CQ_RING = 0x8000000
	IORING_OFF_SQES    = 0x10000000
)

// Flags of single operations.
const (
	IORING_TIMEOUT_ABS           = 1 << 0
	IORING_TIMEOUT_UPDATE        = 1 << 1
	IORING_TIMEOUT_ETIME_SUCCESS = 1 << 5
	IORING_TIMEOUT_MULTISHOT     = 1 << 6

	IORING_POLL_ADD_MULTI = 1 << 0
	IORING_POLL_ADD_LEVEL = 1 << 3

	IORING_ASYNC_CANCEL_ALL      = 1 << 0
	IORING_ASYNC_CANCEL_FD       = 1 << 1
	IORING_ASYNC_CANCEL_ANY      = 1 << 2
	IORING_ASYNC_CANCEL_FD_FIXED = 1 << 3

	IORING_RECVSEND_POLL_FIRST  = 1 << 0
	IORING_RECV_MULTISHOT       = 1 << 1
	IORING_RECVSEND_FIXED_BUF   = 1 << 2
	IORING_SEND_ZC_REPORT_USAGE = 1 << 3
	IORING_RECVSEND_BUNDLE      = 1 << 4

	IORING_NOTIF_USAGE_ZC_COPIED = 1 << 31

	IORING_ACCEPT_MULTISHOT  = 1 << 0
	IORING_ACCEPT_DONTWAIT   = 1 << 1
	IORING_ACCEPT_POLL_FIRST = 1 << 2

	IORING_MSG_DATA    = 0
	IORING_MSG_SEND_FD = 1

	IORING_FILE_INDEX_ALLOC = 1<<32 - 1
)

// Operations of io_uring_register(2).
const (
	IORING_REGISTER_BUFFERS          = 0
	IORING_UNREGISTER_BUFFERS        = 1
	IORING_UNREGISTER_FILES          = 3
	IORING_REGISTER_FILES_UPDATE     = 6
	IORING_REGISTER_PROBE            = 8
	IORING_REGISTER_ENABLE_RINGS     = 12
	IORING_REGISTER_FILES2           = 13
	IORING_REGISTER_BUFFERS2         = 15
	IORING_REGISTER_BUFFERS_UPDATE   = 16
	IORING_REGISTER_IOWQ_MAX_WORKERS = 19
	IORING_REGISTER_RING_FDS         = 20
	IORING_UNREGISTER_RING_FDS       = 21
	IORING_REGISTER_PBUF_RING        = 22
	IORING_UNREGISTER_PBUF_RING      = 23
	IORING_REGISTER_SYNC_CANCEL      = 24
	IORING_REGISTER_PBUF_STATUS      = 26
	IORING_REGISTER_NAPI             = 27
	IORING_REGISTER_SEND_MSG_RING    = 31

	IORING_RSRC_REGISTER_SPARSE = 1 << 0
)

// Entry is one submission queue entry, struct io_uring_sqe. Fields that the
// kernel keeps in unions carry the name of the member that networking uses most;
// the methods of ring.Entry fill them.
type Entry struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8  // IOSQE_*
	Ioprio      uint16 // flags of accept, receive and send live here
	Fd          int32
	Off         uint64 // off, addr2
	Addr        uint64 // addr, splice_off_in
	Len         uint32
	OpFlags     uint32 // rw_flags, msg_flags, poll32_events, accept_flags, …
	UserData    uint64
	BufIndex    uint16 // buf_index, buf_group
	Personality uint16
	FileIndex   uint32 // splice_fd_in, file_index, addr_len
	Addr3       uint64
	_           uint64
}

// Completion is one completion queue entry, struct io_uring_cqe.
type Completion struct {
	_        structs.HostLayout
	UserData uint64
	Res      int32 // result; negative: an errno
	Flags    uint32
}

// sqringOffsets is struct io_sqring_offsets.
type sqringOffsets struct {
	_           structs.HostLayout
	Head        uint32
	Tail        uint32
	RingMask    uint32
	RingEntries uint32
	Flags       uint32
	Dropped     uint32
	Array       uint32
	_           uint32
	UserAddr    uint64
}

// cqringOffsets is struct io_cqring_offsets.
type cqringOffsets struct {
	_           structs.HostLayout
	Head        uint32
	Tail        uint32
	RingMask    uint32
	RingEntries uint32
	Overflow    uint32
	Cqes        uint32
	Flags       uint32
	_           uint32
	UserAddr    uint64
}

// Params is struct io_uring_params.
type Params struct {
	_            structs.HostLayout
	SQEntries    uint32
	CQEntries    uint32
	Flags        uint32
	SQThreadCPU  uint32
	SQThreadIdle uint32 // milliseconds
	Features     uint32
	WQFd         uint32
	_            [3]uint32
	sqOff        sqringOffsets
	cqOff        cqringOffsets
}

// timespec is struct __kernel_timespec.
type timespec struct {
	_    structs.HostLayout
	Sec  int64
	Nsec int64
}

// geteventsArg is struct io_uring_getevents_arg.
type geteventsArg struct {
	_           structs.HostLayout
	Sigmask     uint64
	SigmaskSize uint32
	MinWaitUsec uint32
	Ts          uint64
}

// bufReg is struct io_uring_buf_reg.
type bufReg struct {
	_           structs.HostLayout
	RingAddr    uint64
	RingEntries uint32
	Bgid        uint16
	Flags       uint16
	_           [3]uint64
}

// bufStatus is struct io_uring_buf_status.
type bufStatus struct {
	_        structs.HostLayout
	BufGroup uint32
	Head     uint32
	_        [8]uint32
}

// bufEntry is struct io_uring_buf. In entry 0 of a ring, Resv is the ring's tail.
type bufEntry struct {
	_    structs.HostLayout
	Addr uint64
	Len  uint32
	Bid  uint16
	Resv uint16
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	_     structs.HostLayout
	Nr    uint32
	Flags uint32
	_     uint64
	Data  uint64
	Tags  uint64
}

// rsrcUpdate2 is struct io_uring_rsrc_update2.
type rsrcUpdate2 struct {
	_      structs.HostLayout
	Offset uint32
	_      uint32
	Data   uint64
	Tags   uint64
	Nr     uint32
	_      uint32
}

// rsrcUpdate is struct io_uring_rsrc_update; REGISTER_RING_FDS and
// REGISTER_FILES_UPDATE share it.
type rsrcUpdate struct {
	_      structs.HostLayout
	Offset uint32
	_      uint32
	Data   uint64
}

// probeOp is struct io_uring_probe_op.
type probeOp struct {
	_     structs.HostLayout
	Op    uint8
	_     uint8
	Flags uint16
	_     uint32
}

// probe is struct io_uring_probe with room for every operation number.
type probe struct {
	_      structs.HostLayout
	LastOp uint8
	OpsLen uint8
	_      uint16
	_      [3]uint32
	Ops    [256]probeOp
}

// syncCancelReg is struct io_uring_sync_cancel_reg.
type syncCancelReg struct {
	_       structs.HostLayout
	Addr    uint64
	Fd      int32
	Flags   uint32
	Timeout timespec
	Opcode  uint8
	_       [7]uint8
	_       [3]uint64
}

// napiReg is struct io_uring_napi.
type napiReg struct {
	_              structs.HostLayout
	BusyPollTo     uint32 // microseconds
	PreferBusyPoll uint8
	_              [3]uint8
	_              uint64
}

// iovec is struct iovec.
type iovec struct {
	_    structs.HostLayout
	Base uint64
	Len  uint64
}

// msghdr is struct msghdr (user_msghdr in the kernel).
type msghdr struct {
	_          structs.HostLayout
	Name       uint64
	Namelen    uint32
	_          uint32
	Iov        uint64
	Iovlen     uint64
	Control    uint64
	Controllen uint64
	Flags      int32
	_          uint32
}

// RecvmsgOut is struct io_uring_recvmsg_out, which stands in front of the name,
// the control data and the payload in a buffer that multishot recvmsg filled.
type RecvmsgOut struct {
	_          structs.HostLayout
	NameLen    uint32
	ControlLen uint32
	PayloadLen uint32
	Flags      uint32
}
