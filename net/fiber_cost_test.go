//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNoAllocationPerRequestOfAFiber(t *testing.T) {
	deadlined := func(s *Stream) error {
		b := make([]byte, 4096)
		for {
			if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			n, err := s.Read(b)
			if err != nil {
				return err
			}
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
		}
	}
	for _, cs := range []struct {
		name               string
		f                  func(s *Stream) error
		conns, size, count int
		Options
	}{
		{name: "one connection", f: echoBlocking, conns: 1, size: 64, count: 4000},
		{name: "many connections", f: echoBlocking, conns: 32, size: 64, count: 500},
		{name: "larger than a buffer", f: echoBlocking, conns: 8, size: 10000, count: 400},
		{name: "bulk", f: blockingEchoes[2].f, conns: 4, size: 64 << 10, count: 400},
		{name: "large bulk", f: blockingEchoes[2].f, conns: 2, size: 1 << 20, count: 60},
		{name: "copied", f: blockingEchoes[1].f, conns: 8, size: 64, count: 500},
		{name: "copied bulk", f: blockingEchoes[1].f, conns: 4, size: 64 << 10, count: 400},
		{name: "byte by byte", f: blockingEchoes[3].f, conns: 4, size: 64, count: 200},
		{name: "with deadlines", f: deadlined, conns: 8, size: 64, count: 500},
		{name: "with pauses", conns: 4, size: 64, count: 100, f: func(s *Stream) error {
			b := make([]byte, 64)
			for {
				n, err := s.Read(b)
				if err != nil {
					return err
				}
				if err := s.Sleep(time.Nanosecond); err != nil {
					return err
				}
				if _, err := s.Write(b[:n]); err != nil {
					return err
				}
			}
		}},
		{name: "no multishot", f: echoBlocking, conns: 8, size: 64, count: 400, Options: Options{Mask: maskAll}},
	} {
		cs.count = few(cs.count)
		t.Run(cs.name, func(t *testing.T) {
			o := cs.Options
			o.Loops = 1
			srv := serveBlocking(t, o, cs.f)
			wantNoAllocations(t, srv.server, cs.conns, cs.size, cs.count)
		})
	}
}

func TestMemoryPerIdleStream(t *testing.T) {
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
		f    func(s *Stream) error
		size int // of one request before it is idle
		most float64
	}{
		{name: "never sent a byte", f: echoBlocking, size: 0, most: 400},
		{name: "has read once", most: 3.5 * 1024, size: 1, f: func(s *Stream) error {
			var b [1]byte
			for {
				if _, err := s.Read(b[:]); err != nil {
					return err
				}
				if _, err := s.Write(b[:]); err != nil {
					return err
				}
			}
		}},
		{name: "copies", most: 3.5 * 1024, size: 100, f: func(s *Stream) error { _, err := io.Copy(s, s); return err }},
		{name: "copies within limits", most: 3.5 * 1024, size: 100, f: func(s *Stream) error { _, err := io.CopyN(s, s, 1<<40); return err }},
		{name: "copies after a wait", most: 3.5 * 1024, size: 100, f: func(s *Stream) error {
			if err := s.Sleep(time.Millisecond); err != nil { // and what has come is held meanwhile
				return err
			}
			_, err := io.Copy(s, s)
			return err
		}},
	} {
		t.Run(cs.name, func(t *testing.T) {
			if simRace && cs.size > 0 {
				t.Skip("under the race detector frames are larger than the stack that a goroutine begins with")
			}
			srv := serveBlocking(t, Options{Loops: 1}, cs.f)
			warm := dialRaw(t, srv.server, 10)
			if cs.size > 0 {
				pingPong(t, warm, cs.size, 1, func() {}, func() {})
			}
			srv.Stats()
			before := memoryInUse()
			fds := dialRaw(t, srv.server, conns)
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
			t.Logf("%.0f bytes per idle connection, of which the Conn is %d, the Stream %d and the Fiber %d", per,
				reflect.TypeFor[Conn]().Size(), reflect.TypeFor[Stream]().Size(), reflect.TypeFor[Fiber]().Size())
			if per > cs.most {
				t.Errorf("%.0f bytes per idle connection: want at most %.0f", per, cs.most)
			}
		})
	}
}

// churnVariable sets for how long fibers come and go; without it two seconds.
const churnVariable = "RINGNET_TEST_FIBER_CHURN"

// Ten thousand fibers at once on one loop come and go, in every way they can, and leave
// nothing.
func TestTenThousandFibersComeAndGo(t *testing.T) {
	d := 2 * time.Second
	if v := os.Getenv(churnVariable); v != "" {
		var err error
		if d, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	const perStream = 40
	streams := few(600)
	var begun, returned atomic.Int64
	serve := func(s *Stream) error {
		b := make([]byte, 64)
		for {
			n, err := s.Read(b)
			if err != nil {
				return err
			}
			if b[0] == 'p' {
				panic("as it was told")
			}
			for i := range perStream {
				begun.Add(1)
				f, err := s.Spawn(func() error {
					defer returned.Add(1)
					switch i % 5 {
					case 0:
						return s.Sleep(time.Hour) // until the end of the connection
					case 1:
						return s.Sleep(time.Duration(i) * time.Millisecond)
					case 2:
						_, err := Await(s, func() (int, error) { return 1, nil })
						if errors.Is(err, ErrNoWorker) {
							err = nil
						}
						return err
					case 3:
						runtime.Gosched()
						return nil
					default:
						_, err := s.Write([]byte{'x'})
						return err
					}
				})
				if err != nil {
					return err
				}
				if i%5 == 4 {
					if err := f.Wait(); err != nil {
						return err
					}
				}
			}
			if b[0] == 'q' {
				return nil
			}
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
		}
	}
	s := serveHandler(t, Options{Loops: 1, poison: true, Logger: slog.New(slog.DiscardHandler)}, newBlocking(serve, false))
	// One round of each kind before anything is measured: the supplies fill up.
	// In each there is a moment at which every stream has its own fiber and those that
	// sleep for an hour, of both its messages.
	const lasting = 1 + 2*perStream/5
	round := func(kind byte) error {
		var open, counted sync.WaitGroup
		open.Add(streams)
		counted.Add(1)
		return crowd(streams, func(i int) error {
			opened := sync.OnceFunc(open.Done)
			defer opened()
			count := sync.OnceFunc(counted.Done)
			if i == 0 {
				defer count()
			}
			c, err := connect(s.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			for range 2 {
				if _, err := c.Write([]byte{'x'}); err != nil {
					return err
				}
				if _, err := io.ReadFull(c, make([]byte, perStream/5+1)); err != nil {
					return err
				}
			}
			opened()
			open.Wait()
			if i == 0 {
				if n := s.Stats().Fibers; n < uint64(lasting*streams) {
					return fmt.Errorf("%d fibers on %d streams: want at least %d on each", n, streams, lasting)
				}
				count()
			}
			counted.Wait()
			switch kind {
			case 'r':
				return errors.Join(c.SetLinger(0), c.Close())
			case 'c':
				return nil
			}
			if _, err := c.Write([]byte{kind}); err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, c)
			return nil
		})
	}
	kinds := []byte("rcpq")
	settled := func() {
		t.Helper()
		until(t, "all fibers and connections to have gone", func() bool {
			st := s.Stats()
			return st.Fibers == 0 && st.Connections == 0 && st.LeasesOut+st.CopiesOut == 0
		})
	}
	for _, kind := range kinds {
		if err := round(kind); err != nil {
			t.Fatal(err)
		}
	}
	settled()
	goroutines, before := runtime.NumGoroutine(), memoryInUse()
	most := uint64(0)
	rounds := 0
	for end := time.Now().Add(d); rounds < len(kinds) || time.Now().Before(end); rounds++ {
		ended := make(chan error, 1)
		go func() { ended <- round(kinds[rounds%len(kinds)]) }()
		for over := false; !over; {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatal(err)
				}
				over = true
			case <-time.After(5 * time.Millisecond):
				most = max(most, s.Stats().Fibers)
			}
		}
	}
	settled()
	if n := returned.Load(); n != begun.Load() {
		t.Errorf("%d of %d fibers have returned", n, begun.Load())
	}
	until(t, "the goroutines to have gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	// Go keeps half a KiB of every goroutine that there was at the same time, for the
	// next ones. How many fibers these are at most is different from round to round.
	if after := memoryInUse(); after > before+before/4+2<<20+512*most {
		t.Errorf("%d bytes are in use, %d were before", after, before)
	}
	st := s.Stats()
	t.Logf("%d rounds, %d fibers, up to %d at once, %d panics", rounds, st.FibersStarted, most, st.Panics)
}
