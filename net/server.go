//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	stdnet "net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// Server accepts connections, of TCP and of Unix sockets, and serves them with a
// Handler on event loops, and datagrams of UDP sockets with a PacketHandler.
// Set its fields before it is started and leave them alone afterwards. A Server
// serves once. Its methods are safe for concurrent use.
type Server struct {
	// Handler serves the connections. Required with addresses to accept them on, unless
	// Handlers has one for each.
	Handler Handler

	// Handlers serve the connections of single addresses, in place of Handler. Its keys
	// are addresses as they are given to Start. With a [HandOverListener] as handler the
	// connections of an address go to std as they are accepted: no loop ever has them.
	Handlers map[string]Handler

	// Packets serves the datagrams. Required with addresses that begin with "udp:".
	Packets PacketHandler

	Options

	mu    sync.Mutex
	state serverState
	loops []*loop
	addrs []Addr
	udp   []netip.AddrPort
	info  EngineInfo

	nextLoop int           // for Dial, DialPacket and ListenPacket
	ended    chan struct{} // closed when every loop has ended
	crew     *crew

	serving atomic.Pointer[[]*loop] // loops, once all are started; see running
}

type serverState uint8

const (
	serverNew serverState = iota
	serverRunning
	serverClosing
)

// EngineInfo says what the loops run on.
type EngineInfo struct {
	Kind     ring.EngineKind
	Features ring.Features // of the kernel, less those masked
	Kernel   string        // release of the running kernel
	Reason   string        // why this engine and no other
}

// String is one line for people.
func (i EngineInfo) String() string {
	return fmt.Sprintf("%v on Linux %s (%s), features: %v", i.Kind, i.Kernel, i.Reason, i.Features)
}

// ListenAndServe starts the server on the addresses and returns when it has ended:
// ErrServerClosed after Shutdown or Close, else what went wrong.
func (s *Server) ListenAndServe(addrs ...string) error {
	if err := s.Start(addrs...); err != nil {
		return err
	}
	return s.Wait()
}

// Start opens a listener for each address on every loop and returns while they
// serve. An address is "host:port"; an empty host listens on every IPv6 and IPv4
// address, port 0 takes a free port ([Server.Addrs] tells which). Or it is a Unix
// socket, "unix:/run/app.sock" or, with an abstract name, "unix:@app": a socket file
// that nobody listens at any more is replaced, and ours is removed at the end.
//
// With "udp:" in front a UDP socket is opened on every loop ([Server.PacketAddrs]): the
// kernel divides senders among them, but broadcasts come to each. On a multicast
// group one loop has a socket, which joins the group on the system's choice of
// interface.
//
// "fd:3" means a listening stream socket that this process has inherited as
// descriptor 3, "fd:3-6" four of them; "systemd:http" means those that systemd has
// passed under that name (FileDescriptorName= in the socket unit), "systemd:" all
// that it has passed. The server owns them once it is started. Those of the same
// address are divided among the loops, and are one of [Server.Addrs], behind those of
// other addresses; see [Server.ListenerFiles] for where they may come from. The file
// of an inherited Unix socket is left where it is.
//
// On an error nothing is left open.
func (s *Server) Start(addrs ...string) error { return s.serve(addrs, nil) }

// StartListeners is Start with listeners that are open already: a *net.TCPListener or
// *net.UnixListener of std, or an *os.File. The server takes duplicates; the caller
// keeps its own, and closes them when it likes, but must not accept from them.
func (s *Server) StartListeners(listeners ...syscall.Conn) error { return s.serve(nil, listeners) }

func (s *Server) serve(addrs []string, listeners []syscall.Conn) error {
	streams := slices.ContainsFunc(addrs, func(a string) bool { return !strings.HasPrefix(a, udpPrefix) && s.Handlers[a] == nil })
	packets := slices.ContainsFunc(addrs, func(a string) bool { return strings.HasPrefix(a, udpPrefix) })
	if s.Handler == nil && (streams || !packets && len(s.Handlers) == 0 || listeners != nil) {
		return errors.New("ringnet: Server.Handler is nil: set what serves the connections")
	}
	if s.Packets == nil && packets {
		return errors.New("ringnet: Server.Packets is nil: set what serves the datagrams")
	}
	if err := s.checkHandlers(addrs); err != nil {
		return err
	}
	if len(addrs)+len(listeners) == 0 {
		return errors.New("ringnet: no address to listen on: give one such as \"127.0.0.1:9000\"")
	}
	return s.start(addrs, listeners)
}

// checkHandlers looks at what is to serve the addresses.
func (s *Server) checkHandlers(addrs []string) error {
	if err := checkHandler(s.Handler); err != nil {
		return err
	}
	for a, h := range s.Handlers {
		if !slices.Contains(addrs, a) || strings.HasPrefix(a, udpPrefix) {
			return fmt.Errorf("ringnet: Server.Handlers has one for %q, which is no address of connections that the server is started with: give that to Start as well, spelt alike", a)
		}
		if h == nil {
			return fmt.Errorf("ringnet: Server.Handlers has nil for %q: set what serves its connections", a)
		}
		if err := checkHandler(h); err != nil {
			return err
		}
	}
	return nil
}

// checkHandler asks a handler of this package whether it is set up well.
func checkHandler(h Handler) error {
	if h, ok := h.(interface{ check() error }); ok {
		return h.check()
	}
	return nil
}

// tellServes tells a handler of this package which address it serves.
func tellServes(h Handler, addr Addr) {
	if h, ok := h.(interface{ serves(Addr) }); ok {
		h.serves(addr)
	}
}

// start is Start, and also what a Client does, which has no addresses.
func (s *Server) start(addrs []string, listeners []syscall.Conn) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != serverNew {
		return errors.New("ringnet: a Server serves once: make a new one")
	}
	o, err := s.Options.check()
	if err != nil {
		return err
	}
	if err := checkCPUs(o.CPUs); err != nil {
		return err
	}
	var given inheritance
	defer func() {
		if err == nil {
			given.seal()
		} else {
			given.undo()
		}
	}()
	var resolved []listenAddr
	for i, conn := range listeners {
		if err := given.listener(i, conn); err != nil {
			return err
		}
	}
	var packets []packetAddr
	for _, a := range addrs {
		var h *handlers // of this address alone
		if s.Handlers[a] != nil {
			h = newHandlers(s.Handlers[a])
		}
		if rest, ok := strings.CutPrefix(a, udpPrefix); ok {
			r, err := resolvePacket(rest)
			if err != nil {
				return err
			}
			packets = append(packets, r)
			continue
		}
		if isInherited(a) {
			known := len(given.all)
			if err := given.address(a); err != nil {
				return err
			}
			for _, g := range given.all[known:] {
				g.h = h
			}
			continue
		}
		r, err := resolve(a)
		if err != nil {
			return err
		}
		r.h = h
		resolved = append(resolved, r)
	}
	resolved = append(resolved, byAddress(given.all)...)

	var loops []*loop
	started := 0
	defer func() {
		if err == nil {
			return
		}
		for i, l := range loops {
			if i < started {
				_ = l.mail.demand(letter{what: l.cut})
				<-l.done
			} else {
				l.discard()
			}
		}
		if s.crew != nil {
			s.crew.close()
			s.crew = nil
		}
	}()
	var hs *handlers
	if s.Handler != nil { // else a Client's, whose Dialers have theirs
		hs = newHandlers(s.Handler)
	}
	s.crew = newCrew(o.OffloadWorkers)
	for i := range o.Loops {
		l, err := newLoop(i, &o, hs)
		if err != nil {
			return err
		}
		l.crew = s.crew
		loops = append(loops, l)
		if o.Engine == ring.Auto {
			o.Engine = l.r.Engine() // all loops alike
		}
	}
	c := newTeam(&o, loops)
	for _, l := range loops {
		l.team = c
	}
	var bound []Addr
	for i, a := range resolved {
		b, err := listenOn(loops, i, a)
		if err != nil {
			return err
		}
		bound = append(bound, b)
		for _, l := range loops {
			for i := range l.listeners {
				if ln := &l.listeners[i]; ln.h == nil && ln.addr == b {
					ln.h = a.h
				}
			}
		}
	}
	var packetsBound []netip.AddrPort
	for _, a := range packets {
		b, err := listenPacketAll(loops, a, newPacketHandlers(s.Packets))
		if err != nil {
			return err
		}
		packetsBound = append(packetsBound, b)
	}
	for i, a := range resolved {
		if a.h != nil {
			tellServes(a.h.Handler, bound[i])
		} else if hs != nil {
			tellServes(s.Handler, bound[i])
		}
	}
	info := describe(loops[0].r)
	dog := newWatchdog(loops, &o)
	ready := make(chan error)
	for i, l := range loops {
		go l.run(ready)
		if err := <-ready; err != nil {
			// That loop has freed itself.
			loops = append(loops[:i:i], loops[i+1:]...)
			return err
		}
		started++
	}
	if why := loops[0].r.Reason(); why != nil {
		o.Logger.Warn("ringnet: serving with epoll, since io_uring cannot be had", "err", why)
	}
	s.loops, s.addrs, s.udp, s.info, s.state = loops, bound, packetsBound, info, serverRunning
	s.ended = make(chan struct{})
	s.serving.Store(&loops)
	for _, ap := range packetsBound {
		bound = append(bound[:len(bound):len(bound)], UDPAddr(ap))
	}
	logStarted(&o, bound, info)
	if dog != nil {
		go dog.run()
	}
	go func() {
		for _, l := range loops {
			<-l.done
		}
		dog.end()
		logEnded(o.Logger, loops, s.leftovers())
		close(s.ended)
		s.crew.close()
	}()
	return nil
}

// listenAddr is an address to listen on.
type listenAddr struct {
	netip.AddrPort
	v6only bool
	path   string       // of a Unix socket, and nothing else then
	given  []*inherited // sockets that listen there already
	h      *handlers    // of its connections; nil: the server's
}

// resolve reads an address as std's net does.
func resolve(addr string) (listenAddr, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if err := checkUnixPath(path); err != nil {
			return listenAddr{}, fmt.Errorf("ringnet: listen address %q: %w", addr, err)
		}
		return listenAddr{path: path}, nil
	}
	host, _, err := stdnet.SplitHostPort(addr)
	if err != nil {
		return listenAddr{}, fmt.Errorf("ringnet: listen address %q: %w: write host:port, such as \"127.0.0.1:9000\", \"[::1]:9000\" or \":9000\"", addr, err)
	}
	tcp, err := stdnet.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return listenAddr{}, fmt.Errorf("ringnet: listen address %q: %w", addr, err)
	}
	ap := tcp.AddrPort()
	if host == "" {
		return listenAddr{AddrPort: netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())}, nil
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	// "[::]:80" asks for IPv6 by name, "" for everything.
	return listenAddr{AddrPort: ap, v6only: ap.Addr().Is6() && !strings.Contains(host, ".")}, nil
}

// listenOn opens the listeners for the i-th address, or takes those that are there.
func listenOn(loops []*loop, i int, a listenAddr) (Addr, error) {
	switch {
	case a.given != nil:
		return a.given[0].addr, adopt(loops, a.given)
	case a.path != "":
		return listenUnix(loops, a.path)
	case loops[0].o.Placement == Reuseport:
		b, err := listenAll(loops, a)
		return TCPAddr(b), err
	}
	// One loop accepts, another one for the next address.
	l := loops[i%len(loops)]
	b, err := listenAll([]*loop{l}, a)
	if err == nil {
		l.listeners[len(l.listeners)-1].dealt = true
	}
	return TCPAddr(b), err
}

// listenAll opens a listener on a for each loop; they share the port that the
// first one got.
func listenAll(loops []*loop, a listenAddr) (netip.AddrPort, error) {
	shared := len(loops) > 1
	if shared && a.Port() != 0 {
		// With SO_REUSEPORT a second server on the address would quietly get half
		// of its connections. A bind without it says that the address is taken.
		fd, err := loops[0].r.ListenTCP(a.AddrPort, 1, false, a.v6only)
		if errors.Is(err, unix.EAFNOSUPPORT) && a.Addr() == netip.IPv6Unspecified() && !a.v6only {
			a.AddrPort = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
			fd, err = loops[0].r.ListenTCP(a.AddrPort, 1, false, false)
		}
		if err != nil {
			return a.AddrPort, &OpError{Op: "listen", Addr: TCPAddr(a.AddrPort), Err: explainListen(err)}
		}
		_ = loops[0].r.CloseFd(fd)
	}
	for _, l := range loops {
		bound, err := l.listen(a.AddrPort, shared, a.v6only)
		if errors.Is(err, unix.EAFNOSUPPORT) && a.Addr() == netip.IPv6Unspecified() && !a.v6only {
			// A machine without IPv6: every address is every IPv4 address.
			bound, err = l.listen(netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()), shared, false)
		}
		if err != nil {
			return bound, err
		}
		a.AddrPort = bound
	}
	return a.AddrPort, nil
}

// describe says what a ring runs on.
func describe(r *ring.Ring) EngineInfo {
	info := EngineInfo{Kind: r.Engine(), Features: r.Features(), Reason: "io_uring is allowed here"}
	if r.Engine() != ring.Uring {
		info.Reason = "as chosen"
		if why := r.Reason(); why != nil {
			info.Reason = "io_uring cannot be had: " + why.Error()
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		info.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return info
}

// Addrs are the addresses that the server listens on, with the ports it got, in
// the order of Start.
func (s *Server) Addrs() []Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Addr(nil), s.addrs...)
}

// PacketAddrs are the addresses that the server receives datagrams on, with the ports
// it got: those of Start with "udp:", in their order.
func (s *Server) PacketAddrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]netip.AddrPort(nil), s.udp...)
}

// Engine says what the loops run on, once the server is started.
func (s *Server) Engine() EngineInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Wait blocks until the server has ended; see ListenAndServe.
func (s *Server) Wait() error {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended == nil {
		return errors.New("ringnet: the server has not been started")
	}
	<-ended
	if err := s.leftovers(); err != nil {
		return err
	}
	return ErrServerClosed
}

// leftovers joins what went wrong at the ends of the loops.
func (s *Server) leftovers() error {
	var errs []error
	for _, l := range s.loops {
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}

// Shutdown ends the server in good order: it stops accepting, tells handlers
// (ShutdownHandler) or closes their connections, lets written output go out, and
// returns when all is closed. When ctx ends first, what is left is cut and ctx's
// error returned. Afterwards nothing is in flight, every buffer is home and every
// descriptor closed; an error says if that is not so. Work that was given to Offload
// and still runs is waited for, too, until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.endWith(ctx, (*loop).drain) }

// endWith ends the server in one of the orderly ways, or cuts it when ctx ends first.
func (s *Server) endWith(ctx context.Context, how func(*loop)) error {
	ended, err := s.tell(how)
	if err != nil {
		return err
	}
	s.logger().Info("ringnet: draining")
	select {
	case <-ended:
		return errors.Join(s.leftovers(), s.crew.wait(ctx))
	case <-ctx.Done():
	}
	s.logger().Warn("ringnet: cutting the connections that have not ended in time", "err", context.Cause(ctx))
	if _, err := s.tell((*loop).cut); err != nil {
		return err
	}
	<-ended
	return errors.Join(ctx.Err(), s.leftovers())
}

// Close ends the server at once: connections are cut and what they had not sent is
// dropped. OnClose is called for each.
func (s *Server) Close() error {
	ended, err := s.tell((*loop).cut)
	if err != nil {
		return err
	}
	<-ended
	return s.leftovers()
}

// logger is where events go.
func (s *Server) logger() *slog.Logger {
	if s.Logger != nil {
		return s.Logger
	}
	return slog.Default()
}

// tell posts f to every loop that still runs.
func (s *Server) tell(f func(*loop)) (ended chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == serverNew {
		return nil, errors.New("ringnet: the server has not been started")
	}
	s.state = serverClosing
	for _, l := range s.loops {
		_ = l.mail.demand(letter{what: func() { f(l) }}) // an error: it has ended already
	}
	return s.ended, nil
}

// Stats sums the counters of all loops. It waits for each loop to finish its turn.
func (s *Server) Stats() Stats {
	var sum Stats
	for _, st := range s.LoopStats() {
		sum.add(&st)
	}
	return sum
}

// LoopStats are the counters of each loop.
func (s *Server) LoopStats() []Stats {
	s.mu.Lock()
	loops := s.loops
	s.mu.Unlock()
	all := make([]Stats, len(loops))
	for i, l := range loops {
		answer := make(chan Stats, 1)
		if err := l.mail.demand(letter{what: func() { answer <- l.snapshot() }}); err == nil {
			all[i] = <-answer
			continue
		}
		<-l.done
		all[i] = l.final
	}
	return all
}
