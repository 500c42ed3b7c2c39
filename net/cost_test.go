//go:build linux

package net

import (
	"fmt"
	stdnet "net"
	"reflect"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// bare is an echo that allocates nothing by itself.
type bare struct {
	Events
	lease bool
}

func (h bare) OnData(c *Conn, b []byte) int {
	if !h.lease {
		_, _ = c.Write(b)
	} else if lease, err := c.Detach(); err == nil {
		_ = c.Send(lease)
	}
	return len(b)
}

// pingPong exchanges size bytes count times on each connection, with no
// allocation once it has begun: the peers are plain descriptors.
func pingPong(t *testing.T, conns []int, size, count int, begin, end func()) {
	t.Helper()
	start := make(chan struct{})
	ready, done := make(chan struct{}, len(conns)), make(chan error, len(conns))
	for _, fd := range conns {
		go func() {
			b := make([]byte, size)
			ready <- struct{}{}
			<-start
			for range count {
				if err := rawEcho(fd, b); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range conns {
		<-ready
	}
	begin()
	close(start)
	var failed error
	for range conns {
		if err := await(t, done, "a client"); err != nil {
			failed = err
		}
	}
	end()
	if failed != nil {
		t.Fatal(failed)
	}
}

// dialRaw connects n blocking sockets, which cost the Go heap nothing.
func dialRaw(t *testing.T, srv *server, n int) []int {
	t.Helper()
	sa := &unix.SockaddrInet4{Port: int(srv.addr().AddrPort().Port()), Addr: [4]byte{127, 0, 0, 1}}
	fds := make([]int, n)
	t.Cleanup(func() {
		for _, fd := range fds {
			if fd > 0 {
				_ = unix.Close(fd)
			}
		}
	})
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
		if err := unix.Connect(fd, sa); err != nil {
			t.Fatal(err)
		}
		tv := unix.NsecToTimeval(patience.Nanoseconds())
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	return fds
}

// wantNoAllocations has clients exchange size bytes count times each, and wants nearly
// no allocations in the whole process meanwhile.
func wantNoAllocations(t *testing.T, srv *server, conns, size, count int) {
	t.Helper()
	fds := dialRaw(t, srv, conns)
	pingPong(t, fds, size, count/2+1, func() {}, func() {}) // fills the supplies
	// A collection would empty the runtime's own pools.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	// The test and the runtime themselves have a few. What a slow machine has not
	// reached in one run, more clients at once say, it has then in one of the next.
	requests := conns * count
	var counts []uint64
	for range 4 {
		var before, after runtime.MemStats
		pingPong(t, fds, size, count, func() { runtime.ReadMemStats(&before) }, func() { runtime.ReadMemStats(&after) })
		n := after.Mallocs - before.Mallocs
		if counts = append(counts, n); float64(n) <= 100+0.01*float64(requests) {
			return
		}
	}
	t.Errorf("%d allocations in runs of %d requests", counts, requests)
}

func TestNoAllocationPerRequest(t *testing.T) {
	sameOnEveryKernel(t, "the library allocates the same")
	cases := []struct {
		name               string
		conns, size, count int
		Options
	}{
		{name: "one connection", conns: 1, size: 64, count: 4000},
		{name: "many connections", conns: 32, size: 64, count: 500},
		{name: "larger than a buffer", conns: 8, size: 10000, count: 400},
		{name: "bulk", conns: 4, size: 64 << 10, count: 400},
		{name: "large bulk", conns: 2, size: 1 << 20, count: 60},
		{name: "no bulk", conns: 4, size: 64 << 10, count: 200, Options: Options{NoBulk: true}},
		{name: "no multishot", conns: 8, size: 64, count: 400, Options: Options{Mask: maskAll}},
		{name: "no spin", conns: 4, size: 64, count: 1000, Options: Options{Spin: -1}},
		{name: "timeouts", conns: 8, size: 64, count: 500, Options: Options{ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute}},
		{name: "few buffers", conns: 16, size: 1000, count: 300, Options: Options{RecvBufs: 8, RecvBufBytes: 256, NoBulk: true}},
	}
	for _, cs := range cases {
		cs.count = few(cs.count)
		for _, h := range []struct {
			name string
			bare
		}{{name: "write"}, {name: "lease", bare: bare{lease: true}}} {
			t.Run(cs.name+" "+h.name, func(t *testing.T) {
				o := cs.Options
				o.Loops = 1
				srv := serveHandler(t, o, h.bare)
				wantNoAllocations(t, srv, cs.conns, cs.size, cs.count)
			})
		}
	}
}

// The echo by Detach and Send sends from the memory that the kernel received into.
func TestDetachAndSendCopyNothing(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			o := m.Options
			srv := serve(t, o, script{data: func(c *Conn, b []byte) int {
				lent := &b[0]
				lease, err := c.Detach()
				if err != nil {
					t.Errorf("detach: %v", err)
				}
				if lease.Len() != len(b) || &lease.Bytes()[0] != lent {
					t.Error("the lease is not what OnData was lent")
				}
				if err := c.Send(lease); err != nil {
					t.Errorf("send: %v", err)
				}
				if tail := c.out.tail; tail == nil || &tail.mem[0] != lent {
					t.Error("what is queued is not the lease's memory")
				}
				for i, p := range c.l.copies[:len(c.l.copies)-1] {
					if p.Out() != 0 {
						t.Errorf("a buffer of size %d for copies is in use", i)
					}
				}
				return 0
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			for i := range uint64(100) {
				wantEcho(t, c, payload(i, 1+int(i)*53))
			}
			if m.bulk {
				wantEcho(t, c, payload(1, 1<<20))
			}
			if st := srv.Stats(); st.HeapBuffers != 0 {
				t.Errorf("%d buffers came from the heap", st.HeapBuffers)
			}
		})
	}
}

func TestMemoryPerIdleConnection(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	conns := min(few(8000)/2, (int(limit.Cur)-100)/2)
	if conns < 400 {
		t.Skipf("a limit of %d open files leaves too few connections to measure", limit.Cur)
	}
	for _, cs := range []struct {
		name string
		size int // of one request before it is idle
		Options
	}{
		{name: "never used", size: 0},
		{name: "used for a small request", size: 100},
		{name: "used for a large request", size: 100000},
		{name: "with timeouts", size: 100, Options: Options{IdleTimeout: time.Hour, ReadTimeout: time.Hour, WriteTimeout: time.Hour}},
	} {
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.Loops = 1
			srv := serveHandler(t, o, bare{})
			most := 400.0
			if srv.Engine().Kind == ring.Epoll && o.IdleTimeout > 0 {
				most += 150 // the armed receive, which is the kernel's with io_uring
			}
			// What the first connections make once is not per connection.
			warm := dialRaw(t, srv, 10)
			if cs.size > 0 {
				pingPong(t, warm, cs.size, 1, func() {}, func() {})
			}
			srv.Stats()
			before := memoryInUse()
			fds := dialRaw(t, srv, conns)
			if cs.size > 0 {
				b := make([]byte, cs.size)
				for _, fd := range fds {
					if err := rawEcho(fd, b); err != nil {
						t.Fatal(err)
					}
				}
			}
			until(t, "all to be open", func() bool { return srv.Stats().Connections == uint64(conns+10) })
			after := memoryInUse()
			runtime.KeepAlive(fds)
			per := (float64(after) - float64(before) - 8*float64(conns)) / float64(conns) // less fds
			t.Logf("%.0f bytes per idle connection, of which the Conn is %d", per, reflect.TypeFor[Conn]().Size())
			if per > most {
				t.Errorf("%.0f bytes per idle connection: want at most %.0f", per, most)
			}
		})
	}
}

// rawEcho writes b, which must fit what the sockets on the way hold, and reads as
// much back.
func rawEcho(fd int, b []byte) error {
	for at := 0; at < len(b); {
		n, err := unix.Write(fd, b[at:])
		if err == unix.EINTR {
			continue // the Go scheduler preempts by signal
		} else if err != nil {
			return fmt.Errorf("write at %d of %d bytes: %w", at, len(b), err)
		}
		at += n
	}
	for at := 0; at < len(b); {
		n, err := unix.Read(fd, b[at:])
		if err == unix.EINTR {
			continue
		} else if err != nil || n == 0 {
			return fmt.Errorf("read at %d of %d bytes: %d, %w", at, len(b), n, err)
		}
		at += n
	}
	return nil
}

// memoryInUse is what the Go heap and stacks hold after a collection.
func memoryInUse() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// What comes together is received, answered and sent together. The bound is that of
// a benchmark with 64 connections; here are more, since holding the loop costs a
// round some enters of its own.
func TestEntersPerRequestUnderLoad(t *testing.T) {
	const conns, rounds = 192, 20
	for _, h := range []struct {
		name string
		bare
	}{{name: "write"}, {name: "lease", bare: bare{lease: true}}} {
		t.Run(h.name, func(t *testing.T) {
			srv := serveHandler(t, Options{Loops: 1}, h.bare)
			clients := make([]stdnet.Conn, conns)
			for i := range clients {
				clients[i] = srv.dial()
				wantEcho(t, clients[i], payload(1, 64))
			}
			p := payload(2, 64)
			enters := uint64(0)
			for range rounds {
				release := srv.hold(0)
				for _, c := range clients {
					write(t, c, p)
				}
				before := srv.loops[0].r.Counters().Enters // the loop is held
				release()
				for _, c := range clients {
					wantRead(t, c, p)
				}
				release = srv.hold(0)
				enters += srv.loops[0].r.Counters().Enters - before
				release()
			}
			t.Logf("%d enters for %d requests", enters, rounds*conns)
			if enters > rounds*conns/16 {
				t.Errorf("%d enters for %d requests: want at most one for 16", enters, rounds*conns)
			}
		})
	}
}
