//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	stdnet "net"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A header has its time, however its bytes come; a request that is whole needs none.
func TestASlowHeaderIsGivenUp(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.headerTimeout = 300 * time.Millisecond })
		s.file("f", []byte("f"))
		c := dial(t, s.addr)
		c.get("/f") // the time is that of each header
		began := time.Now()
		go func() {
			for _, b := range []byte("GET /f HTTP/1.1\r\nHost: " + strings.Repeat("x", 1000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // the pace of a slow client
			}
		}()
		a, _ := c.answer("GET")
		if took := time.Since(began); a.StatusCode != http.StatusRequestTimeout || !a.Close || took < 250*time.Millisecond {
			t.Errorf("status %d after %v", a.StatusCode, took)
		}
		if st := s.srv.Stats(); st.Connections > 1 {
			t.Errorf("%d connections", st.Connections)
		}
	})
}

func TestAnIdleConnectionEnds(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.idleTimeout = 200 * time.Millisecond })
		s.file("f", []byte("f"))
		silent, once := dial(t, s.addr), dial(t, s.addr)
		once.get("/f")
		for _, c := range []*client{silent, once} {
			if _, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it does not end: %v", err)
			}
		}
	})
}

// Who takes nothing of an answer is dropped, and so is who takes too little.
func TestASlowReaderIsDropped(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		for _, e := range []struct {
			name   string
			change func(*config)
			pace   time.Duration // 0: it reads nothing
		}{
			{"nothing", func(c *config) { c.stallTimeout, c.minRate = 300*time.Millisecond, 0 }, 0},
			{"too little", func(c *config) { c.stallTimeout, c.minRate = 400*time.Millisecond, 1<<30 }, 50 * time.Millisecond},
		} {
			t.Run(e.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				sparse(t, dir, "f", 64<<20)
				s := serve(t, engine, dir, e.change)
				c := dial(t, s.addr)
				c.send("GET /f HTTP/1.1", "Host: x")
				b := make([]byte, 4096)
				for n := 0; ; n++ {
					if e.pace > 0 {
						if _, err := c.in.Read(b); err != nil {
							break
						}
					}
					if st := s.srv.Stats(); st.Accepted == 1 && st.Connections == 0 {
						break
					}
					if n > int(patience/(10*time.Millisecond)) {
						t.Fatal("it is not dropped")
					}
					time.Sleep(max(e.pace, 10*time.Millisecond)) // the pace of a slow client
				}
			})
		}
	})
}

// sparse makes a file of zeros that takes no room.
func sparse(t *testing.T, dir, name string, size int64) {
	t.Helper()
	file(t, dir, name, nil)
	if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
		t.Fatal(err)
	}
}

// resident is what memory a process has of its own, in bytes.
func (p *program) resident() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatalf("no RssAnon in\n%s", b)
	return 0
}

// onePer has a test run for the engines, one after the other: each takes the machine.
func onePer(t *testing.T, test func(t *testing.T, engine string)) {
	for _, engine := range []string{"uring", "epoll"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "uring" {
				if err := ring.Have(ring.BufferRings); err != nil {
					t.Skipf("needs io_uring: %v", err)
				}
			}
			test(t, engine)
		})
	}
}

// descriptors sees to it that this process may have n.
func descriptors(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < n {
		t.Skipf("needs %d descriptors, and 'ulimit -Hn' is %d", n, limit.Max)
	}
}

// A thousand download a gigabyte, and take their time. What the server holds for them is
// bounded by its options: FileBufs and what a connection is.
func TestMemoryIsBoundedWhileAThousandDownloadSlowly(t *testing.T) {
	const clients = 1000
	bound := 64 << 20
	if raceEnabled {
		bound *= 4 // it notes what every byte is used for
	}
	descriptors(t, clients+100)
	dir := t.TempDir()
	sparse(t, dir, "f", 1<<30)
	file(t, dir, "hot", []byte("hot"))
	onePer(t, func(t *testing.T, engine string) {
		p := launch(t, "-root", dir, "-addr", "127.0.0.1:0", "-loops", "1", "-engine", engine, "-send-buffer", "65536").serving()
		dial(t, p.addr).get("/hot")
		before := p.resident()
		var all []*client
		for range clients {
			c := dial(t, p.addr)
			_ = c.Conn.(*stdnet.TCPConn).SetReadBuffer(32 << 10)
			c.send("GET /f HTTP/1.1", "Host: x")
			all = append(all, c)
		}
		most := 0
		b := make([]byte, 16<<10)
		for range 4 {
			for _, c := range all {
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatal(err)
				}
			}
			most = max(most, p.resident())
			if a, content := dial(t, p.addr).get("/hot"); a.StatusCode != 200 || string(content) != "hot" {
				t.Errorf("besides: %d %q", a.StatusCode, content)
			}
		}
		t.Logf("%d KiB before, %d KiB with %d downloads", before>>10, most>>10, clients)
		if most-before > bound {
			t.Errorf("%d downloads take %d KiB", clients, (most-before)>>10)
		}
	})
}

// Ten thousand clients that send a byte now and then do not keep the next one waiting.
func TestTenThousandSlowClientsKeepNobodyWaiting(t *testing.T) {
	const clients, most = 10_000, 5 * time.Second
	if testing.Short() {
		t.Skip("ten thousand connections take some seconds")
	}
	descriptors(t, clients+500)
	dir := t.TempDir()
	want := payload(1, 1024)
	file(t, dir, "f", want)
	onePer(t, func(t *testing.T, engine string) {
		p := launch(t, "-root", dir, "-addr", "127.0.0.1:0", "-loops", "1", "-engine", engine, "-header-timeout", "1h").serving()
		request := "GET /f HTTP/1.1\r\nHost: x\r\n\r\n"
		addr, err := stdnet.ResolveTCPAddr("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		all := slowClients(t, addr, clients)
		fast := dial(t, p.addr)
		worst := time.Duration(0)
		for _, b := range []byte(request[:5]) {
			// A round: everybody sends a byte, and others come meanwhile and before.
			var done sync.WaitGroup
			done.Go(func() {
				for _, fd := range all {
					if _, err := unix.Write(fd, []byte{b}); err != nil {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
			for range 20 {
				for _, c := range []*client{fast, dial(t, p.addr)} {
					began := time.Now()
					if a, content := c.get("/f"); a.StatusCode != 200 || !bytes.Equal(content, want) {
						t.Fatalf("status %d, %d bytes", a.StatusCode, len(content))
					}
					worst = max(worst, time.Since(began))
				}
			}
			done.Wait()
		}
		t.Logf("worst answer: %v; %d KiB", worst, p.resident()>>10)
		if worst > most {
			t.Errorf("somebody waited for %v", worst)
		}
		// And they get theirs, if they ever come to an end.
		for _, fd := range all[:100] {
			if _, err := unix.Write(fd, []byte(request[5:])); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 0, 4096)
			for !bytes.HasSuffix(got, want) {
				n, err := unix.Read(fd, got[len(got):cap(got)])
				if n <= 0 {
					t.Fatalf("after %d bytes: %v", len(got), err)
				}
				got = got[:len(got)+n]
			}
		}
	})
}

// slowClients are connected sockets, without a goroutine or a poller behind them.
func slowClients(t *testing.T, addr *stdnet.TCPAddr, n int) []int {
	t.Helper()
	to := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	all := make([]int, 0, n)
	t.Cleanup(func() {
		for _, fd := range all {
			_ = unix.Close(fd)
		}
	})
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fd)
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Requests beyond what connections may be open wait, and are answered.
func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.maxConns = 2 })
		s.file("f", []byte("f"))
		a, b := dial(t, s.addr), dial(t, s.addr)
		a.get("/f")
		b.get("/f")
		third := dial(t, s.addr)
		third.send("GET /f HTTP/1.1", "Host: x")
		if st := s.srv.Stats(); st.Connections != 2 {
			t.Errorf("%d connections", st.Connections)
		}
		_ = a.Close()
		if got, _ := third.answer("GET"); got.StatusCode != 200 {
			t.Error(got.StatusCode)
		}
	})
}

// A request for what is in the cache allocates nothing.
func TestHotRequestsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	s := serve(t, ring.Auto, t.TempDir(), func(c *config) { c.stallTimeout = 0 })
	s.file("f", payload(1, 1000))
	c := dial(t, s.addr)
	request := []byte("GET /f HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\nAccept: */*\r\n\r\n")
	_, _ = c.get("/f")
	_, _ = c.Write(request)
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	once := func() {
		_, _ = c.Write(request)
		if _, err := io.ReadFull(c, answer[:n]); err != nil {
			t.Fatal(err)
		}
	}
	// A look a second, at what it knows, is allowed.
	if allocs := testing.AllocsPerRun(2000, once); allocs >= 1 {
		t.Errorf("%v allocations for each request", allocs)
	}
}

// A signal ends it: what is being sent is sent to its end, and idle connections end.
func TestASignalDrains(t *testing.T) {
	dir := t.TempDir()
	want := payload(1, 8<<20)
	file(t, dir, "f", want)
	log := filepath.Join(t.TempDir(), "log")
	p := launch(t, "-root", dir, "-addr", "127.0.0.1:0", "-loops", "2", "-access-log", log, "-drain", "30s").serving()
	busy, idle := dial(t, p.addr), dial(t, p.addr)
	if a, _ := idle.get("/f\"?x", "User-Agent: a \"b\"\\"); a.StatusCode != 404 {
		t.Error(a.StatusCode)
	}
	busy.send("GET /f HTTP/1.1", "Host: x", "Referer: http://y/")
	if _, err := busy.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if b := idle.ends(); len(b) > 0 {
		t.Errorf("the idle one gets %q", b)
	}
	if _, b := busy.answer("GET"); differ(b, want) != nil {
		t.Error(differ(b, want))
	}
	rest, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%v; errors: %s", err, p.errors.String())
	}
	for _, part := range []string{"connections: 2 accepted, 2 closed", "requests: 2, 0 refused", "files: 1 sent", "enters: "} {
		if !strings.Contains(string(rest), part) {
			t.Errorf("the counters do not say %q:\n%s", part, rest)
		}
	}
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"GET /f\x22?x HTTP/1.1" 404 14 "-" "a \x22b\x22\x5c" 0.`, fmt.Sprintf(`"GET /f HTTP/1.1" 200 %d "http://y/" "-" `, len(want)), "127.0.0.1 - - ["} {
		if !strings.Contains(string(lines), part) {
			t.Errorf("the log does not say %q:\n%s", part, lines)
		}
	}
	if n := bytes.Count(lines, []byte("\n")); n != 2 {
		t.Errorf("%d lines", n)
	}
}

func TestItSaysWhyItCannotStart(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"-root", filepath.Join(dir, "none")}, []string{"-root", "none", "no such file"}},
		{[]string{"-root", dir, "-engine", "kqueue"}, []string{"kqueue", "auto", "uring", "epoll"}},
		{[]string{"-root", dir, "-tls-cert", "x"}, []string{"-tls-cert", "-tls-key", "both"}},
		{[]string{"-root", dir, "-tls-cert", "x", "-tls-key", "y"}, []string{"x", "no such file"}},
		{[]string{"-root", dir, "-max-header", "100"}, []string{"-max-header", "100", "4096"}},
		{[]string{"-root", dir, "-cache-file", "1000000000"}, []string{"-cache-file", "1000000000"}},
		{[]string{"-root", dir, "-access-log", dir}, []string{"-access-log", "directory"}},
		{[]string{"-root", dir, "-addr", "nowhere"}, []string{"nowhere"}},
	} {
		p := launch(t, append([]string{"-addr", "127.0.0.1:0"}, c.args...)...)
		out, _ := io.ReadAll(p.out)
		if err := p.cmd.Wait(); err == nil || p.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%q: it ends with %v and prints %q", c.args, err, out)
		}
		for _, part := range c.says {
			if !strings.Contains(p.errors.String(), part) {
				t.Errorf("%q: the error does not say %q: %s", c.args, part, p.errors.String())
			}
		}
	}
}
