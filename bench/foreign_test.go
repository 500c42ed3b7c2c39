package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParentsAreFoundWhateverAProcessIsCalled(t *testing.T) {
	for stat, want := range map[string]int{
		"12 (sh) S 7 12 12 0":             7,
		"12 (a) R 9 (b)) S 31 12 12 0 -1": 31,
	} {
		if got, ok := parentIn(stat); !ok || got != want {
			t.Errorf("%q: %d, %v, want %d", stat, got, ok, want)
		}
	}
	if _, ok := parentIn(""); ok {
		t.Error("there is a parent in nothing")
	}
}

// asForeign is this test program as a server, which a shell starts as its child.
func asForeign(t *testing.T, script string) (*binaries, server) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bins := &binaries{dir: t.TempDir()}
	if err := os.Symlink(self, filepath.Join(bins.dir, "test-foreign")); err != nil {
		t.Fatal(err)
	}
	return bins, server{name: "sh", program: "sh", foreign: func(_ server, bins *binaries, addr string) ([]string, error) {
		return []string{"-c", script, filepath.Join(bins.dir, "test-foreign"), addr}, nil
	}}
}

func TestForeignServersAreMeasuredWithTheirChildren(t *testing.T) {
	bins, s := asForeign(t, `"$0" "$1" & trap "kill $!" TERM; wait`)
	where, err := pickCores(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	p, addrs, args, err := startForeign(where.Server, bins, s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if len(args) != 4 || len(addrs) != 1 || args[3] != addrs[0] {
		t.Errorf("arguments %q, addresses %q", args, addrs)
	}
	pids, err := p.all()
	if err != nil || len(pids) != 2 || pids[0] != p.pid() {
		t.Fatalf("processes %v, %v, want %d and a child", pids, err, p.pid())
	}
	// Burning is the child's.
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	after, err := p.cpu()
	if err != nil || after-before < burning/2 {
		t.Errorf("%v of CPU, %v, want %v", after-before, err, burning)
	}
	m, err := p.weigh()
	if err != nil {
		t.Fatal(err)
	}
	if one, err := weigh(p.pid()); err != nil || m.RSS < one.RSS+1<<20 {
		t.Errorf("%d bytes, of them %d the shell's, %v", m.RSS, one.RSS, err)
	}
	if stats, err := p.ask("stats"); err != nil || string(stats) != "{}" {
		t.Errorf("it tells %s, %v", stats, err)
	}
	p.stop()
	if err := syscall.Kill(pids[1], 0); err == nil && !zombie(pids[1]) {
		t.Error("the child has not ended")
	}
}

// zombie says whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestForeignServersThatDoNotStartSayWhy(t *testing.T) {
	bins, s := asForeign(t, `echo "no such directory" >&2; exit 7`)
	_, _, _, err := startForeign(0, bins, s)
	if err == nil || !strings.Contains(err.Error(), "no such directory") || !strings.Contains(err.Error(), "7") {
		t.Errorf("error %v", err)
	}
}

// burning is how much CPU time the foreign test server uses for a connection.
const burning = 50 * time.Millisecond

// serveForeign is the test server: it burns CPU time and answers with a byte.
func serveForeign(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		before, err := processCPU(os.Getpid())
		for err == nil {
			var now time.Duration
			if now, err = processCPU(os.Getpid()); now-before >= burning {
				break
			}
		}
		_, _ = c.Write([]byte{1})
		_ = c.Close()
	}
}
