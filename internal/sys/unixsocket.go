//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixNameBytes is the size of a struct sockaddr_un.
const unixNameBytes = 110

// OpenUnix opens a non-blocking Unix stream socket, bound to the path or '@' name
// from unless that is "". The caller owns the descriptor, and the file.
func OpenUnix(from string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil || from == "" {
		return fd, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: from}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ConnectUnix connects a Unix socket to a path or '@' name. It never takes time:
// EAGAIN says that the listener's backlog is full.
func ConnectUnix(fd int, path string) syscall.Errno {
	return errnoOf(unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
}

// Errors of ListenUnix, beside errnos.
var (
	ErrSocketInUse = errors.New("another socket listens there")
	ErrNoSocket    = errors.New("a file is there that is no socket")
)

// ListenUnix opens a non-blocking listener at a path or '@' name. A socket file
// that nobody listens at any more is replaced. Unless it is negative, mode becomes
// the file's mode before anybody can connect. The caller owns the descriptor, and
// the file.
func ListenUnix(path string, backlog, mode int) (listener int, err error) {
	fd, err := OpenUnix("")
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	file := !strings.HasPrefix(path, "@")
	if file {
		// Else a second process that does the same could take a socket for stale
		// that is bound and not listened at yet.
		defer lockFolder(filepath.Dir(path))()
	}
	name := &unix.SockaddrUnix{Name: path}
	err = unix.Bind(fd, name)
	if err == unix.EADDRINUSE && file {
		if err = removeStale(path); err == nil {
			err = unix.Bind(fd, name)
		}
	}
	if err != nil {
		return -1, err
	}
	if file && mode >= 0 {
		err = unix.Chmod(path, uint32(mode))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		if file {
			_ = unix.Unlink(path)
		}
		return -1, err
	}
	return fd, nil
}

// removeStale removes a socket file that nobody listens at.
func removeStale(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err == unix.ENOENT {
		return nil // it is gone meanwhile
	} else if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%w: %w", unix.EADDRINUSE, ErrNoSocket)
	}
	fd, err := OpenUnix("")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch errno := ConnectUnix(fd, path); errno {
	case unix.ECONNREFUSED:
		return unix.Unlink(path)
	case unix.ENOENT:
		return nil
	case 0, unix.EAGAIN, unix.EPROTOTYPE: // the last one: of another type
		return fmt.Errorf("%w: %w", unix.EADDRINUSE, ErrSocketInUse)
	default:
		return fmt.Errorf("%w: whether somebody listens there cannot be told: %w", unix.EADDRINUSE, errno)
	}
}

// lockFolder takes flock(2) of a folder, and returns what gives it back. It tries
// for half a second: whoever holds it for longer is none of us.
func lockFolder(path string) (unlock func()) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	for range 50 {
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return func() { _ = unix.Close(fd) }
}

// LocalPath is the path or '@' name that a Unix socket is bound to; "" if it has
// none.
func LocalPath(fd int) (string, error) { return unixName(unix.SYS_GETSOCKNAME, fd) }

// PeerPath is that of the socket it is connected to.
func PeerPath(fd int) (string, error) { return unixName(unix.SYS_GETPEERNAME, fd) }

// unixName asks for one of a Unix socket's names. It allocates nothing for a
// socket without a name, as most that connect have none.
func unixName(call uintptr, fd int) (string, error) {
	var name [unixNameBytes]byte
	n := uint32(len(name))
	_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return "", errno
	}
	if n < 2 || binary.NativeEndian.Uint16(name[:]) != unix.AF_UNIX {
		return "", unix.EAFNOSUPPORT
	}
	b := name[2:min(int(n), len(name))]
	switch {
	case len(b) == 0:
		return "", nil
	case b[0] == 0:
		return "@" + string(b[1:]), nil
	}
	return unix.ByteSliceToString(b), nil
}

// PeerCredentials are who connected a Unix socket, or listens at it (SO_PEERCRED).
func PeerCredentials(fd int) (pid int, uid, gid uint32, err error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, 0, err
	}
	return int(c.Pid), c.Uid, c.Gid, nil
}
