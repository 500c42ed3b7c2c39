//go:build linux

package net

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// File is a regular file to be sent with [Conn.SendFile], by any number of
// connections on any loops at the same time. Open a file once for many transfers
// where you can: what is learned about it is kept. Safe for concurrent use.
type File struct {
	f  openFile
	fd int

	mu     sync.Mutex
	uses   int // transfers under way
	closed bool
	asked  bool
	pages  []byte // the file mapped, if Resident tells the truth about it

	lent     bool // f is not closed with it
	borrowed bool // for tests: fd is of another engine
}

// openFile is what a File needs of an *os.File.
type openFile interface {
	Stat() (fs.FileInfo, error)
	Name() string
	Close() error
}

// OpenFile opens a regular file for sending. The File must be closed.
func OpenFile(name string) (*File, error) {
	// Not blocking: the open of a fifo would wait for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("ringnet: %w", err)
	}
	file, err := NewFile(f)
	if err != nil {
		_ = f.Close()
	}
	return file, err
}

// NewFile makes a File of an open one, which belongs to it from then on: closing
// the File closes f, and whether it has O_NONBLOCK is for the File to say. With an
// error f remains the caller's.
func NewFile(f *os.File) (*File, error) {
	if f == nil {
		return nil, errors.New("ringnet: a File of a nil *os.File: open one first")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("ringnet: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("ringnet: %s is a %v: only regular files can be sent", f.Name(), kindOfFile(st.Mode()))
	}
	file := &File{f: f, fd: int(f.Fd())}
	_ = unix.SetNonblock(file.fd, readsWithoutWaiting(file.fd))
	return file, nil
}

// readsWithoutWaiting reports that a file system does not say that its reads can do
// without waiting (FMODE_NOWAIT), and yet they can: those of memory never wait, and
// overlayfs hands the wish on to the file system below it.
//
// O_NONBLOCK has io_uring believe that of a file (io_file_get_flags), and read it on
// the loop's own thread. NFS, FUSE and their like wait there all the same, for as long
// as a server takes; without the flag the kernel's worker threads do.
func readsWithoutWaiting(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return true
	}
	return false
}

func kindOfFile(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "fifo"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}

// Size is the file's size now.
func (f *File) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Close closes the file once the last transfer that uses it has ended.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("ringnet: close a File: %w", os.ErrClosed)
	}
	f.closed = true
	if f.uses == 0 {
		return f.free()
	}
	return nil
}

// use counts a transfer; false: the file is closed.
func (f *File) use() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.uses++
	return true
}

// drop is the end of a transfer.
func (f *File) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.uses--; f.uses == 0 && f.closed {
		_ = f.free() // it was only read from
	}
}

func (f *File) free() error {
	if f.borrowed {
		return nil
	}
	if f.pages != nil {
		_ = ring.Unmap(f.pages)
		f.pages = nil
	}
	if f.lent {
		return nil
	}
	return f.f.Close()
}

// mapMax bounds what is mapped of a file: address space, which is free, and the
// page tables of what is used, 2 MiB for each GiB.
const mapMax = 1 << 30

// mapping is the file mapped, as far as it goes when it is first asked for; nil
// where that cannot be had or would not tell what is resident. On a loop that uses
// the file.
func (f *File) mapping() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked {
		f.asked = true
		if size, err := f.Size(); err == nil && size > 0 {
			pages, truthful, err := ring.MapFile(f.fd, int(min(size, mapMax)))
			if err == nil && !truthful {
				_ = ring.Unmap(pages)
				pages = nil
			}
			f.pages = pages
		}
	}
	return f.pages
}
