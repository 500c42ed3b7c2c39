//go:build linux

package main

import (
	"bytes"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	stdnet "net"

	"example.com/ringnet/ring"
)

// secret is in every file that must not be served.
const secret = "this is not for you"

// trap makes a tree with all that a server could fall for; around it lies what is secret.
func trap(t testing.TB) (dir string) {
	t.Helper()
	outside := t.TempDir()
	dir = filepath.Join(outside, "root")
	for name, content := range map[string]string{
		"root/a": "a", "root/b.txt": "b", "root/index.html": "index", "root/dir/index.html": "dir", "root/dir/sub/c": "c", "root/bare/d": "d",
		"root/with space": "space", "root/per%cent": "per cent", "root/..two": secret, "root/dots..in.the..name": "dots",
		"root/.env": secret, "root/.git/config": secret, "root/dir/.htpasswd": secret, "root/grüße": "grüße", "root/semi;colon": "semi", "root/plus+": "plus",
		"root/odd.html/index.html": "odd", "root/index/index.html/x": "x", "root/back\\slash": secret, "secret": secret, "rootling/secret": secret, "index.html": secret,
	} {
		file(t, outside, name, []byte(content))
	}
	for name, to := range map[string]string{
		"inside": "dir/sub/c", "indirect": "inside", "insidedir": "dir", "dir/up": "../a", "dir/sub/upup": "../../bare",
		"out": "../secret", "outdir": "..", "absolute": filepath.Join(outside, "secret"), "absolutedir": "/etc", "absoluteinside": filepath.Join(dir, "a"),
		"dir/out": "../../secret", "dir/outdir": "../..", "loop": "loop", "nowhere": "none", "around": "../root/a", "sibling": "../rootling",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "b.txt.gz"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Where we may, devices: the one of zeros, which would never end.
	_ = syscall.Mknod(filepath.Join(dir, "device"), syscall.S_IFCHR|0o644, 1<<8|5)
	// A path for a socket is short.
	if l, err := stdnet.Listen("unix", filepath.Join(dir, "socket")); err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return dir
}

// verdict is what is right for a target: it goes through the tree by itself, name by name.
func verdict(dir, target string) (status int, content, location string) {
	path, query, asks := strings.Cut(target, "?")
	path, _, _ = strings.Cut(path, "#")
	names := strings.Split(path, "/")[1:]
	last := len(names) - 1
	for i, raw := range names {
		name, err := url.PathUnescape(raw)
		if err != nil {
			return http.StatusBadRequest, "", ""
		}
		names[i] = name
	}
	for i, name := range names {
		if name == "" && i < last || strings.HasPrefix(name, ".") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\\' }) {
			return http.StatusNotFound, "", ""
		}
	}
	asDir := names[last] == ""
	if asDir {
		names[last] = "index.html"
	}
	at, st := walk(dir, names)
	switch {
	case st == nil:
		return http.StatusNotFound, "", ""
	case st.IsDir() && !asDir:
		location = (&url.URL{Path: "/" + strings.Join(names, "/") + "/"}).EscapedPath()
		if asks && !strings.Contains(target[:strings.Index(target, "?")], "#") {
			query, _, _ = strings.Cut(query, "#")
			location += "?" + query
		}
		return http.StatusMovedPermanently, "", location
	case !st.Mode().IsRegular():
		return http.StatusNotFound, "", ""
	}
	b, err := os.ReadFile(at)
	if err != nil {
		return http.StatusInternalServerError, "", ""
	}
	return http.StatusOK, string(b), ""
}

// walk follows names from the root, and links within it.
func walk(root string, names []string) (string, os.FileInfo) {
	var done []string
	for links := 0; len(names) > 0; {
		name := names[0]
		names = names[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(done) == 0 {
				return "", nil
			}
			done = done[:len(done)-1]
			continue
		}
		at := filepath.Join(append([]string{root}, append(done, name)...)...)
		st, err := os.Lstat(at)
		if err != nil {
			return "", nil
		}
		if st.Mode()&os.ModeSymlink != 0 {
			to, err := os.Readlink(at)
			if links++; err != nil || filepath.IsAbs(to) || links > 40 {
				return "", nil
			}
			names = append(strings.Split(to, "/"), names...)
			continue
		}
		if len(names) > 0 && !st.IsDir() {
			return "", nil
		}
		done = append(done, name)
	}
	at := filepath.Join(append([]string{root}, done...)...)
	st, err := os.Lstat(at)
	if err != nil {
		return "", nil
	}
	return at, st
}

// targets have been tried on other servers.
var targets = []string{
	"/", "/a", "/b.txt", "/dir", "/dir/", "/dir/sub/c", "/dir/sub", "/dir/sub/", "/bare/d", "/index.html", "/odd.html", "/odd.html/", "/index", "/index/",
	"/inside", "/indirect", "/insidedir", "/insidedir/", "/insidedir/sub/c", "/dir/up", "/dir/sub/upup/d", "/out", "/outdir", "/outdir/secret", "/outdir/", "/absolute",
	"/absolutedir/passwd", "/absoluteinside", "/dir/out", "/dir/outdir/secret", "/loop", "/loop/x", "/nowhere", "/around", "/sibling/secret", "/fifo", "/device", "/socket", "/fifo/",
	"/.env", "/.git/config", "/dir/.htpasswd", "/%2eenv", "/%2Egit/config", "/.", "/..", "/./a", "/dir/../a", "/dir/./sub/c", "/../secret", "/..%2fsecret", "/%2e%2e/secret",
	"/%2e%2e%2fsecret", "/dir/..%2f..%2fsecret", "/dir%2findex.html", "/dir%2Findex.html", "/..\\secret", "/..%5csecret", "/back%5cslash", "/back\\slash", "/%5c..%5csecret",
	"/a%00", "/a%00.txt", "/%00", "/secret", "//a", "//dir", "///", "//etc/passwd", "/%2fetc%2fpasswd", "/dir//index.html", "/dir//", "/a/", "/a/b", "/..two", "/dots..in.the..name",
	"/with%20space", "/per%25cent", "/per%cent", "/%", "/%a", "/%zz", "/gr%C3%BC%C3%9Fe", "/gr\xc3\xbc\xc3\x9fe", "/gr%FC", "/semi;colon", "/semi%3bcolon", "/plus+", "/plus%2b",
	"/a?b=c", "/dir?b=c", "/dir?b=c#d", "/dir#d", "/dir#d?e", "/a#b", "/?x", "/..?x", "/a?/../../secret", "/dir?//evil.example", "/%61", "/%64ir", "/a%2", "/%252e%252e/secret",
	"/dir/%2e%2e/a", "/dir/.%2e/a", "/%c0%ae%c0%ae/secret", "/%ef%bc%8e%ef%bc%8e/secret", "/a:$DATA", "/a.", "/a%20", "/A", "/" + strings.Repeat("a", 300), "/" + strings.Repeat("a/", 500),
	"/%0d%0aX:%20y", "/dir%0d%0a", "/%7f", "/~", "/*",
}

func tryTarget(t *testing.T, dir string, c *client, target string) {
	c.t = t
	status, content, location := verdict(dir, target)
	_ = c.SetDeadline(time.Now().Add(patience))
	a, b := c.get(target)
	if bytes.Contains(b, []byte(secret)) {
		t.Errorf("%q gives away a secret", target)
	}
	if a.StatusCode != status {
		t.Errorf("%q: status %d, want %d", target, a.StatusCode, status)
	}
	if status == http.StatusOK && string(b) != content {
		t.Errorf("%q: content %q, want %q", target, b, content)
	}
	if got := a.Header.Get("Location"); got != location || strings.HasPrefix(got, "//") {
		t.Errorf("%q: location %q, want %q", target, got, location)
	}
}

func TestNothingOutsideTheRootIsServed(t *testing.T) {
	dir := trap(t)
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, dir, nil)
		c := dial(t, s.addr)
		for _, target := range targets {
			tryTarget(t, dir, c, target)
			tryTarget(t, dir, c, target) // as the cache has it
		}
	})
}

// The oracle itself must know a secret when it sees one.
func TestTheOracleOfTargets(t *testing.T) {
	dir := trap(t)
	for target, want := range map[string]int{"/a": 200, "/dir": 301, "/out": 404, "/.env": 404, "/fifo": 404, "/insidedir/sub/c": 200, "/absolutedir/passwd": 404, "/%zz": 400} {
		if got, content, _ := verdict(dir, target); got != want || strings.Contains(content, secret) {
			t.Errorf("%s: %d, want %d", target, got, want)
		}
	}
}

func FuzzTargets(f *testing.F) {
	for _, target := range targets {
		f.Add(target)
	}
	dir := trap(f)
	var conf config
	conf.flags(flag.NewFlagSet("", flag.PanicOnError))
	conf.root, conf.loops, conf.cacheFile, conf.openFiles, conf.idleTimeout = dir, 1, 3, 2, 0
	site, err := newSite(&conf)
	if err != nil {
		f.Fatal(err)
	}
	srv, err := site.server(ring.Auto)
	if err != nil {
		f.Fatal(err)
	}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = srv.Close()
		site.close()
	})
	c := dial(f, srv.Addrs()[0].String()) // for all runs, which are in turn
	f.Fuzz(func(t *testing.T, target string) {
		if len(target) > 4000 || !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			t.Skip("no target that a request could have")
		}
		tryTarget(t, dir, c, target)
	})
}

func FuzzSpans(f *testing.F) {
	for _, r := range rules {
		for _, field := range r.fields {
			if value, ok := strings.CutPrefix(field, "Range: "); ok {
				f.Add(value, int64(10))
			}
		}
	}
	f.Add("bytes=9223372036854775807-9223372036854775807,-9223372036854775807", int64(1)<<62)
	f.Fuzz(func(t *testing.T, field string, size int64) {
		if size < 0 {
			t.Skip()
		}
		all, ok := spans([]byte(field), size)
		if !ok && len(all) > 0 || len(all) > rangesMost {
			t.Fatalf("%d spans, %v", len(all), ok)
		}
		sum := int64(0)
		for _, s := range all {
			if s.from < 0 || s.n <= 0 || s.n > size-s.from {
				t.Fatalf("%q of %d: %+v", field, size, s)
			}
			if sum += s.n; sum > size || sum < 0 {
				t.Fatalf("%q of %d: %d bytes and more", field, size, sum)
			}
		}
	})
}

// What is no request gets an answer that says so, and the end.
func TestRequestsThatAreNone(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		s.file("a", []byte("a"))
		for _, r := range []struct {
			name, request string
			status        int
		}{
			{"no request line", "hello\r\n\r\n", 400},
			{"no target", "GET HTTP/1.1\r\n\r\n", 400},
			{"no host", "GET /a HTTP/1.1\r\n\r\n", 400},
			{"two hosts", "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
			{"a space before the colon", "GET /a HTTP/1.1\r\nHost : x\r\n\r\n", 400},
			{"two lengths", "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
			{"a transfer coding that nobody knows", "GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", 400},
			{"a control character", "GET /a\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
			{"a version to come", "GET /a HTTP/2.0\r\nHost: x\r\n\r\n", 505},
			{"a large header", "GET /a HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n", 431},
			{"a large header without end", "GET /a HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20000), 431},
			{"a long target", "GET /" + strings.Repeat("x", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
			{"content to come", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", 405},
			{"content in chunks", "GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200},
			{"content that waits", "PUT /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 405},
		} {
			t.Run(r.name, func(t *testing.T) {
				c := dial(t, s.addr)
				if _, err := io.WriteString(c, r.request); err != nil {
					t.Fatal(err)
				}
				a, _ := c.answer("GET")
				if a.StatusCode != r.status || !a.Close {
					t.Errorf("status %d, closes: %v", a.StatusCode, a.Close)
				}
				if b := c.ends(); len(b) > 0 {
					t.Errorf("behind the answer: %q", b)
				}
			})
		}
		for _, garbage := range []string{"", "\r\n", "GET", "GET /a HTTP/1.1\r\nHost: x\r\n", "\x16\x03\x01"} {
			c := dial(t, s.addr)
			if _, err := io.WriteString(c, garbage); err != nil {
				t.Fatal(err)
			}
			if err := c.Conn.(*stdnet.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			c.ends()
		}
		if a, b := dial(t, s.addr).get("/a"); a.StatusCode != 200 || string(b) != "a" {
			t.Errorf("afterwards: %d %q", a.StatusCode, b)
		}
	})
}
