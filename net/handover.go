//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A restart that loses no connection: the successor gets the listening sockets
// themselves, and the predecessor leaves them.
//
//	predecessor: ListenerFiles ─► start the successor ─► (it serves) ─► Retire
//	successor:   Start("fd:3-6") ─► tell the predecessor
//
// A socket lives as long as somebody has a descriptor of it, and the connections in
// its backlog with it. With SO_REUSEPORT each loop has its own, and the kernel puts a
// connection into the backlog of one of them for good; so all have to be handed on,
// and each has to be accepted from, whatever number of loops the successor has. See
// adopt for how it divides them.

// ListenerFiles are duplicates of all sockets that the server listens on: for
// exec.Cmd.ExtraFiles, whose first becomes descriptor 3 of a successor that is
// started with Start("fd:3-…"). There is one for each address and loop, or with
// another Placement one for each address. The caller owns and closes them; as long
// as one is open its socket goes on taking connections into its backlog, even if
// nobody accepts them. The files of Unix sockets are no longer removed at the end.
func (s *Server) ListenerFiles() ([]*os.File, error) {
	s.mu.Lock()
	loops := s.loops
	s.mu.Unlock()
	if loops == nil {
		return nil, errors.New("ringnet: the server has not been started")
	}
	var files []*os.File
	for _, l := range loops {
		type answer struct {
			files []*os.File
			err   error
		}
		got := make(chan answer, 1)
		err := l.mail.post(func() {
			f, err := l.listenerFiles()
			got <- answer{f, err}
		})
		if err == nil {
			a := <-got
			files, err = append(files, a.files...), a.err
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// listenerFiles duplicates the loop's listeners.
func (l *loop) listenerFiles() (files []*os.File, err error) {
	for i := range l.listeners {
		ln := &l.listeners[i]
		if ln.fd < 0 || l.draining {
			return files, ErrServerClosed
		}
		fd, err := unix.FcntlInt(uintptr(ln.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return files, &OpError{Op: "duplicate listener", Addr: ln.addr, Err: explainListen(err)}
		}
		ln.file = nil // the successor's
		// Made by NewFile it stays non-blocking, which the socket is for all who
		// have it, also when os/exec asks for its descriptor.
		files = append(files, os.NewFile(uintptr(fd), ln.addr.String()))
	}
	return files, nil
}

// Retire ends the server after its listeners were handed to a successor, see
// [Server.ListenerFiles]: it stops accepting and closes its own descriptors of the
// listeners, tells handlers (ShutdownHandler), and serves the connections that it has
// until they end by themselves. UDP sockets end as with Shutdown. What waits in the backlogs is the successor's. It
// returns when all connections have ended. When ctx ends first, what is left is cut
// and ctx's error returned; call Shutdown meanwhile to have them closed in good
// order. For the rest it is as Shutdown.
func (s *Server) Retire(ctx context.Context) error {
	return s.endWith(ctx, (*loop).retire)
}

// retire stops accepting, and lets every connection end in its own time. On the
// loop's goroutine.
func (l *loop) retire() {
	if l.draining {
		return
	}
	l.draining, l.retiring = true, true
	l.acceptPaused = false
	l.stopAccepting()
	l.drainSockets()
	l.table.each(l.takeLeave)
}

// takeLeave tells the handler of a connection that the server is to end.
func (l *loop) takeLeave(c *Conn) {
	if c.h.shutdown != nil && c.state&(closing|dead|finished) == 0 {
		l.guard(func() { l.call(c, func() { c.h.shutdown.OnShutdown(c) }) })
	}
}

// endListener closes a listener that nothing is armed on any more.
//
// Where others have the socket, too, it first takes what waits there: the kernel
// wakes one of those who wait in accept for each connection, and the one that it woke
// last may have been ours, which was just then cancelled. The others would not hear
// of that connection before the next. (Polls, which a limit makes us wait by, are
// woken all together.)
func (l *loop) endListener(ln *listener) {
	if l.retiring && !l.limited() && ln.fd >= 0 {
		l.opened = opensPerTurn // none of them is opened before the listener is closed
		for range l.o.Backlog {
			fd, errno := l.r.Accept(ln.fd)
			if errno != 0 && errno != unix.ECONNABORTED && errno != unix.EINTR {
				break
			}
			if errno == 0 {
				l.bring(ln, int32(fd))
			}
		}
	}
	l.closeListener(ln)
}

// adopt divides inherited listeners of one address among the loops. As many as make
// the same number for each loop are accepted from there; if some are left over, or
// there are fewer than loops, what they accept is dealt to all loops in turn. All
// loops could wait in accept on one socket, but the kernel would wake the same one
// each time, as long as it keeps up.
func adopt(loops []*loop, given []*inherited) error {
	even := len(given) - len(given)%len(loops)
	for i, g := range given {
		l := loops[i%len(loops)]
		if err := l.inherit(g, i >= even); err != nil {
			return err
		}
	}
	return nil
}

// inherit takes one of them over. Before the loop starts.
func (l *loop) inherit(g *inherited, dealt bool) error {
	if !l.o.Delay && !g.addr.isUnix() {
		if err := l.r.SetInt(g.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("ringnet: %s: set TCP_NODELAY: %w", g.name, err)
		}
	}
	l.listeners = append(l.listeners, listener{fd: g.fd, addr: g.addr, dealt: dealt || l.o.Placement != Reuseport})
	g.fd = -1
	return nil
}

// byAddress groups inherited listeners by their address, in order.
func byAddress(given []*inherited) (groups []listenAddr) {
	at := map[Addr]int{}
	for _, g := range given {
		i, ok := at[g.addr]
		if !ok {
			i = len(groups)
			at[g.addr] = i
			groups = append(groups, listenAddr{h: g.h})
		}
		groups[i].given = append(groups[i].given, g)
	}
	return groups
}
