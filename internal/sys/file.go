//go:build linux && (amd64 || arm64)

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MapFile maps the first n bytes of a regular file, for the kernel to read in
// sends: our own code must not touch them, since a read of what the file no longer
// has is SIGBUS, where the kernel only answers EFAULT. The file need not stay open.
func MapFile(fd int, n int) ([]byte, error) {
	return unix.Mmap(fd, 0, n, unix.PROT_READ, unix.MAP_SHARED)
}

// Resident reports that all of mem, which is part of a mapped file, is in the page
// cache: mincore(2), of up to 4 MiB with pages of 4 KiB.
// It tells nothing to a process that could not write the file; see [MayAskResident].
func Resident(mem []byte) bool {
	if len(mem) == 0 {
		return true
	}
	var pages [1025]byte
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	from := at &^ uintptr(PageBytes-1)
	n := (at - from + uintptr(len(mem)) + uintptr(PageBytes) - 1) / uintptr(PageBytes)
	if n > uintptr(len(pages)) {
		return false
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_MINCORE, from, n*uintptr(PageBytes), uintptr(unsafe.Pointer(&pages)))
	if errno != 0 {
		return false
	}
	for _, p := range pages[:n] {
		if p&1 == 0 {
			return false
		}
	}
	return true
}

// MayAskResident reports that mincore(2) tells this process the truth about the
// file: it owns it or may write it (can_do_mincore in mm/mincore.c). Others are told
// that everything is resident.
func MayAskResident(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	if euid := unix.Geteuid(); euid == 0 || uint32(euid) == st.Uid {
		return true
	}
	return unix.Faccessat(fd, "", unix.W_OK, unix.AT_EMPTY_PATH|unix.AT_EACCESS) == nil
}

// SendFile sends n bytes of file from offset on (sendfile(2)). The socket must not
// block. The scheduler is not told.
func SendFile(fd, file int, offset int64, n int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(unsafe.Pointer(&offset)), uintptr(n), 0, 0)
	return int(r), errno
}

// FileBytes is the size of a file.
func FileBytes(fd int) (int64, syscall.Errno) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, errnoOf(err)
	}
	return st.Size, 0
}
