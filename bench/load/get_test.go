package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/files"
	"example.com/ringnet/bench/internal/result"
)

// serving answers requests for the files of a directory; each may change the n-th
// answer of a connection.
func serving(dir string, each func(n int, answer []byte) []byte) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := os.ReadFile(filepath.Join(dir, filepath.Base(r.URL.Path)))
			answer := "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
			if err == nil {
				answer = fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: test\r\ncontent-length: %d\r\nX: y\r\n\r\n%s", len(body), body)
			}
			if _, err := c.Write(each(n, []byte(answer))); err != nil {
				return
			}
		}
	}
}

func asIs(_ int, b []byte) []byte { return b }

// someFiles makes n files of so many bytes, where files can be cold.
func someFiles(t *testing.T, size, n int) string {
	t.Helper()
	dir := t.TempDir()
	if err := files.Write(dir, size, n); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, files.Name(size, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := mayGoCold(f); err != nil {
		t.Skip(err)
	}
	return dir
}

func TestFilesAreVerified(t *testing.T) {
	for _, c := range []struct {
		size  int
		flags string
	}{
		{1024, "-files 1"},
		{1024, "-files 4 -pipeline 3"},
		{100_000, "-files 9"},
		{1024, "-files 1 -rate 500"},
		{100_000, "-files 4 -cold DIR -meek -drain=false"},
		{1024, "-files 9 -cold DIR -pipeline 3"},
	} {
		dir := someFiles(t, c.size, 9)
		flags := fmt.Sprintf("-mode get -conns 4 -size %d %s", c.size, strings.ReplaceAll(c.flags, "DIR", dir))
		r, err := measured(t, serve(t, serving(dir, asIs)), strings.Fields(flags)...)
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 || r.Bytes == 0 || r.Verified < r.Bytes {
			t.Errorf("%s: %+v", flags, r)
		}
	}
}

// wrong is answers that are not what they should be, each the eighth of a connection,
// or all.
var wrong = []struct {
	name  string
	spoil func(b []byte) []byte
	want  string
}{
	{"a byte", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "byte"},
	{"the status", func(b []byte) []byte { return bytes.Replace(b, []byte("200"), []byte("206"), 1) }, "status"},
	{"the length", func(b []byte) []byte { return bytes.Replace(b, []byte(": 1024"), []byte(": 1023"), 1) }, "Content-Length"},
	{"no length", func(b []byte) []byte { return bytes.Replace(b, []byte("content-length"), []byte("content-langth"), 1) }, "no Content-Length"},
	{"no end of the head", func([]byte) []byte { return make([]byte, 2*headMax) }, "longer than"},
	{"more than the file", func(b []byte) []byte { return append(b, b...) }, ""},
}

func TestWrongFilesFailTheRun(t *testing.T) {
	dir := someFiles(t, 1024, 1)
	for _, c := range wrong {
		addr := serve(t, serving(dir, func(n int, b []byte) []byte {
			if n == 7 {
				return c.spoil(b)
			}
			return b
		}))
		_, err := measured(t, addr, "-mode", "get", "-conns", "2", "-size", "1024", "-files", "1")
		if w := (*payloadError)(nil); !errors.As(err, &w) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want a wrong payload with %q", c.name, err, c.want)
		}
	}
}

func TestHeadsMayComeInPieces(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	for size := 1; size <= len(answer); size++ {
		var h head
		var body []byte
		for from := 0; from < len(answer); from += size {
			b := answer[from:min(from+size, len(answer))]
			if !h.whole {
				n, err := h.take(b)
				if err != nil {
					t.Fatal(err)
				}
				b = b[n:]
			}
			body = append(body, b...)
		}
		if err := h.check(5); err != nil || string(body) != "hello" {
			t.Errorf("in pieces of %d: body %q, %v", size, body, err)
		}
	}
}

func TestWrkAsksForFilesAndTheyAreVerifiedAround(t *testing.T) {
	if _, err := exec.LookPath("wrk"); err != nil {
		t.Skip("wrk is missing: on Debian, 'apt-get install wrk'")
	}
	dir := someFiles(t, 1024, 40)
	run := func(handle func(net.Conn), flags ...string) (r result.Report, err error) {
		p, err := parsePlan(append([]string{"-mode", "wrk", "-addr", serve(t, handle).String(), "-warmup", "10ms", "-window", "100ms", "-conns", "4", "-size", "1024"}, flags...))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := byWrk(p, &out); err != nil {
			return r, err
		}
		_, told, _ := strings.Cut(out.String(), result.Began+"\n"+result.Ended+"\n")
		return r, json.Unmarshal([]byte(told), &r)
	}
	for _, flags := range [][]string{{"-files", "1"}, {"-files", "40"}, {"-files", "40", "-cold", dir, "-drain=false"}} {
		r, err := run(serving(dir, asIs), flags...)
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 || r.Bytes < r.Requests*1024 || r.Bytes > (r.Requests+4)*1100 || r.Latency.P50 <= 0 || r.Verified == 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
	for _, c := range wrong {
		_, err := run(serving(dir, func(_ int, b []byte) []byte { return c.spoil(b) }), "-files", "1")
		if w := (*payloadError)(nil); !errors.As(err, &w) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want a wrong payload with %q", c.name, err, c.want)
		}
	}
	// Only wrk sees these: they come when a visit has long ended.
	long := func(n int, b []byte) []byte {
		if n < 40 {
			return b
		}
		return bytes.Replace(b, []byte("X: y"), []byte("X: "+strings.Repeat("y", 2000)), 1)
	}
	if _, err := run(serving(dir, long), "-files", "1", "-warmup", "0s"); err == nil || !strings.Contains(err.Error(), "each would be right") {
		t.Errorf("answers that are too long: %v", err)
	}
	if _, err := run(serving(t.TempDir(), asIs), "-files", "1"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no such file: %v", err)
	}
}

func TestColdFilesLeaveThePageCache(t *testing.T) {
	const size = 1 << 20
	dir := someFiles(t, size, 1)
	f, err := os.Open(filepath.Join(dir, files.Name(size, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	set := fileSet{size: size, n: 1, cold: dir}
	if err := set.drop(0); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = unix.Preadv2(int(f.Fd()), [][]byte{b}, 0, unix.RWF_NOWAIT)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this file system does not tell what is in memory")
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the file is in memory: %v", err)
	}
}

func TestFlagsOfFilesAreChecked(t *testing.T) {
	for _, bad := range []string{"-mode get", "-mode echo -files 1", "-mode get -files -1", "-mode get -files 1000000", "-mode get -conns 4 -files 3 -cold /tmp", "-mode wrk -cold /tmp", "-mode get -conns 4 -files 4 -rate 5 -cold /tmp", "-mode page -rate 5", "-mode get -files 1 -window 0 -rate 5"} {
		if _, err := parsePlan(append([]string{"-addr", "127.0.0.1:1"}, strings.Fields(bad)...)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := parsePlan(strings.Fields("-addr 127.0.0.1:1 -mode get -files 1 -window 0")); err != nil {
		t.Error(err)
	}
}
