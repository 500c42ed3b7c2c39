//go:build linux

package sim

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// file is a regular file. mem is its mapping as well: of that, the part behind the
// file's end is what a send answers EFAULT for.
type file struct {
	mem  []byte
	size int64
}

// firstFile is the descriptor of the first file.
const firstFile = 1 << 20

// AddFile makes a file that holds data, which is also its mapping.
func (e *Engine) AddFile(data []byte) int {
	e.files = append(e.files, &file{mem: data, size: int64(len(data))})
	return firstFile + len(e.files) - 1
}

// Truncate cuts a file to n bytes.
func (e *Engine) Truncate(fd int, n int64) {
	f := e.fileOf(fd)
	f.size = min(f.size, n)
	e.Note("file %d has %d bytes from now on", fd, f.size)
}

func (e *Engine) fileOf(fd int) *file {
	if fd < firstFile || fd-firstFile >= len(e.files) {
		return nil
	}
	return e.files[fd-firstFile]
}

// at is what of b's length the file has at offset.
func (f *file) at(offset int64, n int) []byte {
	if offset >= f.size {
		return nil
	}
	return f.mem[offset:min(f.size, offset+int64(n))]
}

// mapped cuts a piece that lies in the mapping of a file to what the file still has,
// in whole pages as the kernel does; false: nothing.
func (e *Engine) mapped(piece []byte) ([]byte, bool) {
	if len(piece) == 0 {
		return piece, true
	}
	at := sys.Address(piece)
	for _, f := range e.files {
		if len(f.mem) == 0 {
			continue
		}
		from := sys.Address(f.mem)
		if at < from || at >= from+uint64(len(f.mem)) {
			continue
		}
		end := (f.size + 4095) &^ 4095
		have := end - int64(at-from)
		if have <= 0 {
			return nil, false
		}
		return piece[:min(int64(len(piece)), have)], true
	}
	return piece, true
}

// readFile is an asynchronous read: it waits for the disk.
func (e *Engine) readFile(o *op) {
	f := e.fileOf(int(o.entry.Fd))
	if f == nil {
		e.Violate("%s: descriptor %d is no file", o, o.entry.Fd)
		e.refuse(o, unix.EBADF)
		return
	}
	o.armed = true
	e.armed = append(e.armed, o)
	e.counts.ColdReads++
	e.After(e.upTo(2*time.Millisecond), func() {
		if e.chance(e.faults.DiskErrors) {
			e.counts.DiskErrors++
			e.finish(o, -int32(unix.EIO), 0)
			return
		}
		b := sys.Bytes(o.entry.Addr, int(o.entry.Len))
		n := copy(b, f.at(int64(o.entry.Off), len(b)))
		if n > 1 && e.chance(e.faults.ShortRead) {
			n = 1 + e.rng.IntN(n-1)
		}
		e.finish(o, int32(n), 0)
	})
}

// ReadFile implements engine.Files.
func (e *Engine) ReadFile(fd int, b []byte, offset int64) (int, syscall.Errno) {
	f := e.fileOf(fd)
	if f == nil {
		e.Violate("preadv2(2) of descriptor %d, which is no file", fd)
		return -1, unix.EBADF
	}
	if e.chance(e.faults.Cold) {
		return -1, unix.EAGAIN
	}
	n := copy(b, f.at(offset, len(b)))
	if n > 1 && e.chance(e.faults.ShortRead) {
		n = 1 + e.rng.IntN(n-1)
	}
	return n, 0
}

// SendFile implements engine.Files.
func (e *Engine) SendFile(fd, file int, offset int64, n int) (int, syscall.Errno) {
	f := e.fileOf(file)
	if f == nil {
		e.Violate("sendfile(2) of descriptor %d, which is no file", file)
		return -1, unix.EBADF
	}
	b := f.at(offset, n)
	if len(b) == 0 {
		return 0, 0
	}
	if len(b) > 1 && e.chance(e.faults.ShortSend) {
		// A signal, which leaves no trace in the socket.
		e.counts.ShortResults++
		b = b[:1+e.rng.IntN(len(b)-1)]
	}
	return e.sendNow(fd, [][]byte{b}, "sendfile(2)")
}

// FileBytes implements engine.Files.
func (e *Engine) FileBytes(fd int) (int64, syscall.Errno) {
	f := e.fileOf(fd)
	if f == nil {
		return 0, unix.EBADF
	}
	return f.size, 0
}

// Resident implements engine.Files.
func (e *Engine) Resident([]byte) bool { return !e.chance(e.faults.Cold) }

// Disconnect implements engine.Sockets.
func (e *Engine) Disconnect(fd int) syscall.Errno {
	s := e.called(fd, "connect(2) to nowhere", func(*op) bool { return false })
	if s == nil {
		return unix.EBADF
	}
	if s.reset {
		return 0
	}
	e.Note("%s: disconnects", s)
	to := s.other
	for _, seg := range to.in.wire {
		e.drop(to, seg)
	}
	to.in.wire = nil
	e.sendReset(s)
	return 0
}
