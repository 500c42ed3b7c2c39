package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/bench/internal/result"
)

// serveDatagrams answers datagrams; each may change one, or drop it by nil.
func serveDatagrams(t *testing.T, each func(n int, b []byte) []byte) string {
	t.Helper()
	serve(t, echoAll) // for what it skips
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for i := 0; ; i++ {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if out := each(i, b[:n]); out != nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return "udp:" + c.LocalAddr().String()
}

func TestDatagramsAreVerified(t *testing.T) {
	addr := serveDatagrams(t, func(_ int, b []byte) []byte { return b })
	for _, flags := range []string{"-conns 8 -size 64", "-conns 3 -size 64 -pipeline 8", "-conns 2 -size 8", "-conns 2 -size 9000"} {
		r, err := measuredAt(t, addr, strings.Fields(flags)...)
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 || r.Latency.P50 <= 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
}

func TestLostDatagramsAreCounted(t *testing.T) {
	addr := serveDatagrams(t, func(n int, b []byte) []byte {
		if n%20 == 19 {
			return nil
		}
		return b
	})
	r, err := measuredAt(t, addr, "-conns", "4", "-pipeline", "2", "-timeout", "20ms", "-window", "400ms")
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost == 0 || r.Requests < 10*r.Lost {
		t.Errorf("%d lost and %d answered, where one of twenty is dropped", r.Lost, r.Requests)
	}
}

func TestWrongDatagramsFailTheRun(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(b []byte) []byte
	}{
		{"flipped", func(b []byte) []byte { b[20] ^= 1; return b }},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }},
		{"of the future", func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b, 1<<40)
			return b
		}},
	} {
		addr := serveDatagrams(t, func(n int, b []byte) []byte {
			if n == 30 {
				return c.wrong(b)
			}
			return b
		})
		var wrong *payloadError
		if _, err := measuredAt(t, addr, "-conns", "2", "-window", "10s"); !errors.As(err, &wrong) {
			t.Errorf("%s: error %v, want a wrong payload", c.name, err)
		}
	}
}

func TestUnixSocketsAreMeasured(t *testing.T) {
	serve(t, echoAll) // for what it skips
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				echoAll(c)
			}()
		}
	}()
	for _, flags := range []string{"-conns 4 -size 64 -pipeline 16", "-conns 2 -size 8000 -pipeline 16", "-conns 2 -size 200000"} {
		if r, err := measuredAt(t, "unix:"+path, strings.Fields(flags)...); err != nil || r.Requests == 0 {
			t.Errorf("%s: %+v, %v", flags, r, err)
		}
	}
}

func TestChurnIsVerified(t *testing.T) {
	once := func(change func([]byte)) func(net.Conn) {
		return func(c net.Conn) {
			b := make([]byte, 64)
			if _, err := io.ReadFull(c, b); err == nil {
				change(b)
				_, _ = c.Write(b)
			}
		}
	}
	keep := func([]byte) {}
	for _, c := range []struct {
		first string
		serve func(net.Conn)
	}{{firstClient, echoAll}, {firstReset, echoAll}, {firstServer, once(keep)}} {
		r, err := measured(t, serve(t, c.serve), "-mode", "churn", "-conns", "4", "-first", c.first)
		if err != nil {
			t.Fatalf("%s: %v", c.first, err)
		}
		if r.Requests == 0 || r.Latency.P50 <= 0 {
			t.Errorf("%s: %+v", c.first, r)
		}
	}
	addr := serve(t, once(func(b []byte) { b[63] ^= 1 }))
	var wrong *payloadError
	if _, err := measured(t, addr, "-mode", "churn", "-conns", "1", "-first", firstServer); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
}

func TestPostedMessagesAreVerifiedAndAcknowledged(t *testing.T) {
	const conns, size, window = 3, 100, 8
	post := func(wrong bool) func(net.Conn) {
		return func(c net.Conn) {
			acks := control.NewAcks(1, window)
			go func() {
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					acks.Add(b[:n])
				}
			}()
			m := payload.NewMessages(size)
			for i := 0; ; i++ {
				acks.Wait()
				b := m.Next()
				if wrong && i == 50 {
					b = append([]byte{b[0] ^ 1}, b[1:]...)
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}
	}
	flags := []string{"-mode", "post", "-conns", "3", "-size", "100", "-pipeline", "8"}
	r, err := measured(t, serve(t, post(false)), flags...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests <= conns*window || r.Bytes < r.Requests*size-conns*size {
		t.Errorf("%+v", r)
	}
	var wrong *payloadError
	if _, err := measured(t, serve(t, post(true)), append(flags, "-window", "10s")...); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
}

// contentOf answers requests out of memory.
func contentOf(b []byte) func(net.Conn) {
	return func(c net.Conn) {
		in := make([]byte, control.RequestBytes)
		for {
			if _, err := io.ReadFull(c, in); err != nil {
				return
			}
			r := control.ParseRequest(in)
			if _, err := c.Write(b[r.Offset:][:r.N]); err != nil {
				return
			}
		}
	}
}

func TestContentIsVerified(t *testing.T) {
	good := make([]byte, 1<<20)
	payload.Fill(good)
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []string{"-size 100000", "-size 16381 -pipeline 3", "-size 300000 -cold " + file} {
		r, err := measured(t, serve(t, contentOf(good)), append([]string{"-mode", "content", "-conns", "3"}, strings.Fields(flags)...)...)
		if err != nil && strings.Contains(err.Error(), "lies in memory") {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
	bad := bytes.Clone(good)
	bad[99_999] ^= 1
	var wrong *payloadError
	if _, err := measured(t, serve(t, contentOf(bad)), "-mode", "content", "-conns", "1", "-size", "100000"); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
}

func TestAnswersThatAreNotCompleteAreLeft(t *testing.T) {
	good := make([]byte, 1<<20)
	payload.Fill(good)
	half := func(b []byte) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := io.ReadFull(c, make([]byte, control.RequestBytes)); err != nil {
				return
			}
			for at := 0; at < len(b)/2; at += 1000 {
				if _, err := c.Write(b[at:][:1000]); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
			_, _ = io.Copy(io.Discard, c)
		}
	}
	flags := []string{"-mode", "content", "-conns", "2", "-size", "1000000", "-drain=false"}
	r, err := measured(t, serve(t, half(good)), flags...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 0 || r.Bytes == 0 || r.Verified < r.Bytes {
		t.Errorf("%+v", r)
	}
	bad := bytes.Clone(good)
	bad[20_000] ^= 1
	var wrong *payloadError
	if _, err := measured(t, serve(t, half(bad)), append(flags, "-window", "10s")...); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
	if _, err := parsePlan([]string{"-addr", "127.0.0.1:1", "-drain=false"}); err == nil {
		t.Error("-drain=false is taken for echo")
	}
}

func TestSlowReadersReadSlowly(t *testing.T) {
	good := make([]byte, 1<<20)
	payload.Fill(good)
	addr := serve(t, contentOf(good))
	p, err := parsePlan([]string{"-addr", addr.String(), "-mode", "slow", "-window", "0", "-conns", "4", "-size", "1000000", "-drip", "1000", "-every", "10ms"})
	if err != nil {
		t.Fatal(err)
	}
	in, inW := io.Pipe()
	outR, out := io.Pipe()
	failed := make(chan error, 1)
	go func() { failed <- slow(p, in, out) }()
	lines := make(chan string)
	go func() {
		d := json.NewDecoder(outR)
		b := make([]byte, len(result.Holding)+1)
		_, _ = io.ReadFull(outR, b)
		lines <- strings.TrimSpace(string(b))
		for {
			var n json.Number
			if d.Decode(&n) != nil {
				return
			}
			lines <- n.String()
		}
	}()
	next := func() string {
		select {
		case s := <-lines:
			return s
		case err := <-failed:
			t.Fatal(err)
		case <-time.After(20 * time.Second):
			t.Fatal("it says nothing")
		}
		return ""
	}
	if s := next(); s != result.Holding {
		t.Fatalf("it says %q", s)
	}
	if _, err := io.WriteString(inW, control.Ask+"\n"); err != nil {
		t.Fatal(err)
	}
	if s := next(); len(s) < 4 || len(s) > 6 {
		t.Errorf("%s bytes are read, want a few thousand", s)
	}
}
