//go:build linux

package net

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// listeners opens n std listeners on one address.
func listeners(t *testing.T, n int) (all []*stdnet.TCPListener) {
	t.Helper()
	config := stdnet.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	addr := "127.0.0.1:0"
	for range n {
		ln, err := config.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		addr = ln.Addr().String()
		all = append(all, ln.(*stdnet.TCPListener))
	}
	return all
}

// serveListeners is serve for listeners that are there already.
func serveListeners(t *testing.T, o Options, s script, listeners ...syscall.Conn) *server {
	t.Helper()
	w := newWitness(t, s)
	srv := &server{t: t, w: w, log: &logbook{}, before: footprintNow(t)}
	srv.Server = &Server{Handler: w.handler(), Options: o}
	srv.Logger = srv.log.logger()
	if err := srv.StartListeners(listeners...); err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(srv.stop)
	return srv
}

// Whatever the numbers of listeners and of loops, every listener is accepted from,
// and every loop gets connections.
func TestInheritedListenersAreDividedAmongLoops(t *testing.T) {
	for _, engine := range []ring.EngineKind{ring.Auto, ring.Epoll} {
		for _, o := range []Options{{Loops: 1}, {Loops: 2}, {Loops: 3}, {Loops: 3, Placement: LeastConnections}, {Loops: 2, MaxConns: 1000}} {
			for n := 1; n <= 5; n++ {
				if testing.Short() && n%2 == 0 {
					continue
				}
				t.Run(fmt.Sprintf("%v %d loops %v limit %d %d listeners", engine, o.Loops, o.Placement, o.MaxConns, n), func(t *testing.T) {
					o.Engine, o.poison = engine, true
					var given []syscall.Conn
					lns := listeners(t, n)
					for _, ln := range lns {
						given = append(given, ln)
					}
					srv := serveListeners(t, o, echoLease(t), given...)
					if got := srv.Addrs(); len(got) != 1 || got[0].String() != lns[0].Addr().String() {
						t.Errorf("the addresses are %v, want %v", got, lns[0].Addr())
					}
					for i := range 60 {
						wantEcho(t, srv.dial(), payload(uint64(i), 100))
					}
					// By hash among 2 to 5 listeners: that one of them gets none of 60
					// has a chance below 1 in 100,000.
					if got := srv.spread(); slices.Min(got) == 0 {
						t.Errorf("60 connections are on the loops as %v", got)
					}
					if err := srv.shutdown(); err != nil {
						t.Error(err)
					}
					// The caller's are its own, and as they were.
					c, err := stdnet.Dial("tcp", lns[0].Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					_ = c.Close()
				})
			}
		}
	}
}

// A descriptor, an *os.File and a Unix listener serve as well, and addresses beside
// them.
func TestListenersOfManyKinds(t *testing.T) {
	for _, engine := range []ring.EngineKind{ring.Auto, ring.Epoll} {
		t.Run(fmt.Sprint(engine), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "socket")
			ul, err := stdnet.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ul.Close() })
			f, err := listeners(t, 1)[0].File()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			srv := serveListeners(t, Options{Loops: 2, Engine: engine, poison: true}, echoWrite(t), f, ul.(*stdnet.UnixListener))
			if got := srv.Addrs(); len(got) != 2 || got[1] != UnixAddr(path) {
				t.Fatalf("the addresses are %v", got)
			}
			for i := range 6 {
				for _, a := range srv.Addrs() {
					c, err := stdnet.Dial(a.Network(), strings.TrimPrefix(a.String(), unixPrefix))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					wantEcho(t, c, payload(uint64(i), 1000))
				}
			}
			if err := srv.shutdown(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the file of somebody else's listener: %v", err)
			}

			// By number: it is the server's once it has started, and closed then.
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				t.Fatal(err)
			}
			owned := &Server{Handler: bare{}, Options: Options{Loops: 2, Engine: engine, poison: true, Logger: srv.log.logger()}}
			if err := owned.Start("127.0.0.1:0", fmt.Sprintf("fd:%d", fd)); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
				t.Errorf("descriptor %d after the start: %v, want EBADF", fd, err)
			}
			for _, a := range owned.Addrs() {
				wantEcho(t, dialTo(t, a), payload(9, 1000))
			}
			if err := owned.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestListenersThatCannotBeInherited(t *testing.T) {
	good := listeners(t, 1)[0]
	f, err := good.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	open := func(family, kind int) int {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := stdnet.Dial("tcp", good.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	closed := listeners(t, 1)[0]
	_ = closed.Close()
	fd := func(n any) string { return fmt.Sprintf("fd:%d", n) }
	cases := []struct {
		name  string
		addrs []string
		given []syscall.Conn
		says  []string
	}{
		{name: "no number", addrs: []string{"fd:"}, says: []string{`"fd:"`, `"fd:3"`, `"fd:3-6"`}},
		{name: "no number at all", addrs: []string{"fd:three"}, says: []string{`"fd:three"`, `"fd:3"`}},
		{name: "negative", addrs: []string{"fd:-1"}, says: []string{`"fd:-1"`, `"fd:3"`}},
		{name: "backwards", addrs: []string{"fd:6-3"}, says: []string{`"fd:6-3"`}},
		{name: "huge", addrs: []string{"fd:99999999999999999999"}, says: []string{"fd:9999"}},
		{name: "wide", addrs: []string{"fd:3-99999999"}, says: []string{"fd:3-9999"}},
		{name: "not open", addrs: []string{"fd:99999"}, says: []string{"descriptor 99999", "is not open", "ExtraFiles"}},
		{name: "some not open", addrs: []string{fmt.Sprintf("fd:%d-99999", f.Fd())}, says: []string{"descriptor "}},
		{name: "a file", addrs: []string{fd(file.Fd())}, says: []string{"is not a socket"}},
		{name: "UDP", addrs: []string{fd(open(unix.AF_INET, unix.SOCK_DGRAM))}, says: []string{"not a stream socket", "ListenStream="}},
		{name: "not listening", addrs: []string{fd(open(unix.AF_INET6, unix.SOCK_STREAM))}, says: []string{"does not listen", "Accept=no"}},
		{name: "Unix, not listening", addrs: []string{fd(open(unix.AF_UNIX, unix.SOCK_STREAM))}, says: []string{"does not listen"}},
		{name: "sequenced packets", addrs: []string{fd(open(unix.AF_UNIX, unix.SOCK_SEQPACKET))}, says: []string{"not a stream socket"}},
		{name: "a connection", given: []syscall.Conn{good, conn.(*stdnet.TCPConn)}, says: []string{"listener 1", "TCPConn", "does not listen"}},
		{name: "twice", addrs: []string{fd(f.Fd()), fd(f.Fd())}, says: []string{"given twice"}},
		{name: "nil", given: []syscall.Conn{nil}, says: []string{"listener 0", "nil"}},
		{name: "closed", given: []syscall.Conn{good, closed}, says: []string{"listener 1", "closed"}},
		{name: "with one that cannot be", addrs: []string{fd(f.Fd()), "192.0.2.1:0"}, says: []string{"192.0.2.1"}},
		{name: "not by systemd", addrs: []string{"systemd:http"}, says: []string{`"systemd:http"`, "LISTEN_FDS", "systemd-socket-activate"}},
	}
	for _, cs := range cases {
		for _, loops := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d", cs.name, loops), func(t *testing.T) {
				srv := &Server{Handler: Events{}, Options: Options{Loops: loops}}
				before := footprintNow(t)
				var err error
				if cs.given != nil {
					err = srv.StartListeners(cs.given...)
				} else {
					err = srv.Start(cs.addrs...)
				}
				if err == nil {
					_ = srv.Close()
					t.Fatal("the server started")
				}
				before.check(t) // what was given is open as before
				for _, part := range cs.says {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the error does not say %q: %v", part, err)
					}
				}
			})
		}
	}
	if err := (&Server{Handler: Events{}}).StartListeners(); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("no listeners: %v", err)
	}
}

func TestWhatSystemdSaysIsChecked(t *testing.T) {
	pid := os.Getpid()
	cases := []struct {
		name            string
		pid, fds, names string
		says            []string
	}{
		{name: "nothing", says: []string{"not set", "socket unit"}},
		{name: "no pid", fds: "1", says: []string{"not set"}},
		{name: "no number", pid: fmt.Sprint(pid), says: []string{"not set"}},
		{name: "another process", pid: "1", fds: "1", says: []string{`LISTEN_PID is "1"`, fmt.Sprint(pid), "exec"}},
		{name: "no process", pid: "x", fds: "1", says: []string{`LISTEN_PID is "x"`}},
		{name: "none", pid: fmt.Sprint(pid), fds: "0", says: []string{`LISTEN_FDS is "0"`}},
		{name: "negative", pid: fmt.Sprint(pid), fds: "-3", says: []string{`LISTEN_FDS is "-3"`}},
		{name: "too many", pid: fmt.Sprint(pid), fds: "99999999", says: []string{"LISTEN_FDS"}},
		{name: "too few names", pid: fmt.Sprint(pid), fds: "2", names: "one", says: []string{`LISTEN_FDNAMES is "one"`, "2 names"}},
		{name: "too many names", pid: fmt.Sprint(pid), fds: "1", names: "a:b", says: []string{`LISTEN_FDNAMES is "a:b"`}},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			t.Setenv("LISTEN_PID", cs.pid)
			t.Setenv("LISTEN_FDS", cs.fds)
			t.Setenv("LISTEN_FDNAMES", cs.names)
			all, err := receivePassed(pid)
			if err == nil {
				t.Fatalf("%d sockets were passed", len(all))
			}
			for _, part := range cs.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
			if _, set := os.LookupEnv("LISTEN_FDS"); set {
				t.Error("LISTEN_FDS is still set")
			}
		})
	}
}

func init() { children["activated"] = serveActivated }

// serveActivated serves what systemd has passed until its input ends.
func serveActivated() error {
	fail := func(addr, says string) error {
		srv := &Server{Handler: bare{}}
		err := srv.Start(addr)
		if err == nil || !strings.Contains(err.Error(), says) {
			return fmt.Errorf("start on %s: %v: want %q", addr, err, says)
		}
		return nil
	}
	http, rest := &Server{Handler: bare{}, Options: Options{Loops: 2}}, &Server{Handler: bare{}, Options: Options{Loops: 2}}
	if err := errors.Join(fail("systemd:nothing", `"http"`), fail("systemd:datagrams", "not a stream socket"),
		fail("systemd:", "not a stream socket"), http.Start("systemd:http"), fail("systemd:http", "another server"),
		rest.Start("127.0.0.1:0", "systemd:admin")); err != nil {
		return err
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") {
			return fmt.Errorf("a child would see %s", v)
		}
	}
	for fd := 3; fd < 7; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd == 6 && (err != nil || flags&unix.FD_CLOEXEC == 0) {
			return fmt.Errorf("descriptor %d: %v, flags %x", fd, err, flags)
		}
	}
	for _, a := range append(http.Addrs(), rest.Addrs()...) {
		fmt.Println(a)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return errors.Join(http.Shutdown(context.Background()), rest.Shutdown(context.Background()))
}

func TestSystemdSocketActivation(t *testing.T) {
	lns := listeners(t, 2)
	lns = append(lns, listeners(t, 1)...)
	datagrams, err := stdnet.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	cmd := child(t, "activated", "LISTEN_FDS=4", "LISTEN_FDNAMES=http:http:admin:datagrams")
	// LISTEN_PID is the program's own, which a shell can tell before it becomes it.
	cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0"`, cmd.Path}
	if cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	for _, ln := range lns {
		f, err := ln.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	f, err := datagrams.(*stdnet.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	var addrs []string
	for range 3 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err, cmd.Wait())
		}
		addrs = append(addrs, strings.TrimSpace(line))
	}
	if addrs[0] != lns[0].Addr().String() || addrs[2] != lns[2].Addr().String() {
		t.Errorf("it serves on %v", addrs)
	}
	for i, a := range addrs {
		for range 10 {
			c, err := stdnet.DialTimeout("tcp", a, patience)
			if err != nil {
				t.Fatal(err)
			}
			wantEcho(t, c, payload(uint64(i), 1000))
			_ = c.Close()
		}
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// logger logs into the book.
func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
