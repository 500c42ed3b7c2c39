//go:build linux

package bufring

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/leak"
	"example.com/ringnet/ring"
)

// TestMain fails the package when a test leaves a descriptor open.
func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// limit is how long a test waits for what should come at once.
const limit = 10 * time.Second

// newPool makes a pool that must be whole again when the test ends.
func newPool(t testing.TB, o PoolOptions) *Pool {
	t.Helper()
	p, err := NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// lease takes a buffer that must be there.
func (p *Pool) mustLease(t testing.TB) Lease {
	t.Helper()
	l, err := p.Lease()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// openRing makes an enabled ring on the test's own thread.
func openRing(t testing.TB) *ring.Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := ring.New(ring.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Enable(); err != nil {
		t.Fatal(err)
	}
	return r
}

// newGroup makes a group that must be whole again when the test ends.
func newGroup(t testing.TB, r *ring.Ring, o GroupOptions) *Group {
	t.Helper()
	g, err := NewGroup(r, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func socketPair(t testing.TB) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) })
	return p[0], p[1]
}

// tcpPair is a connection over the loopback device; a belongs to r's side.
func tcpPair(t testing.TB, r *ring.Ring) (a, b int) {
	t.Helper()
	listener, err := r.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 1, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	addr, err := r.LocalAddr(listener)
	if err != nil {
		t.Fatal(err)
	}
	b, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(b) })
	if err := unix.Connect(b, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(listener, false); err != nil {
		t.Fatal(err)
	}
	a, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(a) })
	return a, b
}

// panics returns what f panics with, or fails.
func panics(t testing.TB, what string, f func()) (message string) {
	t.Helper()
	defer func() {
		v := recover()
		if v == nil {
			t.Errorf("%s does not panic", what)
		}
		message = fmt.Sprint(v)
	}()
	f()
	return ""
}

// elsewhere runs f on another goroutine and waits for it.
func elsewhere(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
}

// all reports whether every byte of b is c.
func all(b []byte, c byte) bool {
	return !slices.ContainsFunc(b, func(got byte) bool { return got != c })
}

// mappedBytes is how much address space the process has.
func mappedBytes(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages int
	if _, err := fmt.Sscan(strings.Fields(string(b))[0], &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
