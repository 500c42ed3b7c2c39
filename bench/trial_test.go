package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/ring"
)

// TestMain lets the test binary be a server: by the name it is started under.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if name == "test-foreign" {
		serveForeign(os.Args[1])
	}
	if handle, ok := testServers[name]; ok {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			control.Fail(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					control.Fail(err)
				}
				go handle(c)
			}
		}()
		control.Serve(nil, l.Addr())
	}
	os.Exit(m.Run())
}

var testServers = map[string]func(net.Conn){
	"test-good":  func(c net.Conn) { echoUntil(c, func(int, []byte) {}) },
	"test-wrong": func(c net.Conn) { echoUntil(c, func(n int, b []byte) { flipAt(n, 100, b) }) },
	"test-dying": func(c net.Conn) {
		echoUntil(c, func(n int, _ []byte) {
			if n == 100 {
				control.Fail(errors.New("out of order"))
			}
		})
	},
}

func flipAt(n, at int, b []byte) {
	if n == at {
		b[0] ^= 1
	}
}

// echoUntil echoes until the connection ends; each gets the number of the read.
func echoUntil(c net.Conn, each func(n int, b []byte)) {
	defer c.Close()
	b := make([]byte, 4096)
	for n := 0; ; n++ {
		got, err := c.Read(b)
		if err != nil {
			return
		}
		each(n, b[:got])
		if _, err := c.Write(b[:got]); err != nil {
			return
		}
	}
}

func skipWithoutRing(t *testing.T) {
	t.Helper()
	if r, err := ring.New(ring.Config{}); errors.Is(err, ring.ErrNotSupported) {
		t.Skip("the load generator needs io_uring:", err)
	} else if err == nil {
		_ = r.Close()
	}
}

func TestTrialsTellWhatHappened(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the load generator")
	}
	skipWithoutRing(t)
	ctx := context.Background()
	bins, err := newBinaries(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer bins.remove()
	if err := bins.buildLoad(ctx); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	where, err := pickCores(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string) row {
		s := server{name: name, dir: name}
		if err := os.Symlink(self, bins.path(s)); err != nil {
			t.Fatal(err)
		}
		tr := trial{server: s, cell: cell{Conns: 2, Sizes: []int{64}, Pipeline: 1, Burst: 1}, round: 1, window: 200 * time.Millisecond, cores: where}
		return tr.run(ctx, bins)
	}

	r := run("test-good")
	if r.Error != "" {
		t.Fatal(r.Error)
	}
	if r.RequestsPerSecond <= 0 || r.CPUPerRequest <= 0 || r.ServerCPU <= 0 || r.ServerCPU > 1.1 || r.LoadCPU <= 0 || r.EntersPerRequest != nil {
		t.Errorf("%+v", r)
	}
	if r := run("test-wrong"); !r.WrongPayload || !strings.Contains(r.Error, "message 100") {
		t.Errorf("wrong payload: %+v", r)
	}
	if r := run("test-dying"); r.WrongPayload || !strings.Contains(r.Error, "out of order") {
		t.Errorf("a server that dies: %+v", r)
	}
}
