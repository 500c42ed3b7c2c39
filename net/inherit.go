//go:build linux

package net

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// inherited is a listening socket that somebody else has opened.
type inherited struct {
	fd   int    // ours; -1 when a loop has it
	name string // for messages
	addr Addr
	h    *handlers // of its connections; nil: the server's

	passed *passed // by systemd, or nil
	origin int     // descriptor that is closed when the server has started; -1: none
}

// inheritance is all that one start takes over. Until it is sealed nothing of it has
// changed for others, so that a start that fails can be tried again.
type inheritance struct{ all []*inherited }

// seal closes the descriptors that the sockets came by: the loops have theirs.
func (in *inheritance) seal() {
	for _, g := range in.all {
		if g.origin >= 0 {
			_ = unix.Close(g.origin)
		}
	}
}

// undo gives back what no loop has.
func (in *inheritance) undo() {
	for _, g := range in.all {
		if g.fd >= 0 {
			_ = unix.Close(g.fd)
		}
		if g.passed != nil {
			g.passed.release()
		}
	}
}

// isInherited reports that an address means sockets which are there already.
func isInherited(addr string) bool {
	return strings.HasPrefix(addr, "fd:") || strings.HasPrefix(addr, "systemd:")
}

// address takes the sockets that an address means.
func (in *inheritance) address(addr string) error {
	kind, rest, _ := strings.Cut(addr, ":")
	if kind == "systemd" {
		all, err := activation.claim(rest)
		if err != nil {
			return fmt.Errorf("ringnet: listen address %q: %w", addr, err)
		}
		for i, p := range all {
			if err := in.add(p.fd, fmt.Sprintf("listen address %q: descriptor %d, named %q", addr, p.fd, p.name), p); err != nil {
				for _, left := range all[i+1:] {
					left.release()
				}
				return err
			}
		}
		return nil
	}
	from, to, ranged := strings.Cut(rest, "-")
	first, err := strconv.Atoi(from)
	last := first
	if err == nil && ranged {
		last, err = strconv.Atoi(to)
	}
	if err != nil || first < 0 || last < first || last > 1<<20 {
		return fmt.Errorf("ringnet: listen address %q: write the number of a descriptor, such as \"fd:3\", or of several, such as \"fd:3-6\"", addr)
	}
	for fd := first; fd <= last; fd++ {
		if err := in.add(fd, fmt.Sprintf("listen address %q: descriptor %d", addr, fd), nil); err != nil {
			return err
		}
	}
	return nil
}

// add takes one socket by its descriptor, which is closed in the end.
func (in *inheritance) add(fd int, name string, p *passed) error {
	g := &inherited{fd: -1, name: name, passed: p, origin: fd}
	in.all = append(in.all, g)
	for _, other := range in.all[:len(in.all)-1] {
		if other.origin == fd {
			return fmt.Errorf("ringnet: %s is given twice", name)
		}
	}
	return g.take(fd)
}

// listener takes one that the caller keeps, such as a *net.TCPListener of std.
func (in *inheritance) listener(i int, conn syscall.Conn) error {
	g := &inherited{fd: -1, name: fmt.Sprintf("listener %d (%T)", i, conn), origin: -1}
	in.all = append(in.all, g)
	if conn == nil {
		return fmt.Errorf("ringnet: %s is nil", g.name)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("ringnet: %s: %w", g.name, err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = g.take(int(fd)) }); err != nil {
		return fmt.Errorf("ringnet: %s: %w", g.name, err)
	}
	return inner
}

// take duplicates a descriptor, and checks that it is one of a stream listener.
func (g *inherited) take(fd int) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("ringnet: %s "+format, append([]any{g.name}, args...)...)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	switch {
	case errors.Is(err, unix.EBADF):
		return refuse("is not open: %w: was it passed to this process (exec.Cmd.ExtraFiles begins with descriptor 3), and not closed since?", err)
	case err != nil:
		return refuse("cannot be duplicated: %w", explainListen(err))
	}
	g.fd = dup
	kind, err := unix.GetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return refuse("is not a socket: %w", err)
	}
	if kind != unix.SOCK_STREAM {
		return refuse("is not a stream socket (its type is %d): a listener is needed; in a systemd unit that is ListenStream=", kind)
	}
	if family, err := unix.GetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family != unix.AF_INET && family != unix.AF_INET6 && family != unix.AF_UNIX {
		return refuse("is not a TCP or Unix socket (its address family is %d): a listener of one of these is needed", family)
	}
	if listens, err := unix.GetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return refuse("does not listen: a listener is needed, not a connection; in a systemd unit that is Accept=no")
	}
	name, err := unix.Getsockname(dup)
	if err != nil {
		return refuse("has no address: %w", err)
	}
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		g.addr = TCPAddr(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)))
	case *unix.SockaddrInet6:
		g.addr = TCPAddr(netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)))
	case *unix.SockaddrUnix:
		g.addr = UnixAddr(sa.Name)
	}
	// Of all that have the socket. Where loops accept by plain calls, one that
	// waited would stop everything.
	if err := unix.SetNonblock(dup, true); err != nil {
		return refuse("cannot be made non-blocking: %w", err)
	}
	return nil
}

// activation is what systemd has passed to this process (sd_listen_fds(3)). It is
// read when it is first asked for, and the variables are unset then, so that children
// do not take it for theirs. It stays for the servers of this process to share.
var activation socketActivation

type socketActivation struct {
	mu   sync.Mutex
	read bool
	all  []*passed
	err  error // why there is nothing
}

// passed is one socket that systemd has passed.
type passed struct {
	fd    int
	name  string
	taken bool
}

func (p *passed) release() {
	activation.mu.Lock()
	defer activation.mu.Unlock()
	p.taken = false
}

// claim takes the sockets of a name, or all if it is empty. Who takes them releases
// them when they could not be used.
func (a *socketActivation) claim(name string) ([]*passed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.read {
		a.read = true
		a.all, a.err = receivePassed(os.Getpid())
	}
	if a.err != nil {
		return nil, a.err
	}
	var claimed []*passed
	var names []string
	taken := false
	for _, p := range a.all {
		names = append(names, p.name)
		if name != "" && p.name != name {
			continue
		}
		if p.taken {
			taken = true
			continue
		}
		claimed = append(claimed, p)
	}
	switch {
	case len(claimed) > 0:
		for _, p := range claimed {
			p.taken = true
		}
		return claimed, nil
	case taken:
		return nil, errors.New("another server of this process has taken it already")
	}
	return nil, fmt.Errorf("systemd has passed no socket of that name, but %q: set FileDescriptorName=%s in the socket unit, or use one of these", names, name)
}

// receivePassed reads the variables, and unsets them.
func receivePassed(pid int) ([]*passed, error) {
	of, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		_ = os.Unsetenv(v)
	}
	if of == "" || count == "" {
		return nil, errors.New("LISTEN_PID and LISTEN_FDS are not set, so systemd has passed no sockets: start the program by its socket unit (systemctl start ….socket), or try it with systemd-socket-activate")
	}
	if of != strconv.Itoa(pid) {
		return nil, fmt.Errorf("LISTEN_PID is %q and this process is %d: the sockets were meant for another one; a wrapper (a shell, an env) has to exec the program", of, pid)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > 1<<16 {
		return nil, fmt.Errorf("LISTEN_FDS is %q: it must be the number of sockets passed", count)
	}
	var each []string
	if names != "" {
		if each = strings.Split(names, ":"); len(each) != n {
			return nil, fmt.Errorf("LISTEN_FDNAMES is %q: it must have %d names, as LISTEN_FDS says", names, n)
		}
	}
	all := make([]*passed, n)
	for i := range all {
		all[i] = &passed{fd: 3 + i, name: "unknown"}
		if each != nil {
			all[i].name = each[i]
		}
		unix.CloseOnExec(all[i].fd)
	}
	return all, nil
}
