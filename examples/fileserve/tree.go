//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/net"
)

// tree is the directory that is served. Everything here may wait for a disk, and runs
// beside the loops. Safe for concurrent use.
type tree struct {
	root  *os.Root      // which follows symbolic links, but none that leads out
	small int64         // up to this size files are read into memory; negative: none are
	rest  time.Duration // restFor
}

func openTree(dir string, small int64) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("-root: %w", err)
	}
	return &tree{root: root, small: small, rest: restFor}, nil
}

func (t *tree) close() { _ = t.root.Close() }

// stamp tells one state of a file from another, as far as the file system does. The zero
// stamp stands for none.
type stamp struct {
	dev, inode   uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(st fs.FileInfo) stamp {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() {
		return stamp{}
	}
	return stamp{dev: uint64(s.Dev), inode: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}

// restFor is for how long a file must not have changed before its times are trusted: a
// change soon after another one may leave them as they are, since the kernel's clock for
// them ticks some hundred times a second, and some file systems' once in two.
const restFor = 2 * time.Second

// rests reports whether a file has not been changed lately. The time of the last change
// of an inode cannot be set by anybody.
func (t *tree) rests(s stamp, now time.Time) bool {
	return now.Sub(time.Unix(s.ctime.Unix())) > t.rest
}

// errNowhere says that there is nothing to serve by that name.
var errNowhere = errors.New("no such file")

// errUnchanged says that what is known is so still.
var errUnchanged = errors.New("unchanged")

// look finds what is to be served by a path, or errUnchanged if that is what is known
// already. Nothing but regular files is opened: a fifo would wait for its other end, and
// devices may do things when they are opened.
func (t *tree) look(name string, known *entry) (*entry, error) {
	e := &entry{path: name}
	file := strings.TrimPrefix(name, "/")
	if file == "" || strings.HasSuffix(file, "/") {
		file += "index.html"
	}
	st, err := t.root.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.IsDir() && !strings.HasSuffix(name, "/") {
		e.redirect = true
		return e, nil
	}
	e.stamps[identity] = stampOf(st)
	if e.stamps[identity] == (stamp{}) {
		return nil, errNowhere
	}
	for i, c := range codings[:identity] {
		// One that is older than the file is of an older state of the file.
		if st2, err := t.root.Stat(file + c.suffix); err == nil && !st2.ModTime().Before(st.ModTime()) {
			e.stamps[i] = stampOf(st2)
		}
	}
	now := time.Now()
	if known != nil && known.stamps == e.stamps && known.rests {
		return nil, errUnchanged
	}
	e.rests = true
	varies := e.stamps[0] != stamp{} || e.stamps[1] != stamp{}
	for i, c := range codings {
		if e.stamps[i] == (stamp{}) {
			continue
		}
		r, s, err := t.open(file+c.suffix, now)
		if err != nil {
			if i != identity && (isNowhere(err) || errors.Is(err, fs.ErrPermission)) {
				e.stamps[i] = stamp{} // it does without
				continue
			}
			e.free()
			return nil, err
		}
		e.stamps[i] = s
		e.rests = e.rests && t.rests(s, now)
		r.describe(typeOf(path.Ext(file)), c.name, varies, s, t.rests(s, now))
		e.reps[i] = r
	}
	return e, nil
}

// open opens a file, and reads it if it is small.
func (t *tree) open(file string, now time.Time) (*representation, stamp, error) {
	f, err := t.root.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errNowhere // it has become something else
	}
	if err != nil {
		_ = f.Close()
		return nil, stamp{}, err
	}
	s := stampOf(st)
	r := &representation{size: s.size, fd: int(f.Fd())}
	if s.size <= t.small {
		b := make([]byte, headRoom+s.size, headRoom+s.size+1)
		n, err := io.ReadFull(io.NewSectionReader(f, 0, s.size+1), b[headRoom:cap(b)])
		after, statErr := f.Stat()
		if err == io.ErrUnexpectedEOF || s.size == 0 && err == io.EOF {
			err = nil
		}
		if err = errors.Join(err, statErr); err != nil {
			_ = f.Close()
			return nil, stamp{}, err
		}
		if int64(n) == s.size && stampOf(after) == s {
			_ = f.Close()
			r.image = b
			return r, s, nil
		}
		// It is being written to: its bytes go out as they are then.
	}
	if r.file, err = net.NewFile(f); err != nil {
		_ = f.Close()
	}
	return r, s, err
}

// isNowhere reports that an error means that there is nothing to serve. What is not an
// answer of the kernel is a refusal of os.Root: the path leads out of it, by a link.
func isNowhere(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return true
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ENAMETOOLONG, unix.ELOOP, unix.ENXIO, unix.EISDIR, unix.EINVAL, unix.EILSEQ:
		return true
	}
	return false
}
