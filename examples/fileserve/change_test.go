//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	stdnet "net"

	"example.com/ringnet/ring"
)

// until asks for a path until the answer is want, and says how long that took.
func (c *client) until(path string, status int, want []byte) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		a, b := c.get(path)
		if a.StatusCode == status && (status != 200 || bytes.Equal(b, want)) {
			return time.Since(began)
		}
		if time.Since(began) > patience {
			c.t.Fatalf("%s is still %d with %d bytes", path, a.StatusCode, len(b))
		}
	}
}

// seen is within what time a change has to be seen: a second, and what a busy machine
// may be late by.
const seen = time.Second + 500*time.Millisecond

// Files that are asked for all the time: written over, replaced, replaced by one that
// looks the same, deleted, made anew, made unreadable, and made a directory.
func TestChangesAreSeenWithinASecond(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.cacheFile = 1000 })
		s.site.tree.rest = restFor
		// Both at the same time, one out of memory and one by SendFile.
		const small, large = 100, 100_000
		type version struct{ small, large []byte }
		one, two, three := version{payload(1, small), payload(1, large)}, version{payload(2, small), payload(2, large)}, version{payload(3, small+1), payload(3, large+1)}
		path := filepath.Join(s.dir, "small")
		write := func(v version, names ...string) error {
			return errors.Join(os.WriteFile(filepath.Join(s.dir, names[0]), v.small, 0o644), os.WriteFile(filepath.Join(s.dir, names[1]), v.large, 0o644))
		}
		both := func(do func(name string) error) error {
			return errors.Join(do(filepath.Join(s.dir, "small")), do(filepath.Join(s.dir, "large")))
		}
		if err := write(one, "small", "large"); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		asBefore := func(name string) error { return os.Chtimes(name, st.ModTime(), st.ModTime()) }
		if err := both(asBefore); err != nil {
			t.Fatal(err)
		}
		c := dial(t, s.addr)
		c.until("/small", 200, one.small)
		c.until("/large", 200, one.large)
		for _, step := range []struct {
			name   string
			do     func() error
			status int
			want   version
		}{
			{"written over", func() error { return write(three, "small", "large") }, 200, three},
			{"replaced", func() error {
				return errors.Join(write(one, "small.new", "large.new"), both(func(name string) error { return os.Rename(name+".new", name) }))
			}, 200, one},
			{"replaced, with size and time as before", func() error {
				return errors.Join(write(two, "small.new", "large.new"), both(func(name string) error {
					return errors.Join(asBefore(name), asBefore(name+".new"), os.Rename(name+".new", name))
				}))
			}, 200, two},
			{"written over, with size and time as before", func() error { return errors.Join(write(one, "small", "large"), both(asBefore)) }, 200, one},
			{"deleted", func() error { return both(os.Remove) }, 404, version{}},
			{"made anew", func() error { return write(three, "small", "large") }, 200, three},
			{"a directory", func() error {
				return both(func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o755)) })
			}, 301, version{}},
			{"a file again", func() error { return errors.Join(both(os.Remove), write(two, "small", "large")) }, 200, two},
		} {
			_ = c.SetDeadline(time.Now().Add(patience))
			if err := step.do(); err != nil {
				t.Fatal(step.name, err)
			}
			if took := c.until("/small", step.status, step.want.small) + c.until("/large", step.status, step.want.large); took > seen {
				t.Errorf("%s: seen after %v", step.name, took)
			}
		}
	})
}

// A file that is cut while it is sent ends the connection, and what was sent before is
// right; the server goes on.
func TestAFileThatIsCutEndsItsAnswer(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		want := payload(1, 64<<20)
		s.file("f", want)
		s.file("g", []byte("g"))
		c := dial(t, s.addr)
		c.send("GET /f HTTP/1.1", "Host: x")
		got := make([]byte, 1<<20)
		if _, err := io.ReadFull(c.in, got); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(s.dir, "f"), 1000); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(c.in)
		got = append(got, rest...)
		_, got, _ = bytes.Cut(got, []byte("\r\n\r\n"))
		if len(got) >= len(want) {
			t.Errorf("all of it came (%v)", err)
		} else if err := differ(got, want[:len(got)]); err != nil {
			t.Errorf("what came: %v", err)
		}
		c = dial(t, s.addr)
		if a, b := c.get("/g"); a.StatusCode != 200 || string(b) != "g" {
			t.Errorf("afterwards: %d %q", a.StatusCode, b)
		}
		c.until("/f", 200, want[:1000])
	})
}

// A file that is replaced while it is sent is sent to its end; whoever asks later gets the
// new one. Its descriptor is closed when nobody needs it.
func TestAFileThatIsReplacedIsSentToItsEnd(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.openFiles = 1 })
		want := payload(1, 32<<20)
		s.file("f", want)
		s.file("g", payload(2, 1<<20))
		slow := dial(t, s.addr)
		slow.send("GET /f HTTP/1.1", "Host: x")
		if _, err := slow.in.Peek(1); err != nil {
			t.Fatal(err)
		}
		s.file("new", payload(3, 1<<20))
		if err := os.Rename(filepath.Join(s.dir, "new"), filepath.Join(s.dir, "f")); err != nil {
			t.Fatal(err)
		}
		c := dial(t, s.addr)
		c.until("/f", 200, payload(3, 1<<20))
		c.until("/g", 200, payload(2, 1<<20)) // only one is kept open
		if _, b := slow.answer("GET"); differ(b, want) != nil {
			t.Error(differ(b, want))
		}
	})
}

// More files than the cache may keep: all are right, and it keeps to its bounds.
func TestTheCacheKeepsToItsBounds(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		const files, small = 60, 5000
		s := serve(t, engine, t.TempDir(), func(c *config) { c.cacheBytes, c.cacheFile, c.openFiles = 50_000, small, 5 })
		name := func(i int) string { return string(rune('a'+i/26)) + string(rune('a'+i%26)) }
		size := func(i int) int { return small - files/2 + i } // half of them are too large for memory
		for i := range files {
			s.file(name(i), payload(uint64(i), size(i)))
		}
		c := dial(t, s.addr)
		for range 3 {
			for i := range files {
				if _, b := c.get("/" + name(i)); differ(b, payload(uint64(i), size(i))) != nil {
					t.Fatal(i, differ(b, payload(uint64(i), size(i))))
				}
			}
		}
		_ = c.Close()
		if err := s.srv.Close(); err != nil {
			t.Fatal(err)
		}
		k := &s.site.desks[0].cache
		k.closing.Wait()
		if k.memory > k.maxMemory || k.open > k.maxOpen || len(k.entries) != k.order.Len() || len(k.entries) < 3 {
			t.Errorf("it holds %d bytes of %d, %d files of %d, %d entries, %d in order", k.memory, k.maxMemory, k.open, k.maxOpen, len(k.entries), k.order.Len())
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range open {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); len(to) > len(s.dir) && to[:len(s.dir)] == s.dir {
				n++
			}
		}
		if n > k.open+1 { // and the root
			t.Errorf("%d descriptors are open", n)
		}
	})
}

// Many ask for the same file at once that nobody has looked at: one looks, all get it.
func TestManyWaitForOneLook(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		want := payload(1, 30_000)
		s.file("f", want)
		var all []*client
		for range 100 {
			all = append(all, dial(t, s.addr))
		}
		for i, c := range all {
			c.send("GET /f HTTP/1.1", "Host: x")
			if i%10 == 0 {
				_ = c.Conn.(*stdnet.TCPConn).SetLinger(0)
				_ = c.Close() // whoever looked may be among them
			}
		}
		for i, c := range all {
			if i%10 != 0 {
				if _, b := c.answer("GET"); differ(b, want) != nil {
					t.Fatal(differ(b, want))
				}
			}
		}
	})
}

// Many ask for different files, and there is one who can look for them.
func TestManyWaitForOneWorker(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		const files = 100
		s := serve(t, engine, t.TempDir(), func(c *config) { c.workers = 1 })
		var all []*client
		for i := range files {
			s.file(strconv.Itoa(i), payload(uint64(i), 1000))
			all = append(all, dial(t, s.addr))
		}
		for i, c := range all {
			c.send("GET /"+strconv.Itoa(i)+" HTTP/1.1", "Host: x")
		}
		for i, c := range all {
			if a, b := c.answer("GET"); a.StatusCode != 200 || differ(b, payload(uint64(i), 1000)) != nil {
				t.Error(i, a.StatusCode, differ(b, payload(uint64(i), 1000)))
			}
		}
	})
}

// Requests that come in one piece are answered in order, small and large ones in turn, and
// others at any pace.
func TestPipelining(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		contents := [][]byte{payload(1, 10), payload(2, 3000), payload(3, 20_000), payload(4, 65536), payload(5, 65537), payload(6, 3<<20), nil}
		var requests []byte
		for i, b := range contents {
			s.file(string(rune('a'+i)), b)
			requests = append(requests, "GET /"+string(rune('a'+i))+" HTTP/1.1\r\nHost: x\r\n\r\n"...)
			requests = append(requests, "HEAD /"+string(rune('a'+i))+" HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"...)
		}
		c := dial(t, s.addr)
		const rounds = 20
		go func() {
			for range rounds {
				_, _ = c.Write(requests)
			}
		}()
		for range rounds {
			for i, want := range contents {
				if a, b := c.answer("GET"); a.StatusCode != 200 || differ(b, want) != nil {
					t.Fatal(i, a.StatusCode, differ(b, want))
				}
				if a, _ := c.answer("HEAD"); a.StatusCode != 200 || a.ContentLength != int64(len(want)) {
					t.Fatal(i, a.StatusCode, a.ContentLength)
				}
			}
		}
		// One byte at a time.
		for _, b := range requests[:200] {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if _, b := c.answer("GET"); differ(b, contents[0]) != nil {
			t.Error(differ(b, contents[0]))
		}
	})
}

// What comes in one piece may be more than the buffer for headers holds, and end with a
// request where that ends: of TLS, pieces are as large as a record. (What was left of such a
// piece was once forgotten.)
func TestPipeliningBeyondTheBuffer(t *testing.T) {
	schemes(t, func(t *testing.T, s *testSite, url, cert string) {
		s.file("f", []byte("f"))
		c := dial(t, s.addr)
		if cert != "" {
			pem, err := os.ReadFile(cert)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(pem)
			c.Conn = tls.Client(c.Conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
			c.in = bufio.NewReader(c.Conn)
		}
		request := "GET /f HTTP/1.1\r\nHost: x\r\nX: "
		request += strings.Repeat("x", 64-len(request)-4) + "\r\n\r\n"
		const n = 4000
		go func() { _, _ = io.WriteString(c, strings.Repeat(request, n)) }()
		for i := range n {
			if a, b := c.answer("GET"); a.StatusCode != 200 || string(b) != "f" {
				t.Fatal(i, a.StatusCode, b)
			}
		}
	})
}

// Several loops serve the same files while these are replaced: every answer is one version,
// whole, and none is older than the one before on its connection.
func TestManyLoopsAndFilesThatChange(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), func(c *config) { c.loops, c.cacheBytes, c.cacheFile, c.openFiles = 3, 300_000, 50_000, 6 })
		sizes := []int{100, 20_000, 50_000, 200_000}
		version := func(v, size int) []byte { return append([]byte{byte(v)}, payload(uint64(v), size)...) }
		replace := func(v int) {
			for i, size := range sizes {
				name := "f" + strconv.Itoa(i)
				s.file("new", version(v, size))
				if err := os.Rename(filepath.Join(s.dir, "new"), filepath.Join(s.dir, name)); err != nil {
					t.Error(err)
				}
			}
		}
		replace(0)
		var done sync.WaitGroup
		stop := make(chan struct{})
		for k := range 12 {
			c := dial(t, s.addr)
			done.Go(func() {
				last := make([]int, len(sizes))
				for n := k; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					i := n % len(sizes)
					if _, err := io.WriteString(c, "GET /f"+strconv.Itoa(i)+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
						t.Error(err)
						return
					}
					a, err := http.ReadResponse(c.in, nil)
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(a.Body)
					if err != nil || len(b) == 0 || differ(b, version(int(b[0]), sizes[i])) != nil || int(b[0]) < last[i] {
						t.Errorf("file %d: %d bytes, after version %d: %v", i, len(b), last[i], err)
						return
					}
					last[i] = int(b[0])
				}
			})
		}
		for v := range 20 {
			replace(v)
			time.Sleep(100 * time.Millisecond) // the pace of whoever changes them
		}
		close(stop)
		done.Wait()
	})
}

// HTTP/1.0 ends with the answer, unless the client wants it otherwise; 1.1 likewise.
func TestWhenConnectionsEnd(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		s.file("f", payload(1, 100))
		s.file("g", payload(1, 1<<20))
		for _, path := range []string{"/f", "/g", "/none", "/f"} {
			for _, e := range []struct {
				lines  []string
				stays  bool
				fields string
			}{
				{[]string{" HTTP/1.0"}, false, "close"},
				{[]string{" HTTP/1.0", "Connection: keep-alive"}, true, "keep-alive"},
				{[]string{" HTTP/1.1", "Host: x", "Connection: close"}, false, "close"},
				{[]string{" HTTP/1.1", "Host: x"}, true, ""},
			} {
				c := dial(t, s.addr)
				e.lines[0] = "GET " + path + e.lines[0]
				c.send(e.lines...)
				a, _ := c.answer("GET")
				said := a.Header.Get("Connection")
				if a.Close && said == "" {
					said = "close" // package http has taken it out
				}
				if said != e.fields {
					t.Errorf("%q: Connection: %q, want %q", e.lines, said, e.fields)
				}
				if !e.stays {
					c.ends()
				} else if a, _ := c.get("/f"); a.StatusCode != 200 {
					t.Errorf("%q: the next: %d", e.lines, a.StatusCode)
				}
			}
		}
	})
}
