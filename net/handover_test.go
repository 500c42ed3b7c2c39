//go:build linux

package net

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// The generations of a server: each is a process of its own, and starts the next one.

const generationVariable = "RINGNET_TEST_GENERATION"

// generations are their options, so that the number of loops and the way to accept
// differ from one to the next.
var generations = []Options{
	{Loops: 3}, {Loops: 2}, {Loops: 5}, {Loops: 1, MaxConns: 500}, {Loops: 4, Placement: LeastConnections},
	{Loops: 2, Engine: ring.Epoll}, {Loops: 3, Engine: ring.Epoll, MaxConns: 500}, {Loops: 3},
}

func init() { children["generation"] = serveGeneration }

// answers tells which generation it is, for each byte that comes.
type answers struct {
	Events
	b byte
}

func (h answers) OnData(c *Conn, b []byte) int {
	for range b {
		_, _ = c.Write([]byte{h.b})
	}
	return len(b)
}

// serveGeneration serves until it is told by a byte to start the next generation, and
// then its connections to their ends. It prints "ready", and the last one ends with
// its input.
func serveGeneration() error {
	n, err := strconv.Atoi(os.Getenv(generationVariable))
	if err != nil {
		return err
	}
	addr := os.Getenv("RINGNET_TEST_ADDR")
	srv := &Server{Handler: answers{b: byte('0' + n)}, Options: generations[n]}
	if err := srv.Start(addr); err != nil {
		return err
	}
	fmt.Println("ready", srv.Addrs()[0])
	var b [1]byte
	if _, err := os.Stdin.Read(b[:]); err != nil {
		return srv.Shutdown(context.Background())
	}
	files, err := srv.ListenerFiles()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	next := exec.Command(exe)
	next.Env = append(os.Environ(), fmt.Sprintf("%s=%d", generationVariable, n+1), fmt.Sprintf("RINGNET_TEST_ADDR=fd:3-%d", 2+len(files)))
	next.Stdin, next.Stderr, next.ExtraFiles = os.Stdin, os.Stderr, files
	out, err := next.StdoutPipe()
	if err != nil {
		return err
	}
	if err := next.Start(); err != nil {
		return err
	}
	closeFiles(files)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		return err
	}
	retired := make(chan error, 1)
	go func() { retired <- srv.Retire(context.Background()) }()
	fmt.Print(line)
	_, err = io.Copy(os.Stdout, lines)
	return errors.Join(err, next.Wait(), <-retired)
}

// A server is restarted again and again under load, by processes that inherit its
// listeners: no connection fails, and no request is lost.
func TestRestartLosesNothing(t *testing.T) {
	cmd := child(t, "generation", generationVariable+"=0", "RINGNET_TEST_ADDR=127.0.0.1:0")
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
	ready := func() string {
		t.Helper()
		line, err := lines.ReadString('\n')
		addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
		if err != nil || !ok {
			_ = in.Close()
			t.Fatalf("it says %q: %v, %v", line, err, cmd.Wait())
		}
		return addr
	}
	addr := ready()
	var stop atomic.Bool
	var all sync.WaitGroup
	var served [10]atomic.Int64
	for i := range 8 {
		all.Go(func() {
			for n := 0; !stop.Load() && !t.Failed(); n++ {
				c, err := stdnet.DialTimeout("tcp", addr, patience)
				if err != nil {
					t.Errorf("client %d: connection %d: %v", i, n, err)
					return
				}
				generation, err := requests(c, 1+(i+n)%5)
				if err != nil {
					t.Errorf("client %d: connection %d: %v", i, n, err)
				}
				served[generation].Add(1)
				_ = c.Close()
			}
		})
	}
	// And some that stay from the beginning to the end.
	var old []stdnet.Conn
	for range 4 {
		c, err := stdnet.DialTimeout("tcp", addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		old = append(old, c)
		if _, err := requests(c, 1); err != nil {
			t.Error(err)
		}
	}
	for g := 1; g < len(generations) && !t.Failed(); g++ {
		write(t, in, []byte("n"))
		if now := ready(); now != addr {
			t.Errorf("generation %d serves on %s, want %s", g, now, addr)
		}
		before := served[g].Load()
		until(t, fmt.Sprintf("generation %d to serve", g), func() bool { return t.Failed() || served[g].Load() > before+20 })
	}
	stop.Store(true)
	all.Wait()
	for _, c := range old {
		if g, err := requests(c, 3); err != nil || g != 0 {
			t.Errorf("a connection of generation 0 is served by %d: %v", g, err)
		}
		_ = c.Close()
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for g := range generations {
		t.Logf("generation %d has served %d connections", g, served[g].Load())
	}
}

// requests makes some requests, one after the other, and tells which generation
// answers them.
func requests(c stdnet.Conn, n int) (generation int, err error) {
	var b [1]byte
	for i := range n {
		if _, err := c.Write([]byte{'?'}); err != nil {
			return generation, fmt.Errorf("request %d: %w", i, err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return generation, fmt.Errorf("answer %d: %w", i, err)
		}
		g := int(b[0] - '0')
		if g >= len(generations) || i > 0 && g != generation {
			return 0, fmt.Errorf("answer %d is %q, the one before of generation %d", i, b, generation)
		}
		generation = g
	}
	return generation, nil
}

// overRetire are the ways to accept that end in different ways.
var overRetire = []struct {
	name string
	Options
}{
	{name: "default", Options: Options{Loops: 2}},
	{name: "round robin", Options: Options{Loops: 3, Placement: RoundRobin}},
	{name: "limited", Options: Options{Loops: 2, MaxConns: 100}},
	{name: "epoll", Options: Options{Loops: 2, Engine: ring.Epoll}},
	{name: "epoll limited", Options: Options{Loops: 2, Engine: ring.Epoll, MaxConns: 100}},
	{name: "no features", Options: Options{Loops: 2, Mask: maskAll}},
	{name: "queues of 1 and 2", Options: Options{Loops: 2, EntryCount: 1, CompletionCount: 2}},
}

// A server that retires serves what it has to the end, tells its handlers, and
// accepts nothing more.
func TestRetireServesConnectionsToTheirEnd(t *testing.T) {
	for _, cs := range overRetire {
		for _, tells := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", cs.name, tells), func(t *testing.T) {
				o := cs.Options
				o.poison = true
				s := echoWrite(t)
				var told atomic.Int64
				if tells {
					s.shutdown = func(*Conn) { told.Add(1) }
				}
				srv := serve(t, o, s)
				var conns []peerConn
				for i := range 5 {
					c := srv.dial()
					conns = append(conns, c)
					wantEcho(t, c, payload(uint64(i), 1000))
				}
				retired := make(chan error, 1)
				go func() { retired <- srv.Retire(t.Context()) }()
				until(t, "the listeners to be closed", func() bool {
					c, err := stdnet.DialTimeout("tcp", srv.addr().String(), patience)
					if err == nil {
						_ = c.Close()
					}
					return errors.Is(err, unix.ECONNREFUSED)
				})
				if files, err := srv.ListenerFiles(); err == nil {
					closeFiles(files)
					t.Error("a server that has retired has listeners")
				}
				for i, c := range conns {
					wantEcho(t, c, payload(uint64(i), 100_000))
				}
				if n := told.Load(); tells && n < 5 {
					t.Errorf("%d handlers were told", n)
				}
				select {
				case err := <-retired:
					t.Fatalf("it has ended, with open connections: %v", err)
				default:
				}
				for _, c := range conns {
					_ = c.Close()
				}
				if err := await(t, retired, "the end"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Retire may be followed by the stricter ways to end.
func TestEndsThatFollowRetire(t *testing.T) {
	for _, cs := range overRetire {
		for _, end := range []string{"context", "shutdown", "close"} {
			t.Run(cs.name+" "+end, func(t *testing.T) {
				o := cs.Options
				o.poison = true
				srv := serve(t, o, echoWrite(t))
				c := srv.dial()
				wantEcho(t, c, payload(1, 1000))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				retired := make(chan error, 1)
				go func() { retired <- srv.Retire(ctx) }()
				until(t, "the server to retire", func() bool {
					n := 0
					for _, l := range srv.loops {
						done := make(chan bool, 1)
						if l.mail.post(func() { done <- l.retiring }) != nil || <-done {
							n++
						}
					}
					return n == len(srv.loops)
				})
				var want error
				switch end {
				case "context":
					cancel()
					want = context.Canceled
				case "shutdown":
					if err := srv.shutdown(); err != nil {
						t.Error(err)
					}
				case "close":
					if err := srv.Close(); err != nil {
						t.Error(err)
					}
				}
				if err := await(t, retired, "the end"); !errors.Is(err, want) {
					t.Errorf("Retire answers %v, want %v", err, want)
				}
				srv.wantCause(ErrServerClosed)
			})
		}
	}
}

// What waits in the backlogs when a server retires is served, by it or by whoever has
// the listeners.
func TestBacklogOfARetiringServer(t *testing.T) {
	for _, cs := range overRetire {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.poison = true
			srv := serve(t, o, echoWrite(t))
			files, err := srv.ListenerFiles()
			if err != nil {
				t.Fatal(err)
			}
			want := o.Loops
			if o.Placement != Reuseport {
				want = 1
			}
			if len(files) != want {
				t.Errorf("%d files, want %d", len(files), want)
			}
			next := &Server{Handler: bare{}, Options: Options{Loops: 3, poison: true, Logger: srv.log.logger()}}
			var release []func()
			for i := range srv.loops {
				release = append(release, srv.hold(i))
			}
			var conns []peerConn
			for range 30 {
				conns = append(conns, srv.dial())
			}
			var given []string
			for _, f := range files {
				fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
				if err != nil {
					t.Fatal(err)
				}
				given = append(given, fmt.Sprintf("fd:%d", fd))
			}
			closeFiles(files)
			retired := make(chan error, 1)
			go func() { retired <- srv.Retire(t.Context()) }()
			for _, f := range release {
				f()
			}
			if err := next.Start(given...); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(next.Addrs(), srv.Addrs()) {
				t.Errorf("the successor serves on %v, want %v", next.Addrs(), srv.Addrs())
			}
			for i, c := range conns {
				wantEcho(t, c, payload(uint64(i), 1000))
				_ = c.Close()
			}
			if err := await(t, retired, "the end"); err != nil {
				t.Error(err)
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestListenerFilesOfAServerThatHasNone(t *testing.T) {
	srv := &Server{Handler: Events{}}
	if _, err := srv.ListenerFiles(); err == nil || !strings.Contains(err.Error(), "not been started") {
		t.Errorf("before the start: %v", err)
	}
	if err := srv.Retire(t.Context()); err == nil || !strings.Contains(err.Error(), "not been started") {
		t.Errorf("before the start: %v", err)
	}
	started := serve(t, Options{Loops: 2, poison: true}, script{})
	started.stop()
	if _, err := started.ListenerFiles(); !errors.Is(err, ErrServerClosed) {
		t.Errorf("after the end: %v", err)
	}
}
