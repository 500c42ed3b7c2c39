//go:build linux

package net

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/forbid"
	"example.com/ringnet/internal/leak"
	"example.com/ringnet/ring"
)

func TestListenAddresses(t *testing.T) {
	cases := []struct {
		name    string
		listen  string
		v6      bool     // needs IPv6
		reach   []string // hosts that get there
		refused []string // hosts that do not
	}{
		{name: "IPv4", listen: "127.0.0.1:0", reach: []string{"127.0.0.1"}, refused: []string{"127.0.0.2"}},
		{name: "every IPv4 address", listen: "0.0.0.0:0", reach: []string{"127.0.0.1", "127.0.0.2"}},
		{name: "IPv6", listen: "[::1]:0", v6: true, reach: []string{"::1"}, refused: []string{"127.0.0.1"}},
		{name: "every IPv6 address", listen: "[::]:0", v6: true, reach: []string{"::1"}, refused: []string{"127.0.0.1"}},
		{name: "every address", listen: ":0", v6: true, reach: []string{"::1", "127.0.0.1", "127.0.0.2"}},
		{name: "IPv4 in IPv6", listen: "[::ffff:127.0.0.1]:0", reach: []string{"127.0.0.1"}},
		{name: "a name", listen: "localhost:0", reach: []string{"localhost"}},
	}
	for _, cs := range cases {
		for _, loops := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d", cs.name, loops), func(t *testing.T) {
				if cs.v6 {
					probeIPv6(t)
				}
				type ends struct{ local, remote Addr }
				seen := make(chan ends, 10)
				s := echoWrite(t)
				s.open = func(c *Conn) { seen <- ends{c.LocalAddr(), c.RemoteAddr()} }
				srv := serve(t, Options{Loops: loops, poison: true}, s, cs.listen)
				if n := len(srv.Addrs()); n != 1 {
					t.Fatalf("%d addresses, want 1", n)
				}
				port := srv.addr().AddrPort().Port()
				if port == 0 {
					t.Fatalf("the server's address is %v: its port must be known", srv.addr())
				}
				for _, host := range cs.reach {
					c, err := stdnet.DialTimeout("tcp", stdnet.JoinHostPort(host, fmt.Sprint(port)), patience)
					if err != nil {
						t.Errorf("%s: %v", host, err)
						continue
					}
					defer c.Close()
					wantEcho(t, c, payload(1, 1000))
					got := await(t, seen, "OnOpen")
					want := ends{unmapped(c.RemoteAddr()), unmapped(c.LocalAddr())}
					if got != want {
						t.Errorf("%s: OnOpen sees %v, want %v", host, got, want)
					}
				}
				for _, host := range cs.refused {
					c, err := stdnet.DialTimeout("tcp", stdnet.JoinHostPort(host, fmt.Sprint(port)), patience)
					if err == nil {
						t.Errorf("%s: a server on %s took the connection", host, cs.listen)
						_ = c.Close()
					} else if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s: %v", host, err)
					}
				}
			})
		}
	}
}

func unmapped(a stdnet.Addr) Addr {
	ap := a.(*stdnet.TCPAddr).AddrPort()
	return TCPAddr(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

func TestSeveralAddresses(t *testing.T) {
	for _, loops := range []int{1, 3} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			listen := []string{"127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"}
			srv := serve(t, Options{Loops: loops, poison: true}, echoLease(t), listen...)
			addrs := srv.Addrs()
			if len(addrs) != len(listen) {
				t.Fatalf("%d addresses, want %d", len(addrs), len(listen))
			}
			for i, a := range addrs {
				if want := netip.MustParseAddrPort(listen[i]).Addr(); a.AddrPort().Addr() != want {
					t.Errorf("address %d is %v, want one on %v", i, a, want)
				}
				for range 5 {
					wantEcho(t, dialTo(t, a), payload(uint64(i), 1000))
				}
			}
			if addrs[0] == addrs[2] {
				t.Errorf("two addresses have the same port: %v", addrs)
			}
			// The list is the caller's own.
			addrs[0] = Addr{}
			if !srv.addr().IsValid() {
				t.Error("the list of addresses is the server's own")
			}
		})
	}
}

// startFails starts a server that must not start, and checks what it leaves. It
// returns the error.
func startFails(t *testing.T, srv *Server, addrs ...string) error {
	t.Helper()
	before := footprintNow(t)
	err := srv.Start(addrs...)
	if err == nil {
		_ = srv.Close()
		t.Fatal("the server started")
	}
	before.check(t)
	checkWorkers(t, "after a start that failed")
	// It has never served, so it may be set right and started.
	if err := srv.Close(); err == nil {
		t.Error("a server that did not start was closed")
	}
	return err
}

func TestAddressesThatCannotBe(t *testing.T) {
	taken, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cases := []struct {
		name  string
		addrs []string
		says  []string
		errno error
	}{
		{name: "empty", addrs: []string{""}, says: []string{`""`, "host:port"}},
		{name: "no port", addrs: []string{"127.0.0.1"}, says: []string{`"127.0.0.1"`, "host:port"}},
		{name: "no brackets", addrs: []string{"::1:80:"}, says: []string{`"::1:80:"`, "host:port"}},
		{name: "port too large", addrs: []string{"127.0.0.1:65536"}, says: []string{`"127.0.0.1:65536"`}},
		{name: "port negative", addrs: []string{"127.0.0.1:-1"}, says: []string{`"127.0.0.1:-1"`}},
		{name: "port unknown", addrs: []string{"127.0.0.1:no-such-service"}, says: []string{"no-such-service"}},
		{name: "host unknown", addrs: []string{"no-such-host.invalid:0"}, says: []string{"no-such-host.invalid"}},
		{name: "zone unknown", addrs: []string{"[fe80::1%nosuchzone]:0"}, says: []string{"nosuchzone"}},
		{name: "no such interface", addrs: []string{"192.0.2.1:0"}, says: []string{"192.0.2.1", "no interface"}, errno: unix.EADDRNOTAVAIL},
		{name: "taken", addrs: []string{taken.Addr().String()}, says: []string{taken.Addr().String(), "another socket"}, errno: unix.EADDRINUSE},
		{name: "the second is taken", addrs: []string{"127.0.0.1:0", taken.Addr().String()}, says: []string{taken.Addr().String()}, errno: unix.EADDRINUSE},
		{name: "the second cannot be parsed", addrs: []string{"127.0.0.1:0", "nonsense"}, says: []string{`"nonsense"`}},
	}
	for _, cs := range cases {
		for _, loops := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d", cs.name, loops), func(t *testing.T) {
				err := startFails(t, &Server{Handler: Events{}, Options: Options{Loops: loops}}, cs.addrs...)
				for _, part := range cs.says {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the error does not say %q: %v", part, err)
					}
				}
				if cs.errno != nil {
					var op *OpError
					if !errors.Is(err, cs.errno) || !errors.As(err, &op) || op.Op != "listen" || !op.Addr.IsValid() {
						t.Errorf("the error is %#v: want an *OpError of listen with %v", err, cs.errno)
					}
				}
			})
		}
	}
}

// SO_REUSEPORT lets the loops of one server share an address, and must not let
// two servers do so.
func TestAddressTakenByAnotherServer(t *testing.T) {
	for _, first := range []int{1, 2} {
		for _, second := range []int{1, 2} {
			for _, host := range []string{"127.0.0.1", ""} {
				t.Run(fmt.Sprintf("%d and %d on %q", first, second, host), func(t *testing.T) {
					srv := serve(t, Options{Loops: first, poison: true}, echoWrite(t), host+":0")
					addr := fmt.Sprintf("%s:%d", host, srv.addr().AddrPort().Port())
					err := startFails(t, &Server{Handler: Events{}, Options: Options{Loops: second}}, addr)
					if !errors.Is(err, unix.EADDRINUSE) {
						t.Errorf("start on an address that is taken: %v", err)
					}
					local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), srv.addr().AddrPort().Port())
					for range 20 {
						c := dialTo(t, TCPAddr(local))
						wantEcho(t, c, []byte("hello"))
						_ = c.Close()
					}
				})
			}
		}
	}
}

func TestAddressOfOneServerTwice(t *testing.T) {
	free, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	for _, loops := range []int{1, 2} {
		err := startFails(t, &Server{Handler: Events{}, Options: Options{Loops: loops}}, addr, addr)
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%d loops: start on the same address twice: %v", loops, err)
		}
	}
}

func TestPortIsFreeAgainAfterTheEnd(t *testing.T) {
	for _, loops := range []int{1, 3} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			addr := "127.0.0.1:0"
			for range 5 {
				srv := serve(t, Options{Loops: loops, poison: true}, echoWrite(t), addr)
				addr = srv.addr().String()
				c := srv.dial()
				wantEcho(t, c, []byte("hello"))
				// The server ends the connection, so that the port has one in
				// TIME_WAIT.
				if err := srv.shutdown(); err != nil {
					t.Error(err)
				}
				_ = c.Close()
				srv.stop()
			}
		})
	}
}

func TestOptionsOutOfRange(t *testing.T) {
	cases := []struct {
		name    string
		options Options
		says    []string
	}{
		{name: "Loops", options: Options{Loops: -1}, says: []string{"Loops", "-1", "1024"}},
		{name: "Loops", options: Options{Loops: 1025}, says: []string{"Loops", "1025", "1024"}},
		{name: "Backlog", options: Options{Backlog: -1}, says: []string{"Backlog", "-1"}},
		{name: "EntryCount", options: Options{EntryCount: -1}, says: []string{"EntryCount", "-1", "32768"}},
		{name: "EntryCount", options: Options{EntryCount: 32769}, says: []string{"EntryCount", "32769", "32768"}},
		{name: "CompletionCount", options: Options{CompletionCount: 1}, says: []string{"CompletionCount", "1", "65536"}},
		{name: "CompletionCount", options: Options{CompletionCount: 65537}, says: []string{"CompletionCount", "65537", "65536"}},
		{name: "CompletionCount below EntryCount", options: Options{EntryCount: 64, CompletionCount: 32}, says: []string{"CompletionCount", "32", "EntryCount", "64"}},
		{name: "RecvBufBytes", options: Options{RecvBufBytes: 15}, says: []string{"RecvBufBytes", "15", "16"}},
		{name: "RecvBufBytes", options: Options{RecvBufBytes: 1<<20 + 1}, says: []string{"RecvBufBytes", "1048577", "1048576"}},
		{name: "RecvBufs", options: Options{RecvBufs: -1}, says: []string{"RecvBufs", "-1"}},
		{name: "RecvBufs", options: Options{RecvBufs: 32769}, says: []string{"RecvBufs", "32769", "32768"}},
		{name: "BulkBufBytes", options: Options{BulkBufBytes: 4095}, says: []string{"BulkBufBytes", "4095", "4096"}},
		{name: "BulkBufBytes", options: Options{BulkBufBytes: 16<<20 + 1}, says: []string{"BulkBufBytes", "16777217"}},
		{name: "BulkBufs", options: Options{BulkBufs: -1}, says: []string{"BulkBufs", "-1"}},
		{name: "BulkBufs", options: Options{BulkBufs: 32769}, says: []string{"BulkBufs", "32769", "32768"}},
		{name: "HighWater", options: Options{HighWater: -1}, says: []string{"HighWater", "-1"}},
		{name: "LowWater", options: Options{LowWater: -1}, says: []string{"LowWater", "-1"}},
		{name: "LowWater above HighWater", options: Options{LowWater: 2 << 20, HighWater: 1 << 20}, says: []string{"LowWater", "2097152", "HighWater", "1048576"}},
		{name: "MaxBuffered", options: Options{MaxBuffered: -1}, says: []string{"MaxBuffered", "-1"}},
		{name: "MaxBuffered below HighWater", options: Options{MaxBuffered: 1000}, says: []string{"MaxBuffered", "1000", "HighWater"}},
		{name: "MaxUnconsumed", options: Options{MaxUnconsumed: -1}, says: []string{"MaxUnconsumed", "-1"}},
		{name: "MaxUnconsumed", options: Options{MaxUnconsumed: 1<<29 + 1}, says: []string{"MaxUnconsumed", "536870913", "536870912"}},
		{name: "MaxLoopBytes", options: Options{MaxLoopBytes: 1<<16 - 1}, says: []string{"MaxLoopBytes", "65535", "65536"}},
		{name: "MaxLoopBytes", options: Options{MaxLoopBytes: -1}, says: []string{"MaxLoopBytes", "-1", "65536"}},
		{name: "MaxConns", options: Options{MaxConns: -1}, says: []string{"MaxConns", "-1", "no limit"}},
		{name: "Placement", options: Options{Placement: 3}, says: []string{"Placement", "3", "RoundRobin"}},
		{name: "CPUs", options: Options{CPUs: []int{-1}}, says: []string{"CPUs", "[-1]", "taskset"}},
		{name: "CPUs", options: Options{CPUs: []int{0, 1 << 20}}, says: []string{"CPUs", "1048576", "taskset"}},
		{name: "Loops from CPUs", options: Options{CPUs: make([]int, 2000), Loops: 1025}, says: []string{"Loops", "1025"}},
		{name: "Spin", options: Options{Spin: 2 * time.Millisecond}, says: []string{"Spin", "2ms", "1ms"}},
		{name: "Engine", options: Options{Engine: 99}, says: []string{"Engine", "99"}},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			err := startFails(t, &Server{Handler: Events{}, Options: cs.options}, "127.0.0.1:0")
			for _, part := range cs.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

func TestOptionsAtTheEndsOfTheirRanges(t *testing.T) {
	cases := []struct {
		name string
		Options
	}{
		{name: "smallest", Options: Options{Loops: 1, Backlog: 1, EntryCount: 1, CompletionCount: 2, RecvBufBytes: 16, RecvBufs: 1,
			BulkBufBytes: 4096, BulkBufs: 1, HighWater: 1, LowWater: 1, MaxBuffered: 1, MaxUnconsumed: 1, Spin: 1}},
		{name: "largest", Options: Options{Loops: 2, Backlog: 1 << 20, EntryCount: 32768, CompletionCount: 65536, RecvBufBytes: 1 << 20, RecvBufs: 1024,
			BulkBufBytes: 16 << 20, BulkBufs: 64, HighWater: 1 << 40, LowWater: 1 << 40, MaxBuffered: 1 << 40, MaxUnconsumed: 1 << 29, Spin: time.Millisecond}},
		{name: "most buffers", Options: Options{Loops: 1, RecvBufBytes: 64, RecvBufs: 32768, BulkBufBytes: 4096, BulkBufs: 32768}},
		{name: "odd", Options: Options{Loops: 1, EntryCount: 3, CompletionCount: 5, RecvBufBytes: 17, RecvBufs: 3, BulkBufBytes: 4097, BulkBufs: 3}},
		{name: "Nagle", Options: Options{Loops: 1, Delay: true}},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.poison = cs.name != "largest" // where it would be most of the work
			s := echoLease(t)
			if cs.name == "smallest" {
				// A Write or Send behind another is over MaxBuffered.
				s = script{data: func(c *Conn, b []byte) int {
					if c.Buffered() > 0 {
						t.Error("OnData is called over HighWater")
					}
					_, _ = c.Write(b)
					return len(b)
				}}
			}
			srv := serve(t, o, s)
			c := srv.dial()
			if cs.name == "smallest" {
				for i := range uint64(100) {
					wantEcho(t, c, payload(i, 16))
				}
				return
			}
			for i, n := range []int{1, 16, 1000, 100000, 1 << 20} {
				wantEcho(t, c, payload(uint64(i), n))
			}
		})
	}
}

func TestServersThatAreNotSetUp(t *testing.T) {
	err := startFails(t, &Server{}, "127.0.0.1:0")
	if !strings.Contains(err.Error(), "Handler") {
		t.Errorf("without a handler: %v", err)
	}
	err = startFails(t, &Server{Handler: Events{}})
	if !strings.Contains(err.Error(), "no address") {
		t.Errorf("without an address: %v", err)
	}
}

func TestServerThatFailedToStartCanBeStartedAgain(t *testing.T) {
	srv := &Server{Handler: Events{}}
	if err := startFails(t, srv, "nonsense"); err == nil {
		t.Fatal("started")
	}
	before := footprintNow(t)
	if err := srv.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := srv.Start("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "serves once") {
		t.Errorf("second start: %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	before.check(t)
}

func TestEngineSaysWhatTheLoopsRunOn(t *testing.T) {
	needUring(t)
	srv := serve(t, Options{Loops: 1, Engine: ring.Uring, Mask: ring.RecvMultishot, poison: true}, script{})
	info := srv.Engine()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if info.Kind != ring.Uring || info.Kernel != unix.ByteSliceToString(u.Release[:]) || info.Reason == "" {
		t.Errorf("the engine is %+v", info)
	}
	if info.Features&ring.RecvMultishot != 0 {
		t.Errorf("a masked feature is listed: %v", info.Features)
	}
	for _, part := range []string{"uring", info.Kernel, info.Reason, "features"} {
		if !strings.Contains(info.String(), part) {
			t.Errorf("%q does not say %q", info, part)
		}
	}
}

func init() {
	children["start"] = startAndPrint
	children["engines"] = startEngines
	children["start as nobody"] = func() error {
		if err := unix.Setgid(65534); err != nil {
			return err
		}
		if err := unix.Setuid(65534); err != nil {
			return err
		}
		return startAndPrint()
	}
}

// startAndPrint waits for a line, tries to start a server, and prints what it
// says and what it has left open.
func startAndPrint() error {
	addr := os.Getenv("RINGNET_TEST_ADDR")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	before, err := leak.Descriptors()
	if err != nil {
		return err
	}
	srv := &Server{Handler: Events{}, Options: Options{Loops: 2}}
	err = srv.Start(addr)
	fmt.Printf("error: %q, not supported: %v\n", fmt.Sprint(err), errors.Is(err, ring.ErrNotSupported))
	if err == nil {
		return srv.Close()
	}
	after, err := leak.Descriptors()
	if err != nil {
		return err
	}
	fmt.Printf("descriptors: %d and %d\n", len(before), len(after))
	return nil
}

// startEngines waits for a line, and starts a server with each engine.
func startEngines() error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	before, err := leak.Descriptors()
	if err != nil {
		return err
	}
	for _, engine := range []ring.EngineKind{ring.Uring, ring.Auto, ring.Epoll} {
		var log logbook
		srv := &Server{Handler: bare{}, Options: Options{Loops: 2, Engine: engine, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
		if err := srv.Start("127.0.0.1:0"); err != nil {
			fmt.Printf("%v: not supported: %v: %v\n", engine, errors.Is(err, ring.ErrNotSupported), err)
			continue
		}
		fmt.Printf("%v: %v, log %q\n", engine, srv.Engine(), log.String())
		c, err := connect(srv.Addrs()[0])
		if err == nil {
			err = errors.Join(exchange(c, payload(1, 100000)), c.Close())
		}
		if err := errors.Join(err, srv.Close()); err != nil {
			return err
		}
	}
	after, err := leak.Descriptors()
	if err != nil {
		return err
	}
	if len(after) > len(before)+2 { // Go's own poller may have begun
		return fmt.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
	fmt.Println("end")
	return nil
}

// Where io_uring is forbidden, Auto serves with epoll and tells why, and an
// explicit choice of io_uring fails with what would mend it.
func TestServerWithoutUring(t *testing.T) {
	cases := []struct {
		name  string
		env   string
		off   bool
		cause []string
	}{
		{name: "seccomp", env: forbid.Variable + "=1", cause: []string{"seccomp filter", "run the container with a profile that allows"}},
		{name: "sysctl", env: "A=B", off: true, cause: []string{"kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"}},
	}
	if now, _ := os.ReadFile(uringDisabled); strings.TrimSpace(string(now)) == "2" {
		cases[0].cause = cases[1].cause // it is the first thing that is looked for
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			off := func() (restore func()) { return func() {} }
			if cs.off {
				off = uringSwitch(t)
			}
			cmd := child(t, "engines", cs.env)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer off()()
			if _, err := io.WriteString(in, "\n"); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			want := [][]string{
				append([]string{"uring: not supported: true: "}, cs.cause...),
				append([]string{"auto: epoll on Linux", "io_uring cannot be had", "level=WARN", "serving with epoll"}, cs.cause...),
				{"epoll: epoll on Linux", "as chosen", `log ""`},
				{"end"},
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != len(want) {
				t.Fatalf("it says %q", lines)
			}
			for i, parts := range want {
				for _, part := range parts {
					if !strings.Contains(lines[i], part) {
						t.Errorf("line %d does not say %q: %s", i, part, lines[i])
					}
				}
			}
		})
	}
}

const uringDisabled = "/proc/sys/kernel/io_uring_disabled"

// uringSwitch returns what switches io_uring off for the whole machine, which
// returns what undoes it. It is used only where it is asked for, as by the CI, with
// nothing beside it.
func uringSwitch(t *testing.T) (off func() (restore func())) {
	t.Helper()
	if os.Getenv("RINGNET_TEST_SYSCTL") == "" {
		t.Skip("switches io_uring off for the whole machine for a moment: set RINGNET_TEST_SYSCTL=1 to run it")
	}
	old, err := os.ReadFile(uringDisabled)
	if err != nil {
		t.Skipf("this kernel has no such switch: %v", err)
	}
	set := func(to []byte) {
		if err := os.WriteFile(uringDisabled, to, 0); err != nil {
			t.Errorf("%s could not be set to %s: %v", uringDisabled, to, err)
		}
	}
	return func() func() {
		set([]byte("2\n"))
		return func() { set(old) }
	}
}

func TestStartOnAPrivilegedPort(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else for certain")
	}
	first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil || strings.TrimSpace(string(first)) != "1024" {
		t.Skipf("ports below 1024 are not privileged here: %s %v", first, err)
	}
	cmd := child(t, "start as nobody", "RINGNET_TEST_ADDR=127.0.0.1:79")
	cmd.Stdin = strings.NewReader("\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"127.0.0.1:79", "permission denied", "CAP_NET_BIND_SERVICE", "ip_unprivileged_port_start"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the error does not say %q: %s", part, out)
		}
	}
}
