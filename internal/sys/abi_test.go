package sys

import (
	"testing"
	"unsafe"
)

// The numbers are those of linux/io_uring.h on a 64-bit kernel, written out so
// that a changed field shows here and not as a corrupted ring.
func TestKernelStructuresHaveTheKernelsSizes(t *testing.T) {
	sizes := []struct {
		name      string
		got, want uintptr
	}{
		{"io_uring_sqe", unsafe.Sizeof(Entry{}), 64},
		{"io_uring_cqe", unsafe.Sizeof(Completion{}), 16},
		{"io_sqring_offsets", unsafe.Sizeof(sqringOffsets{}), 40},
		{"io_cqring_offsets", unsafe.Sizeof(cqringOffsets{}), 40},
		{"io_uring_params", unsafe.Sizeof(Params{}), 120},
		{"__kernel_timespec", unsafe.Sizeof(timespec{}), 16},
		{"io_uring_getevents_arg", unsafe.Sizeof(geteventsArg{}), 24},
		{"io_uring_buf_reg", unsafe.Sizeof(bufReg{}), 40},
		{"io_uring_buf_status", unsafe.Sizeof(bufStatus{}), 40},
		{"io_uring_buf", unsafe.Sizeof(bufEntry{}), 16},
		{"io_uring_rsrc_register", unsafe.Sizeof(rsrcRegister{}), 32},
		{"io_uring_rsrc_update", unsafe.Sizeof(rsrcUpdate{}), 16},
		{"io_uring_probe_op", unsafe.Sizeof(probeOp{}), 8},
		{"io_uring_probe", unsafe.Sizeof(probe{}), 16 + 256*8},
		{"io_uring_sync_cancel_reg", unsafe.Sizeof(syncCancelReg{}), 64},
		{"io_uring_napi", unsafe.Sizeof(napiReg{}), 16},
		{"iovec", unsafe.Sizeof(iovec{}), 16},
		{"msghdr", unsafe.Sizeof(msghdr{}), 56},
		{"io_uring_recvmsg_out", unsafe.Sizeof(RecvmsgOut{}), 16},
	}
	for _, s := range sizes {
		if s.got != s.want {
			t.Errorf("struct %s is %d bytes here, %d in the kernel", s.name, s.got, s.want)
		}
	}
}

func TestKernelStructuresHaveTheKernelsOffsets(t *testing.T) {
	offsets := []struct {
		name      string
		got, want uintptr
	}{
		{"sqe.ioprio", unsafe.Offsetof(Entry{}.Ioprio), 2},
		{"sqe.fd", unsafe.Offsetof(Entry{}.Fd), 4},
		{"sqe.off", unsafe.Offsetof(Entry{}.Off), 8},
		{"sqe.addr", unsafe.Offsetof(Entry{}.Addr), 16},
		{"sqe.len", unsafe.Offsetof(Entry{}.Len), 24},
		{"sqe.rw_flags", unsafe.Offsetof(Entry{}.OpFlags), 28},
		{"sqe.user_data", unsafe.Offsetof(Entry{}.UserData), 32},
		{"sqe.buf_index", unsafe.Offsetof(Entry{}.BufIndex), 40},
		{"sqe.file_index", unsafe.Offsetof(Entry{}.FileIndex), 44},
		{"sqe.addr3", unsafe.Offsetof(Entry{}.Addr3), 48},
		{"cqe.res", unsafe.Offsetof(Completion{}.Res), 8},
		{"cqe.flags", unsafe.Offsetof(Completion{}.Flags), 12},
		{"params.features", unsafe.Offsetof(Params{}.Features), 20},
		{"params.sq_off", unsafe.Offsetof(Params{}.sqOff), 40},
		{"params.cq_off", unsafe.Offsetof(Params{}.cqOff), 80},
		{"buf.bid", unsafe.Offsetof(bufEntry{}.Bid), 12},
		{"buf.resv (the tail)", unsafe.Offsetof(bufEntry{}.Resv), 14},
		{"buf_reg.bgid", unsafe.Offsetof(bufReg{}.Bgid), 12},
		{"msghdr.msg_iov", unsafe.Offsetof(msghdr{}.Iov), 16},
		{"msghdr.msg_control", unsafe.Offsetof(msghdr{}.Control), 32},
		{"msghdr.msg_flags", unsafe.Offsetof(msghdr{}.Flags), 48},
		{"sync_cancel.timeout", unsafe.Offsetof(syncCancelReg{}.Timeout), 16},
	}
	for _, o := range offsets {
		if o.got != o.want {
			t.Errorf("%s is at offset %d here, %d in the kernel", o.name, o.got, o.want)
		}
	}
}
