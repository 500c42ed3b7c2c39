//go:build linux

package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	stdnet "net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/forbid"
	"example.com/ringnet/internal/leak"
	"example.com/ringnet/ring"
)

// The suite runs the same tests over every way in which a server can be set up.
// What stands behind the queues comes from Options alone, and the peers are std
// connections, so a test says nothing about how the server does its work.

// variant is one way to set a server up.
type variant struct {
	name string
	Options

	// slow says that every byte costs this variant much more than others: tests
	// send it less.
	slow bool

	// alike says that it asks nothing of the kernel that another variant does not.
	// Under -short, which is for other kernels, it is left out.
	alike bool

	// setup says that what it asks beyond others is how a ring is set up, woken or
	// waited for, or how connections are accepted. Under -short the tests that name
	// it run over it, and of the others those in setupTests.
	setup bool
}

// setupTests open and end connections, wait, and move bytes in every way.
var setupTests = []string{"TestEchoIsByteExactFromOneByteToFourMegabytes", "TestManyConnectionsAtOnce", "TestThousandsOfShortConnections",
	"TestPeerEndsItsDirectionAndReadsTheRest", "TestShutdownWhileClientsComeAndGo", "TestPacketsAreEchoed"}

// leftOut says why a test that names no variants does not run over v; "": it does.
func (v variant) leftOut(test string) string {
	switch {
	case !testing.Short():
		return ""
	case v.alike:
		return "asks nothing of the kernel that other variants do not"
	case v.setup && !slices.Contains(setupTests, test):
		return "run by some tests: asks nothing more of the kernel than how a ring is set up, or connections are accepted"
	}
	return ""
}

// TestVariantsOfShortRuns says what variants they leave out, and why.
func TestVariantsOfShortRuns(t *testing.T) {
	for _, v := range variants {
		if why := v.leftOut(""); why != "" {
			t.Run(v.name, func(t *testing.T) { t.Skip(why) })
		}
	}
}

// variants are all of them. Options.poison is on in all but one, so that bytes
// used after their release show as garbage.
var variants = []variant{
	{name: "default", Options: Options{Loops: 1}},
	{name: "poisoned", Options: Options{Loops: 1, poison: true}, alike: true},
	{name: "epoll", Options: Options{Loops: 1, Engine: ring.Epoll, poison: true}},
	{name: "epoll no features", Options: Options{Loops: 1, Engine: ring.Epoll, Mask: maskAll, poison: true}, alike: true},
	{name: "epoll queues of 1 and 2", Options: Options{Loops: 1, Engine: ring.Epoll, EntryCount: 1, CompletionCount: 2, poison: true}, alike: true},
	{name: "loops", Options: Options{Loops: 3, poison: true}},
	{name: "loops round robin", Options: Options{Loops: 3, Placement: RoundRobin, poison: true}, setup: true},
	{name: "loops least connections", Options: Options{Loops: 3, Placement: LeastConnections, MaxConns: 1 << 20, poison: true}, setup: true},
	{name: "limited", Options: Options{Loops: 1, MaxConns: 1 << 20, poison: true}, setup: true},
	{name: "epoll limited", Options: Options{Loops: 2, Engine: ring.Epoll, MaxConns: 1 << 20, poison: true}, alike: true},
	{name: "no recv multishot", Options: Options{Loops: 1, Mask: ring.RecvMultishot, poison: true}},
	{name: "no accept multishot", Options: Options{Loops: 1, Mask: ring.AcceptMultishot, poison: true}, setup: true},
	{name: "no poll multishot", Options: Options{Loops: 1, Mask: ring.PollMultishot, poison: true}, setup: true},
	{name: "no entry array off", Options: Options{Loops: 1, Mask: ring.NoEntryArray, poison: true}, setup: true},
	{name: "no defer taskrun", Options: Options{Loops: 1, Mask: ring.DeferTaskrun, poison: true}, setup: true},
	// Two that have nothing to do with each other.
	{name: "no sync message", Options: Options{Loops: 1, Mask: ring.SyncMessage | ring.RecvMultishotReset, poison: true}, setup: true},
	{name: "no registered ring", Options: Options{Loops: 1, Mask: ring.RegisteredRing, poison: true}, setup: true},
	{name: "no features", Options: Options{Loops: 1, Mask: maskAll, poison: true}},
	{name: "no bulk", Options: Options{Loops: 1, NoBulk: true, poison: true}},
	{name: "no spin", Options: Options{Loops: 1, Spin: -1, poison: true}, alike: true},
	{name: "one large buffer", Options: Options{Loops: 1, BulkBufs: 1, BulkBufBytes: 4096, poison: true}, alike: true},
	{name: "low water marks", Options: Options{Loops: 1, HighWater: 5000, LowWater: 100, poison: true}, alike: true},
	{name: "small buffers", Options: Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64, poison: true}},
	{name: "small buffers no bulk", Options: Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64, NoBulk: true, poison: true}, slow: true, alike: true},
	{name: "queues of 1 and 2", Options: Options{Loops: 1, EntryCount: 1, CompletionCount: 2, poison: true}},
	{name: "queues of 2 and 4", Options: Options{Loops: 1, EntryCount: 2, CompletionCount: 4, poison: true}, alike: true},
	{name: "all small", Options: Options{Loops: 1, EntryCount: 1, CompletionCount: 2, RecvBufs: 4, RecvBufBytes: 64,
		NoBulk: true, BulkBufs: 1, BulkBufBytes: 4096, Mask: maskAll, poison: true}, slow: true, setup: true},
}

// overUnixSockets are variants in which the server listens on a Unix socket, and
// its peers connect to that.
var overUnixSockets = []variant{
	{name: "unix", Options: Options{Loops: 1, poison: true}},
	{name: "unix loops", Options: Options{Loops: 3, poison: true}, setup: true},
	{name: "unix epoll", Options: Options{Loops: 1, Engine: ring.Epoll, poison: true}, alike: true},
	{name: "unix no features", Options: Options{Loops: 1, Mask: maskAll, poison: true}},
	{name: "unix small buffers", Options: Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64, poison: true}, alike: true},
	{name: "unix queues of 1 and 2", Options: Options{Loops: 1, EntryCount: 1, CompletionCount: 2, poison: true}, alike: true},
}

func init() { variants = append(variants, overUnixSockets...) }

// maskAll is every feature that a server can do without.
const maskAll = ring.AllFeatures &^ ring.BufferRings

// overVariants runs a test once for each variant, or for those that are named.
func overVariants(t *testing.T, test func(t *testing.T, v variant), names ...string) {
	for _, name := range names {
		if !slices.ContainsFunc(variants, func(v variant) bool { return v.name == name }) {
			t.Fatalf("there is no variant %q", name)
		}
	}
	for _, v := range variants {
		if len(names) == 0 && v.leftOut(t.Name()) == "" || slices.Contains(names, v.name) && !(v.alike && testing.Short()) {
			t.Run(v.name, func(t *testing.T) { test(t, v) })
		}
	}
}

// modes are the two ways to receive, for tests that differ by nothing else.
var modes = []struct {
	name string
	Options
	bulk bool // bring the connection into bulk first, see server.toBulk
}{
	{name: "small", Options: Options{Loops: 1, NoBulk: true, poison: true}},
	{name: "bulk", Options: Options{Loops: 1, poison: true}, bulk: true},
}

// needUring skips a test that is about io_uring where that cannot be had, as in
// the child that runs this suite without it.
func needUring(t *testing.T) {
	t.Helper()
	if err := ring.Have(ring.BufferRings); errors.Is(err, ring.ErrNotSupported) {
		t.Skipf("needs io_uring: %v", err)
	}
}

// sameOnEveryKernel skips a test under -short.
func sameOnEveryKernel(t *testing.T, what string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("short: %s on every kernel", what)
	}
}

// few is n, which says how much or how often, or an eighth of it under -short: an
// emulated kernel (kernels/run) is asked whether it does a thing, not for how long.
func few(n int) int {
	if testing.Short() {
		return max(min(n, 2), n/8)
	}
	return n
}

// patience is how long any one event may take. It is met only by failures, so it
// allows for a loaded machine, the race detector and GOGC=1.
var patience = 10 * time.Second

// patienceVariable sets another one. The tests that internal/planted runs wait in
// vain, as a rule.
const patienceVariable = "RINGNET_TEST_PATIENCE"

func init() {
	if v := os.Getenv(patienceVariable); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			panic(err)
		}
		patience = d
	}
}

// TestMain is also the entry of the children that some tests start: those that
// change what holds for a whole process.
func TestMain(m *testing.M) {
	forbid.Again()
	// The poller of the Go runtime opens its descriptors on first use.
	if ln, err := stdnet.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = ln.Close()
	}
	if name := os.Getenv(childVariable); name != "" {
		f := children[name]
		if f == nil {
			fmt.Fprintf(os.Stderr, "there is no child %q\n", name)
			os.Exit(2)
		}
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const childVariable = "RINGNET_TEST_CHILD"

// children are the functions that a child process can run.
var children = map[string]func() error{}

// child prepares a run of children[name] in a process of its own.
func child(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(append(os.Environ(), childVariable+"="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// runChild runs a child to its end and returns what it printed.
func runChild(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := child(t, name, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})()
	if err := cmd.Run(); err != nil {
		t.Fatalf("child %s: %v\n%s%s", name, err, out.String(), errs.String())
	}
	return out.String()
}

// script is a handler made of functions; nil ones do what Events does.
type script struct {
	open     func(c *Conn)
	data     func(c *Conn, b []byte) int
	eof      func(c *Conn)
	writable func(c *Conn)
	shutdown func(c *Conn)
	close    func(c *Conn, err error)
}

// witness stands between the loops and a script, and holds every callback to the
// rules that Handler states.
type witness struct {
	t      testing.TB
	script script

	// causes gets what each OnClose was told, in order.
	causes chan error

	mu      sync.Mutex
	lives   map[*Conn]*life
	running map[int]*Conn // per loop: whose callback runs
	threads map[int]int   // per loop: its thread
	opened  int
	closed  int
}

// life is what a witness has seen of a connection.
type life struct{ eof, closed bool }

func newWitness(t testing.TB, s script) *witness {
	return &witness{t: t, script: s, causes: make(chan error, 1<<14), lives: map[*Conn]*life{}, running: map[int]*Conn{}, threads: map[int]int{}}
}

// enter checks that a callback may come now.
func (w *witness) enter(c *Conn, callback string) {
	thread := unix.Gettid()
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.threads[c.Loop()]; !ok {
		w.threads[c.Loop()] = thread
	} else if known != thread {
		w.t.Errorf("%s runs on thread %d: loop %d is thread %d", callback, thread, c.Loop(), known)
	}
	if other := w.running[c.Loop()]; other != nil {
		w.t.Errorf("%s is called within a callback of the same loop (of the same connection: %v)", callback, other == c)
	}
	w.running[c.Loop()] = c
	l := w.lives[c]
	switch {
	case callback == "OnOpen":
		if l != nil {
			w.t.Error("OnOpen is called twice")
		}
		w.lives[c] = &life{}
		w.opened++
		return
	case l == nil:
		w.t.Errorf("%s is called before OnOpen", callback)
		return
	case l.closed:
		w.t.Errorf("%s is called after OnClose", callback)
	case callback == "OnData" && l.eof:
		w.t.Error("OnData is called after OnEOF")
	case callback == "OnEOF" && l.eof:
		w.t.Error("OnEOF is called twice")
	}
	switch callback {
	case "OnEOF":
		l.eof = true
	case "OnClose":
		l.closed = true
		w.closed++
	}
}

func (w *witness) leave(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[c.Loop()] = nil
}

func (w *witness) OnOpen(c *Conn) {
	w.enter(c, "OnOpen")
	defer w.leave(c)
	if w.script.open != nil {
		w.script.open(c)
	}
}

func (w *witness) OnData(c *Conn, b []byte) int {
	w.enter(c, "OnData")
	defer w.leave(c)
	if len(b) == 0 {
		w.t.Error("OnData is lent no bytes")
	}
	if w.script.data != nil {
		return w.script.data(c, b)
	}
	return len(b)
}

func (w *witness) OnClose(c *Conn, err error) {
	w.enter(c, "OnClose")
	defer func() { w.causes <- err }()
	defer w.leave(c)
	if w.script.close != nil {
		w.script.close(c, err)
	}
}

// The optional parts of a handler. A server looks for them by type, so a witness
// has those that its script has.
type (
	eofPart      struct{ w *witness }
	writablePart struct{ w *witness }
	shutdownPart struct{ w *witness }
)

func (p eofPart) OnEOF(c *Conn) {
	p.w.enter(c, "OnEOF")
	defer p.w.leave(c)
	p.w.script.eof(c)
}

func (p writablePart) OnWritable(c *Conn) {
	p.w.enter(c, "OnWritable")
	defer p.w.leave(c)
	p.w.script.writable(c)
}

func (p shutdownPart) OnShutdown(c *Conn) {
	p.w.enter(c, "OnShutdown")
	defer p.w.leave(c)
	p.w.script.shutdown(c)
}

func (w *witness) handler() Handler {
	e, wr, sd := eofPart{w}, writablePart{w}, shutdownPart{w}
	switch s := w.script; {
	case s.eof != nil && s.writable != nil && s.shutdown != nil:
		return struct {
			*witness
			eofPart
			writablePart
			shutdownPart
		}{w, e, wr, sd}
	case s.eof != nil && s.writable != nil:
		return struct {
			*witness
			eofPart
			writablePart
		}{w, e, wr}
	case s.eof != nil && s.shutdown != nil:
		return struct {
			*witness
			eofPart
			shutdownPart
		}{w, e, sd}
	case s.writable != nil && s.shutdown != nil:
		return struct {
			*witness
			writablePart
			shutdownPart
		}{w, wr, sd}
	case s.eof != nil:
		return struct {
			*witness
			eofPart
		}{w, e}
	case s.writable != nil:
		return struct {
			*witness
			writablePart
		}{w, wr}
	case s.shutdown != nil:
		return struct {
			*witness
			shutdownPart
		}{w, sd}
	}
	return w
}

// server is a running Server that a test looks after.
type server struct {
	*Server
	t      testing.TB
	w      *witness // nil when the handler is the test's own
	log    *logbook
	before footprint

	// held is how many leases the test keeps beyond the server's end.
	held    int
	checked bool

	// workers are allowed: it reads of a file system that cannot tell whether a read
	// would wait for a disk, and so leaves reads to them.
	workers bool
}

func (s *server) checkWorkers(when string) {
	s.t.Helper()
	if s.workers {
		threads.newWorkers(s.t) // they are not for others to find
		return
	}
	checkWorkers(s.t, when)
}

// serve starts a server on 127.0.0.1 that runs a script, and has it stopped and
// its invariants checked when the test ends.
func serve(t testing.TB, o Options, s script, addrs ...string) *server {
	t.Helper()
	w := newWitness(t, s)
	srv := serveHandler(t, o, w.handler(), addrs...)
	srv.w = w
	return srv
}

// serveHandler is serve for a handler of the test's own.
func serveHandler(t testing.TB, o Options, h Handler, addrs ...string) *server {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []string{"127.0.0.1:0"}
		if onUnix(t) {
			// An abstract name leaves no file behind.
			addrs[0] = fmt.Sprintf("unix:@ringnet-test-%d-%d", os.Getpid(), unixNames.Add(1))
		}
	}
	srv := &server{t: t, log: &logbook{}, before: footprintNow(t)}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(srv.log, nil))
	}
	srv.Server = &Server{Handler: h, Options: o}
	if err := srv.Start(addrs...); err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(srv.stop)
	return srv
}

var unixNames atomic.Int64

// stop ends the server and checks what must hold after every test.
func (s *server) stop() {
	s.t.Helper()
	if s.checked {
		return
	}
	s.checked = true
	t := s.t
	s.checkWorkers("while serving")
	for _, l := range s.loops {
		_ = l.mail.post(func() {
			if lost := l.r.Lost(); lost != 0 {
				t.Errorf("loop %d: %d completions or entries were lost", l.index, lost)
			}
		})
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience/2)
		defer cancel()
		ended <- s.Shutdown(ctx)
	}()
	select {
	case err := <-ended:
		if err != nil && s.held == 0 && !t.Failed() {
			t.Errorf("shutdown: %v", err)
		}
	case <-time.After(patience):
		t.Fatalf("the server did not end\n%s", stacks())
	}
	st := s.Stats()
	if st.InFlight != 0 || st.Connections != 0 || st.Stale != 0 || st.HeldBytes != 0 {
		t.Errorf("after the end: %d operations in flight, %d connections, %d stale completions, %d bytes held: want none", st.InFlight, st.Connections, st.Stale, st.HeldBytes)
	}
	if out := st.LeasesOut + st.CopiesOut; out != s.held {
		t.Errorf("after the end: %d receive buffers and %d large or copy buffers are out: want %d together", st.LeasesOut, st.CopiesOut, s.held)
	}
	if st.Accepted+st.Dialled != st.Closed || st.Dialling != 0 {
		t.Errorf("after the end: %d connections accepted, %d dialled, %d closed, %d are being made", st.Accepted, st.Dialled, st.Closed, st.Dialling)
	}
	if w := s.w; w != nil {
		w.mu.Lock()
		if w.opened != w.closed || uint64(w.opened)+st.TLSHandshakeErrors != st.Accepted+st.Dialled {
			t.Errorf("after the end: OnOpen was called %d times, OnClose %d times, for %d connections", w.opened, w.closed, st.Accepted+st.Dialled)
		}
		w.mu.Unlock()
	}
	s.before.check(t)
	s.checkWorkers("after the end")
	if t.Failed() {
		t.Logf("log:\n%s", s.log)
		t.Logf("stats: %+v", st)
	}
}

// addr is the server's first address.
func (s *server) addr() Addr { return s.Addrs()[0] }

// peerConn is std's end of a connection, TCP or Unix.
type peerConn interface {
	stdnet.Conn
	CloseRead() error
	CloseWrite() error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	SetLinger(seconds int) error
}

// unixPeer is a Unix peerConn.
type unixPeer struct{ *stdnet.UnixConn }

// SetLinger does nothing: no Unix socket has that.
func (unixPeer) SetLinger(int) error { return nil }

// onUnix reports that a test runs in a variant over Unix sockets.
func onUnix(t testing.TB) bool { return strings.Contains(t.Name(), "/unix") }

// needTCP skips a test that is about what Unix sockets have not.
func needTCP(t testing.TB, what string) {
	t.Helper()
	if onUnix(t) {
		t.Skipf("Unix sockets have no %s", what)
	}
}

// dial connects a client; the test's end closes it.
func (s *server) dial() peerConn {
	s.t.Helper()
	return dialTo(s.t, s.addr())
}

func dialTo(t testing.TB, addr Addr) peerConn {
	t.Helper()
	c, err := connect(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// connect is dialTo for other goroutines than the test's.
func connect(addr Addr) (peerConn, error) {
	where := addr.Path()
	if addr.Network() == "tcp" {
		where = addr.String()
	}
	c, err := stdnet.DialTimeout(addr.Network(), where, patience)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if u, ok := c.(*stdnet.UnixConn); ok {
		return unixPeer{u}, nil
	}
	return c.(peerConn), nil
}

// cause waits for an OnClose and returns what it was told.
func (s *server) cause() error {
	s.t.Helper()
	select {
	case err := <-s.w.causes:
		return err
	case <-time.After(patience):
		s.t.Fatalf("no OnClose within %v\n%s", patience, stacks())
		return nil
	}
}

// wantCause waits for an OnClose and holds it to a cause that matches want; nil
// stands for no error.
func (s *server) wantCause(want error) {
	s.t.Helper()
	if got := s.cause(); !errors.Is(got, want) {
		s.t.Errorf("OnClose was told %v, want %v", got, want)
	}
}

// onLoop runs f on a loop, as a callback would run, and waits for it.
func (s *server) onLoop(i int, f func(l *loop)) {
	s.t.Helper()
	l := s.loops[i]
	done := make(chan struct{})
	if err := l.mail.post(func() { defer close(done); f(l) }); err != nil {
		s.t.Fatalf("post to loop %d: %v", i, err)
	}
	await(s.t, done, "a function posted to a loop")
}

// conns are the open connections of a loop, in the order of their slots. On the
// loop's goroutine.
func (l *loop) testConns() []*Conn {
	var all []*Conn
	l.table.each(func(c *Conn) { all = append(all, c) })
	return all
}

// hold keeps a loop from doing anything until release is called.
func (s *server) hold(i int) (release func()) {
	s.t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	l := s.loops[i]
	if err := l.mail.post(func() { close(held); <-free }); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, held, "the loop to be held")
	return sync.OnceFunc(func() { close(free) })
}

// toBulk has a connection with an echo behind it receive in bulk.
func (s *server) toBulk(c stdnet.Conn) {
	s.t.Helper()
	before := s.Stats().ToBulk
	big := payload(99, 256<<10)
	for range 50 {
		if err := exchange(c, big); err != nil {
			s.t.Fatalf("on the way to bulk: %v", err)
		}
		if s.Stats().ToBulk > before {
			return
		}
	}
	s.t.Fatal("the connection does not go over to bulk")
}

// until polls for a state of the server that no event tells of.
func until(t testing.TB, what string, reached func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s\n%s", patience, what, stacks())
		}
		time.Sleep(time.Millisecond)
	}
}

// await waits for a channel to be closed or to give something.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("not within %v: %s\n%s", patience, what, stacks())
		panic("unreachable")
	}
}

// The two ways to echo.

// echoWrite copies what it gets.
func echoWrite(t testing.TB) script {
	return script{data: func(c *Conn, b []byte) int {
		if _, err := c.Write(b); err != nil {
			t.Errorf("write: %v", err)
		}
		return len(b)
	}}
}

// echoLease sends the buffer that it was lent.
func echoLease(t testing.TB) script {
	return script{data: func(c *Conn, b []byte) int {
		lease, err := c.Detach()
		if err != nil {
			t.Errorf("detach: %v", err)
			return len(b)
		}
		if err := c.Send(lease); err != nil {
			t.Errorf("send: %v", err)
		}
		return len(b)
	}}
}

var echoes = []struct {
	name string
	of   func(t testing.TB) script
}{
	{name: "write", of: echoWrite},
	{name: "lease", of: echoLease},
}

// payload is n bytes that look random and are the same for the same seed; those of
// a smaller n are the first of those of a larger one.
func payload(seed uint64, n int) []byte {
	b := make([]byte, n+7)
	x := seed*0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d
	for i := 0; i < n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b[:n]
}

// differ says where bytes are not what they should be.
func differ(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	n := min(len(got), len(want))
	for i := range n {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d of %d is %#02x, want %#02x (got %d bytes)", i, len(want), got[i], want[i], len(got))
		}
	}
	return fmt.Errorf("got %d bytes, want %d; those that are there are right", len(got), len(want))
}

// exchange sends p and wants it back.
func exchange(c stdnet.Conn, p []byte) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	written := make(chan error, 1)
	if len(p) <= 4096 {
		_, err := c.Write(p) // fits any socket's buffer
		written <- err
	} else {
		go func() {
			_, err := c.Write(p)
			written <- err
		}()
	}
	got := make([]byte, len(p))
	n, err := io.ReadFull(c, got)
	if err != nil {
		_ = c.SetDeadline(time.Now()) // ends the writer
		return errors.Join(fmt.Errorf("read %d of %d bytes: %w", n, len(p), err), <-written)
	}
	if err := <-written; err != nil {
		return err
	}
	return differ(got, p)
}

// wantEcho is exchange for the test's own goroutine.
func wantEcho(t testing.TB, c stdnet.Conn, p []byte) {
	t.Helper()
	if err := exchange(c, p); err != nil {
		t.Fatalf("echo of %d bytes: %v", len(p), err)
	}
}

// wantRead reads exactly want.
func wantRead(t testing.TB, c io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	if err := differ(got, want); err != nil {
		t.Fatal(err)
	}
}

// wantRest reads to the end of the stream and wants exactly want.
func wantRest(t testing.TB, c io.Reader, want []byte) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read to the end, after %d of %d bytes: %v", len(got), len(want), err)
	}
	if err := differ(got, want); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, c io.Writer, p []byte) {
	t.Helper()
	if _, err := c.Write(p); err != nil {
		t.Fatalf("write %d bytes: %v", len(p), err)
	}
}

// crowd runs f n times at once and joins what goes wrong.
func crowd(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() {
			if err := f(i); err != nil {
				err = fmt.Errorf("%d: %w", i, err)
				errs <- err
				return
			}
			errs <- nil
		}()
	}
	var first error
	failed := 0
	for range n {
		if err := <-errs; err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d failed, the first with %w", failed, n, first)
	}
	return first
}

// needSocketBuffers skips a test where a socket cannot be given a buffer of n bytes.
func needSocketBuffers(t testing.TB, n int) {
	t.Helper()
	for _, name := range []string{"rmem_max", "wmem_max"} {
		b, err := os.ReadFile("/proc/sys/net/core/" + name)
		if err != nil {
			continue // not told in here: the test will find out
		}
		if most, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && most < n {
			t.Skipf("net.core.%s is %d: set it to %d to run this", name, most, n)
		}
	}
}

// footprint is what a process has open.
type footprint struct {
	fds        map[string]string // number to what it is
	goroutines int
}

func footprintNow(t testing.TB) footprint {
	t.Helper()
	fds, err := leak.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	return footprint{fds: fds, goroutines: runtime.NumGoroutine()}
}

// check waits until nothing is open that was not open before.
func (f footprint) check(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		now := footprintNow(t)
		if maps.Equal(now.fds, f.fds) && now.goroutines <= f.goroutines {
			return
		}
		if time.Now().After(deadline) {
			for fd, target := range now.fds {
				if f.fds[fd] != target {
					t.Errorf("descriptor %s (%s) was not open before, or was %q", fd, target, f.fds[fd])
				}
			}
			for fd, target := range f.fds {
				if now.fds[fd] == "" {
					t.Errorf("descriptor %s (%s) was open before: something closed what was not its own", fd, target)
				}
			}
			if now.goroutines > f.goroutines {
				t.Errorf("%d goroutines, %d before\n%s", now.goroutines, f.goroutines, stacks())
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// checkWorkers wants no kernel's worker threads that serve this process's rings. There
// should never be one: an operation that one has to do costs more than a plain call,
// and there are few of them, so that operations wait for each other.
func checkWorkers(t testing.TB, when string) {
	t.Helper()
	for _, name := range threads.newWorkers(t) {
		t.Errorf("%s there is a kernel worker thread: %s", when, name)
	}
}

// threads are this process's.
var threads threadList

// threadList remembers what it knows of threads, since it is looked at for each
// server, and asking for all their names takes longer than many a test.
type threadList struct {
	mu    sync.Mutex
	looks map[string]int // at the name of each thread
}

// threadLooks is how often a thread is asked for its name: one that has just begun has
// that of the thread which made it.
const threadLooks = 3

// newWorkers are the worker threads that it has not told of. They live on for some
// seconds, and would fail tests that have nothing to do with them.
func (k *threadList) newWorkers(t testing.TB) (workers []string) {
	t.Helper()
	const dir = "/proc/self/task"
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	numbers, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	looks := make(map[string]int, len(numbers))
	for _, number := range numbers {
		n := k.looks[number]
		if n < threadLooks {
			b, err := os.ReadFile(filepath.Join(dir, number, "comm"))
			if err != nil {
				continue // it has ended
			}
			n++
			if name := strings.TrimSpace(string(b)); strings.HasPrefix(name, "iou-") {
				workers = append(workers, name)
				n = threadLooks
			}
		}
		looks[number] = n
	}
	k.looks = looks
	return workers
}

func stacks() string {
	b := make([]byte, 8<<10)
	return string(b[:runtime.Stack(b, true)])
}

// logbook collects what a server logs.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// probeIPv6 skips a test where there is no IPv6 loopback.
func probeIPv6(t *testing.T) {
	t.Helper()
	ln, err := stdnet.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback here: %v", err)
	}
	_ = ln.Close()
}
