//go:build linux

package net

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A Unix listener belongs to one loop, which accepts for all: two Unix sockets
// cannot share a name as SO_REUSEPORT lets TCP's. Were one socket shared instead,
// an accept armed by each loop, the kernel would wake for each connection just the
// first in its queue (accepts wait exclusively, in the order in which they were
// armed), so that one loop had nearly all connections. One that accepts and gives
// the descriptors out in turn spreads them evenly, and there is one owner to end
// the accept, to remove the file and to close the descriptor, in this order.

// listenUnix opens a Unix listener on the loop that has fewest.
func listenUnix(loops []*loop, path string) (Addr, error) {
	addr := UnixAddr(path)
	l := loops[0]
	for _, other := range loops {
		if len(other.listeners) < len(l.listeners) {
			l = other
		}
	}
	mode := -1
	if l.o.UnixMode != 0 {
		mode = int(l.o.UnixMode)
	}
	fd, err := l.r.ListenUnix(path, l.o.Backlog, mode)
	if err != nil {
		return addr, &OpError{Op: "listen", Addr: addr, Err: explainUnix(err)}
	}
	ln := listener{fd: fd, addr: addr, dealt: len(loops) > 1}
	if !strings.HasPrefix(path, "@") {
		ln.file = newSocketFile(path)
	}
	l.listeners = append(l.listeners, ln)
	return addr, nil
}

// explainUnix adds to an error of ListenUnix what would mend it.
func explainUnix(err error) error {
	switch {
	case errors.Is(err, ring.ErrNoSocket):
		return fmt.Errorf("%w; move it away, or choose another path", err)
	case errors.Is(err, ring.ErrSocketInUse), errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: stop the program that listens at this name, or choose another", err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: the folder for the socket does not exist: make it first", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: this process may not make a file in the folder of the socket", err)
	}
	return explainListen(err)
}

// socketFile is the file of a Unix listener, which is removed when the listener is
// closed, unless something else stands in its place by then.
type socketFile struct {
	path string // absolute: the process may change its folder
	info os.FileInfo
}

// newSocketFile notes which file it is; nil if that cannot be told.
func newSocketFile(path string) *socketFile {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	info, err := os.Lstat(abs)
	if err != nil {
		return nil
	}
	return &socketFile{abs, info}
}

// remove removes the file. Before the listener is closed: until then no other file
// can get its number.
func (f *socketFile) remove() {
	if f == nil {
		return
	}
	if now, err := os.Lstat(f.path); err == nil && os.SameFile(now, f.info) {
		_ = os.Remove(f.path)
	}
}

// Credentials say who is at the other end of a Unix socket: the process that
// connected, or made the listener, and whom it ran as at that moment.
type Credentials struct {
	PID      int // 0: a process of a foreign namespace
	UID, GID uint32
}

// PeerCredentials asks the kernel who the peer of a Unix socket is (SO_PEERCRED).
// On TCP it answers an error that matches errors.ErrUnsupported.
func (c *Conn) PeerCredentials() (Credentials, error) {
	if c.state&finished != 0 && c.l.finishing != c {
		return Credentials{}, ErrClosed
	}
	if !c.remote.isUnix() {
		return Credentials{}, fmt.Errorf("ringnet: credentials of the peer: %w on TCP, only on Unix sockets", errors.ErrUnsupported)
	}
	pid, uid, gid, err := c.l.r.PeerCredentials(int(c.fd))
	return Credentials{PID: pid, UID: uid, GID: gid}, err
}

// checkTCP refuses an option that a Unix socket has not.
func (c *Conn) checkTCP(option string) error {
	if c.state&finished != 0 {
		return ErrClosed
	}
	if c.remote.isUnix() {
		return fmt.Errorf("ringnet: %s: %w on Unix sockets, it is an option of TCP", option, errors.ErrUnsupported)
	}
	return nil
}

// unixPeer is the name that the peer of a Unix socket has bound, if any.
func (l *loop) unixPeer(fd int32) Addr {
	path, _ := l.r.PeerPath(int(fd))
	return UnixAddr(path)
}
