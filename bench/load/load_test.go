package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/bench/internal/result"
	"example.com/ringnet/ring"
)

// serve runs a server that gives every connection to handle, and returns its
// address. It skips the test where there is no io_uring.
func serve(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	r, err := ring.New(ring.Config{})
	if errors.Is(err, ring.ErrNotSupported) {
		t.Skip("the load generator needs io_uring:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func echoAll(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// measured runs a plan and returns its report.
func measured(t *testing.T, addr netip.AddrPort, flags ...string) (result.Report, error) {
	t.Helper()
	return measuredAt(t, addr.String(), flags...)
}

func measuredAt(t *testing.T, addr string, flags ...string) (result.Report, error) {
	t.Helper()
	p, err := parsePlan(append([]string{"-addr", addr, "-warmup", "20ms", "-window", "100ms"}, flags...))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := turns(p, strings.NewReader(""), &out); err != nil {
		return result.Report{}, err
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || lines[0] != result.Began || lines[1] != result.Ended {
		t.Fatalf("it says %q", lines)
	}
	var r result.Report
	if err := json.Unmarshal([]byte(lines[2]), &r); err != nil {
		t.Fatal(err)
	}
	return r, nil
}

func TestEveryShapeOfLoadIsVerified(t *testing.T) {
	addr := serve(t, echoAll)
	for _, c := range []struct{ name, flags string }{
		{"small", "-conns 8 -size 64"},
		{"one byte", "-conns 3 -size 1"},
		{"pipelined", "-conns 4 -size 64 -pipeline 16"},
		{"larger than a buffer", "-conns 4 -size 8000 -pipeline 4"},
		{"larger than silent sends may be", "-conns 2 -size 8000 -pipeline 32"},
		{"small ones directly", "-conns 4 -size 64 -pipeline 3 -driver direct"},
		{"bulk", "-conns 4 -size 65536"},
		{"bulk through the ring", "-conns 4 -size 65536 -driver ringed"},
		{"larger than a chunk", "-conns 2 -size 1048576 -pipeline 2"},
		{"alternating", "-conns 4 -size 64,65536 -burst 3 -pipeline 2"},
		{"open loop", "-conns 4 -size 64 -rate 2000"},
		{"open loop of bulk", "-conns 2 -size 65536 -rate 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := measured(t, addr, strings.Fields(c.flags)...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.Bytes == 0 || r.Verified < r.Bytes || r.Missed != 0 {
				t.Errorf("report %+v", r)
			}
			if l := r.Latency; l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.Max {
				t.Errorf("latency %+v", l)
			}
		})
	}
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	addr := serve(t, echoAll)
	r, err := measured(t, addr, "-conns", "2", "-rate", "1000", "-window", "500ms")
	if err != nil {
		t.Fatal(err)
	}
	if rate := float64(r.Requests) / r.Seconds; rate < 900 || rate > 1100 {
		t.Errorf("%.0f requests/s, asked for 1000", rate)
	}
}

func TestWrongBytesFailTheRun(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	double := func(b []byte) []byte { return append(b, b...) }
	drop := func(b []byte) []byte { return b[1:] }
	for _, c := range []struct {
		name  string
		wrong func([]byte) []byte
	}{{"flipped", flip}, {"doubled", double}, {"dropped", drop}} {
		for _, size := range []string{"64", "65536"} {
			t.Run(c.name+" "+size, func(t *testing.T) {
				addr := serve(t, func(conn net.Conn) {
					b := make([]byte, 64<<10)
					for n := 0; ; n++ {
						got, err := conn.Read(b)
						if err != nil {
							return
						}
						out := b[:got]
						if n == 7 {
							out = c.wrong(bytes.Clone(out))
						}
						if _, err := conn.Write(out); err != nil {
							return
						}
					}
				})
				_, err := measured(t, addr, "-conns", "2", "-size", size)
				var wrong *payloadError
				if !errors.As(err, &wrong) {
					// A byte less may just as well never be missed but waited for.
					if c.name != "dropped" || !errors.Is(err, errQuiet) {
						t.Fatalf("error %v, want a wrong payload", err)
					}
				}
			})
		}
	}
}

func TestServerThatClosesFailsTheRun(t *testing.T) {
	addr := serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 8)) })
	for _, driver := range []string{"ringed", "direct"} {
		if _, err := measured(t, addr, "-conns", "1", "-driver", driver); err == nil {
			t.Errorf("%s: no error", driver)
		}
	}
}

func TestHoldWaitsAfterEachStep(t *testing.T) {
	t.Run("each speaks", func(t *testing.T) { holdTwice(t, 5) })
	t.Run("silent", func(t *testing.T) { holdTwice(t, 2, "-silent") })
}

// holdTwice holds five connections in two steps, of which so many have to say
// something.
func holdTwice(t *testing.T, speaking int64, flags ...string) {
	var spoken atomic.Int64
	addr := serve(t, func(c net.Conn) {
		b := make([]byte, 64)
		if _, err := io.ReadFull(c, b); err == nil {
			spoken.Add(1)
			_, _ = c.Write(b)
		}
		_, _ = c.Read(b) // until the load ends
	})
	p, err := parsePlan(append([]string{"-addr", addr.String(), "-mode", "idle", "-conns", "5", "-steps", "2"}, flags...))
	if err != nil {
		t.Fatal(err)
	}
	in, inW := io.Pipe()
	outR, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- hold(p, in, out) }()
	want := result.Holding + "\n"
	for range 2 {
		b := make([]byte, len(want))
		if _, err := io.ReadFull(outR, b); err != nil || string(b) != want {
			t.Fatalf("it says %q, %v", b, err)
		}
		if _, err := io.WriteString(inW, "go on\n"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("hold does not end")
	}
	if n := spoken.Load(); n != speaking {
		t.Errorf("%d connections have said something, want %d", n, speaking)
	}
}

func TestPatternTellsPositionsApart(t *testing.T) {
	p, err := newPattern()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.mismatch(5, p.at(5, 100)); err != nil {
		t.Error(err)
	}
	// The stream goes on across its period.
	last := uint32(payload.Period - 3)
	if got, want := p.at(last, 10)[3:], p.at(p.advance(last, 3), 7); !bytes.Equal(got, want) {
		t.Errorf("after the period: %x, want %x", got, want)
	}
	for _, off := range []int{1, 64, 4096, 65536} {
		if p.mismatch(p.advance(5, off), p.at(5, 16)) == nil {
			t.Errorf("16 bytes fit %d bytes further on", off)
		}
	}
}

func TestGrowKeepsTheTimes(t *testing.T) {
	l := &load{plan: plan{sizes: []int{10}}}
	var c conn
	for i := range int64(3) {
		l.begin(&c, i)
	}
	c.receives = 2
	for i := int64(3); i < 20; i++ {
		l.begin(&c, i)
	}
	for n := c.receives; n != c.sends; n++ {
		if got := c.times[n&c.mask]; got != int64(n) {
			t.Errorf("message %d was due at %d", n, got)
		}
	}
}

func TestSizesAlternateInBursts(t *testing.T) {
	l := &load{plan: plan{sizes: []int{1, 100}, burst: 2}}
	var got []int
	for n := range uint32(6) {
		got = append(got, l.sizeOf(n))
	}
	if want := []int{1, 1, 100, 100, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("sizes %v, want %v", got, want)
	}
}

func TestPlanRefusesWhatIsOutOfRange(t *testing.T) {
	for _, flags := range []string{"", "-addr nowhere", "-addr 127.0.0.1:1 -size 0", "-addr 127.0.0.1:1 -size 64,x", "-addr 127.0.0.1:1 -conns 0",
		"-addr 127.0.0.1:1 -pipeline 0", "-addr 127.0.0.1:1 -rate -1", "-addr 127.0.0.1:1 -mode fast", "-addr 127.0.0.1:1 -driver x",
		"-addr 127.0.0.1:1 -window 0s", "-addr 127.0.0.1:1 -burst 0", "-addr 127.0.0.1:1 -mode idle -conns 2 -steps 3",
		"-addr unix:", "-addr udp:nowhere", "-addr udp:127.0.0.1:1 -size 4", "-addr udp:127.0.0.1:1 -size 64,65", "-addr udp:127.0.0.1:1 -rate 5", "-addr udp:127.0.0.1:1 -mode churn",
		"-addr unix:/s -mode churn", "-addr 127.0.0.1:1 -mode churn -first nobody", "-addr 127.0.0.1:1 -mode post -pipeline 256", "-addr 127.0.0.1:1 -mode content -size 1,2",
		"-addr 127.0.0.1:1 -mode slow", "-addr 127.0.0.1:1 -mode slow -window 0 -drip 0", "-addr 127.0.0.1:1 -timeout 0s"} {
		if _, err := parsePlan(strings.Fields(flags)); err == nil {
			t.Errorf("%q is taken", flags)
		}
	}
}
