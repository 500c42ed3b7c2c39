//go:build linux

package net

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
	"example.com/ringnet/ring"
)

func TestFourSmallBuffersForManyConnections(t *testing.T) {
	for _, e := range echoes {
		for _, mask := range []ring.Features{0, ring.RecvMultishot} {
			t.Run(fmt.Sprintf("%s without %v", e.name, mask), func(t *testing.T) {
				srv := serve(t, Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64, NoBulk: true, Mask: mask, poison: true}, e.of(t))
				err := crowd(50, func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					for round := range 10 {
						if err := exchange(c, payload(uint64(i*10+round), 1+(i*31+round*997)%4000)); err != nil {
							return fmt.Errorf("round %d: %w", round, err)
						}
					}
					return nil
				})
				if err != nil {
					t.Fatalf("%v\nstats: %+v", err, srv.Stats())
				}
				if st := srv.Stats(); st.NoBuffers == 0 {
					t.Error("no receive found the group empty: the test does not test what it should")
				}
			})
		}
	}
}

// More completions than the queue holds come while the loop is kept from looking.
func TestBurstOverflowsTheCompletionQueue(t *testing.T) {
	cases := []struct {
		name string
		Options
	}{
		{name: "1 and 2", Options: Options{EntryCount: 1, CompletionCount: 2}},
		{name: "2 and 4", Options: Options{EntryCount: 2, CompletionCount: 4}},
		{name: "2 and 4, no bulk", Options: Options{EntryCount: 2, CompletionCount: 4, NoBulk: true}},
		{name: "1 and 2, small buffers", Options: Options{EntryCount: 1, CompletionCount: 2, RecvBufs: 4, RecvBufBytes: 64, NoBulk: true}},
		{name: "1 and 2, no defer taskrun", Options: Options{EntryCount: 1, CompletionCount: 2, Mask: ring.DeferTaskrun}},
		{name: "1 and 2, no features", Options: Options{EntryCount: 1, CompletionCount: 2, Mask: maskAll}},
		{name: "4 and 64", Options: Options{EntryCount: 4, CompletionCount: 64}},
	}
	for _, cs := range cases {
		for _, e := range echoes {
			t.Run(cs.name+" "+e.name, func(t *testing.T) {
				o := cs.Options
				o.Loops, o.poison = 1, true
				srv := serve(t, o, e.of(t))
				const conns = 150
				clients := make([]stdnet.Conn, conns)
				for round := range 3 {
					// New connections and bytes of old ones at once.
					release := srv.hold(0)
					for i := range conns {
						if i%3 == round {
							clients[i] = srv.dial()
						}
					}
					for i, c := range clients {
						if c != nil {
							write(t, c, payload(uint64(i+round), 100+i))
						}
					}
					release()
					for i, c := range clients {
						if c != nil {
							wantRead(t, c, payload(uint64(i+round), 100+i))
						}
					}
				}
				if st := srv.Stats(); st.Ring.Overflows == 0 {
					t.Error("the queue did not overflow: the test does not test what it should")
				}
				// The end of all at once, and half of them by reset.
				release := srv.hold(0)
				for i, c := range clients {
					if i%2 == 0 {
						_ = c.(*stdnet.TCPConn).SetLinger(0)
					}
					_ = c.Close()
				}
				release()
				for range conns {
					srv.cause()
				}
			})
		}
	}
}

// The descriptor limit is for a whole process, so the server is a child.

func init() {
	children["few descriptors"] = serveWithFewDescriptors
	children["start with few descriptors"] = startWithFewDescriptors
}

// freeDescriptors is how many the child's server has for connections.
const freeDescriptors = 20

// report is what the child answers to each line on its standard input.
type report struct {
	Stats Stats
	CPU   time.Duration
	Log   string
}

func serveWithFewDescriptors() error {
	log := &logbook{}
	srv := &Server{Handler: echoLease(panicky{}).handler(), Options: Options{Loops: 1, poison: true, Logger: slog.New(slog.NewTextHandler(log, nil))}}
	if os.Getenv("RINGNET_TEST_SINGLE_ACCEPT") != "" {
		srv.Mask = ring.AcceptMultishot
	}
	// Before the start: an armed accept goes by the limit that it was armed under.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		return err
	}
	var full []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			break
		} else if err != nil {
			return err
		}
		full = append(full, fd)
	}
	for _, fd := range full[:freeDescriptors] {
		_ = unix.Close(fd)
	}
	out := json.NewEncoder(os.Stdout)
	fmt.Println(srv.Addrs()[0])
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			return err
		}
		if err := out.Encode(report{Stats: srv.Stats(), CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano()), Log: log.String()}); err != nil {
			return err
		}
	}
	return srv.Close()
}

// nextDescriptor fills the gaps among the process's descriptors, so that the next
// one has the number that it returns, and each further one the next.
func nextDescriptor() (int, error) {
	fds, err := leak.Descriptors()
	if err != nil {
		return 0, err
	}
	highest := 0
	for fd := range fds {
		n, err := strconv.Atoi(fd)
		if err != nil {
			return 0, err
		}
		highest = max(highest, n)
	}
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		if fd > highest {
			return fd, unix.Close(fd)
		}
	}
}

// panicky stands for a test in a child.
type panicky struct{ testing.TB }

func (panicky) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// handler makes a script a Handler without a witness.
func (s script) handler() Handler { return newWitness(panicky{}, s).handler() }

func TestConnectionsBeyondTheDescriptorLimitWaitAndAreServed(t *testing.T) {
	for _, accept := range []string{"multishot", "single"} {
		t.Run(accept, func(t *testing.T) {
			before := footprintNow(t)
			var env []string
			if accept == "single" {
				env = append(env, "RINGNET_TEST_SINGLE_ACCEPT=1")
			}
			cmd := child(t, "few descriptors", env...)
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
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			addr, err := netip.ParseAddrPort(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			ask := func() report {
				t.Helper()
				if _, err := io.WriteString(in, "\n"); err != nil {
					t.Fatal(err)
				}
				line, err := lines.ReadBytes('\n')
				if err != nil {
					t.Fatal(err)
				}
				var r report
				if err := json.Unmarshal(line, &r); err != nil {
					t.Fatal(err)
				}
				return r
			}

			const conns = 3 * freeDescriptors
			clients := make([]peerConn, conns)
			answered := make(chan int, conns)
			failed := make(chan error, conns)
			for i := range clients {
				clients[i] = dialTo(t, TCPAddr(addr))
				write(t, clients[i], payload(uint64(i), 1000))
			}
			for i, c := range clients {
				go func() {
					got := make([]byte, 1000)
					_, err := io.ReadFull(c, got)
					if err = errors.Join(err, differ(got, payload(uint64(i), 1000))); err != nil {
						failed <- fmt.Errorf("connection %d: %w", i, err)
						return
					}
					answered <- i
				}()
			}
			next := func(what string) int {
				t.Helper()
				select {
				case i := <-answered:
					return i
				case err := <-failed:
					t.Fatal(err)
				case <-time.After(patience):
					t.Fatalf("not within %v: %s; %+v", patience, what, ask())
				}
				return 0
			}
			var served []int
			for range freeDescriptors {
				served = append(served, next("connections below the limit to be served"))
			}
			// Each further try is a failure, and they come ever more rarely.
			start, first := time.Now(), ask()
			var last report
			until(t, "some tries to accept", func() bool { last = ask(); return last.Stats.AcceptErrors >= first.Stats.AcceptErrors+5 })
			if took := time.Since(start); took < 5*acceptPauseMin {
				t.Errorf("5 tries to accept within %v: that is a spin", took)
			} else if used := last.CPU - first.CPU; used > took {
				t.Errorf("%v of processor time in %v", used, took)
			}
			select {
			case i := <-answered:
				t.Errorf("connection %d is served beyond the limit", i)
			default:
			}
			if last.Stats.Connections != freeDescriptors {
				t.Errorf("%d connections are open, the limit leaves %d", last.Stats.Connections, freeDescriptors)
			}
			// As they end, one by one, those that wait have their turn.
			for len(served) < conns {
				_ = clients[served[len(served)-freeDescriptors]].Close()
				served = append(served, next("a connection that waits to be served when a descriptor is free"))
			}
			slices.Sort(served)
			if len(slices.Compact(served)) != conns {
				t.Errorf("not every connection was served: %v", served)
			}
			end := ask()
			if n := strings.Count(end.Log, "cannot accept"); n != 1 {
				t.Errorf("the log says %d times that it cannot accept, want once:\n%s", n, end.Log)
			}
			for _, part := range []string{"ulimit -n", "too many open files", addr.String()} {
				if !strings.Contains(end.Log, part) {
					t.Errorf("the log does not say %q:\n%s", part, end.Log)
				}
			}
			for _, c := range clients {
				_ = c.Close()
			}
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			before.check(t)
		})
	}
}

// startWithFewDescriptors starts servers with ever more free descriptors, until
// one comes up, and prints what the failures say.
func startWithFewDescriptors() error {
	// What is opened on first use must not count.
	srv := &Server{Handler: Events{}, Options: Options{Loops: 2}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		return err
	}
	if err := srv.Close(); err != nil {
		return err
	}
	next, err := nextDescriptor()
	if err != nil {
		return err
	}
	before, err := leak.Descriptors()
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for free := range 100 {
		limit.Cur = uint64(next + free)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		srv := &Server{Handler: Events{}, Options: Options{Loops: 2}}
		err := srv.Start("127.0.0.1:0")
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		if err == nil {
			fmt.Printf("started with %d\n", free)
			if err := srv.Close(); err != nil {
				return err
			}
		} else {
			fmt.Printf("%d: %v\n", free, err)
		}
		after, ferr := leak.Descriptors()
		if ferr != nil {
			return ferr
		}
		for fd, target := range after {
			if before[fd] != target {
				return fmt.Errorf("with %d free descriptors (%v), descriptor %s (%s) was left open", free, err, fd, target)
			}
		}
		if err == nil {
			return nil
		}
	}
	return errors.New("no server came up")
}

func TestStartWithTooFewDescriptorsLeavesNothingOpen(t *testing.T) {
	out := runChild(t, "start with few descriptors")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 4 {
		t.Errorf("a server with two rings and two listeners started with too few descriptors:\n%s", out)
	}
	for _, line := range lines[:len(lines)-1] {
		if !strings.Contains(line, "too many open files") || !strings.Contains(line, "ulimit -n") {
			t.Errorf("an error does not tell what would mend it: %s", line)
		}
	}
}
