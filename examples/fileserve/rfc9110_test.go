//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/ringnet/ring"
)

// rule is a request, and what RFC 9110 has for it.
type rule struct {
	section string
	name    string
	method  string // default GET
	path    string // default /ten
	fields  []string
	status  int
	body    string            // of the answer; with parts: unused
	parts   []string          // "range:content" of each part of a multipart answer
	want    map[string]string // fields of the answer; "": must be missing
}

// Ten bytes, last changed at a time that has been over for long.
const (
	ten     = "0123456789"
	tenTag  = `"16345785d8a0000-a"` // 10^17 ns, 10 bytes
	changed = "Sat, 03 Mar 1973 09:46:40 GMT"
	sooner  = "Sat, 03 Mar 1973 09:46:39 GMT"
	later   = "Sat, 03 Mar 1973 09:46:41 GMT"
)

var rules = []rule{
	{section: "9.3.1", name: "GET", status: 200, body: ten, want: map[string]string{"ETag": tenTag, "Last-Modified": changed, "Accept-Ranges": "bytes", "Content-Length": "10", "X-Content-Type-Options": "nosniff", "Content-Range": "", "Vary": "", "Content-Encoding": ""}},
	{section: "9.3.2", name: "HEAD has the fields of GET, and no content", method: "HEAD", status: 200, want: map[string]string{"ETag": tenTag, "Last-Modified": changed, "Content-Length": "10"}},
	{section: "9.3.2", name: "HEAD of what is not there", method: "HEAD", path: "/none", status: 404},
	{section: "15.5.6", name: "a method that is not allowed", method: "DELETE", status: 405, body: "405 Method Not Allowed\n", want: map[string]string{"Allow": "GET, HEAD"}},
	{section: "15.5.6", name: "OPTIONS of everything", method: "OPTIONS", path: "*", status: 405, body: "405 Method Not Allowed\n", want: map[string]string{"Allow": "GET, HEAD"}},
	{section: "15.5.5", name: "what is not there", path: "/none", status: 404, body: "404 Not Found\n"},
	{section: "15.4.2", name: "a directory without its slash", path: "/dir?a=b", status: 301, body: "301 Moved Permanently\n", want: map[string]string{"Location": "/dir/?a=b"}},
	{section: "9.3.1", name: "a directory's index", path: "/dir/", status: 200, body: "<p>index", want: map[string]string{"Content-Type": "text/html; charset=utf-8"}},
	{section: "15.5.5", name: "a directory without an index", path: "/bare/", status: 404, body: "404 Not Found\n"},
	{section: "15.5.5", name: "a file as a directory", path: "/ten/", status: 404, body: "404 Not Found\n"},
	{section: "7.1", name: "the absolute form of a target", path: "http://elsewhere/ten?x", status: 200, body: ten},
	{section: "9.3.1", name: "an empty file", path: "/empty", status: 200, want: map[string]string{"Content-Length": "0"}},

	// 13.1.1 If-Match: strong comparison.
	{section: "13.1.1", name: "If-Match *", fields: []string{"If-Match: *"}, status: 200, body: ten},
	{section: "13.1.1", name: "If-Match, the same", fields: []string{"If-Match: " + tenTag}, status: 200, body: ten},
	{section: "13.1.1", name: "If-Match, one of a list", fields: []string{`If-Match: "a", ` + tenTag + `,"b"`}, status: 200, body: ten},
	{section: "13.1.1", name: "If-Match, in the second line", fields: []string{`If-Match: "a"`, "If-Match: " + tenTag}, status: 200, body: ten},
	{section: "13.1.1", name: "If-Match, another", fields: []string{`If-Match: "a"`}, status: 412, body: "412 Precondition Failed\n", want: map[string]string{"ETag": tenTag}},
	{section: "13.1.1", name: "If-Match, weak never matches", fields: []string{"If-Match: W/" + tenTag}, status: 412, body: "412 Precondition Failed\n"},
	{section: "13.1.1", name: "If-Match of HEAD", method: "HEAD", fields: []string{`If-Match: "a"`}, status: 412},
	{section: "13.1.1", name: "If-Match that is empty", fields: []string{"If-Match:"}, status: 412, body: "412 Precondition Failed\n"},
	// 13.1.2 If-None-Match: weak comparison.
	{section: "13.1.2", name: "If-None-Match *", fields: []string{"If-None-Match: *"}, status: 304, want: map[string]string{"ETag": tenTag, "Content-Type": "", "Content-Length": ""}},
	{section: "13.1.2", name: "If-None-Match, the same", fields: []string{"If-None-Match: " + tenTag}, status: 304},
	{section: "13.1.2", name: "If-None-Match, weak matches", fields: []string{"If-None-Match: W/" + tenTag}, status: 304},
	{section: "13.1.2", name: "If-None-Match, one of a list", fields: []string{`If-None-Match: "a,b" , W/` + tenTag}, status: 304},
	{section: "13.1.2", name: "If-None-Match, another", fields: []string{`If-None-Match: "a"`}, status: 200, body: ten},
	{section: "13.1.2", name: "If-None-Match without quotes", fields: []string{"If-None-Match: " + strings.Trim(tenTag, `"`)}, status: 200, body: ten},
	{section: "13.1.2", name: "If-None-Match of HEAD", method: "HEAD", fields: []string{"If-None-Match: " + tenTag}, status: 304},
	// 13.1.3 If-Modified-Since.
	{section: "13.1.3", name: "If-Modified-Since, the same", fields: []string{"If-Modified-Since: " + changed}, status: 304, want: map[string]string{"ETag": tenTag}},
	{section: "13.1.3", name: "If-Modified-Since, later", fields: []string{"If-Modified-Since: " + later}, status: 304},
	{section: "13.1.3", name: "If-Modified-Since, sooner", fields: []string{"If-Modified-Since: " + sooner}, status: 200, body: ten},
	{section: "13.1.3", name: "If-Modified-Since that is no date", fields: []string{"If-Modified-Since: yesterday"}, status: 200, body: ten},
	{section: "5.6.7", name: "If-Modified-Since in RFC 850's form", fields: []string{"If-Modified-Since: Saturday, 03-Mar-73 09:46:40 GMT"}, status: 304},
	{section: "5.6.7", name: "If-Modified-Since in asctime's form", fields: []string{"If-Modified-Since: Sat Mar  3 09:46:40 1973"}, status: 304},
	// 13.1.4 If-Unmodified-Since.
	{section: "13.1.4", name: "If-Unmodified-Since, the same", fields: []string{"If-Unmodified-Since: " + changed}, status: 200, body: ten},
	{section: "13.1.4", name: "If-Unmodified-Since, sooner", fields: []string{"If-Unmodified-Since: " + sooner}, status: 412, body: "412 Precondition Failed\n"},
	{section: "13.1.4", name: "If-Unmodified-Since that is no date", fields: []string{"If-Unmodified-Since: tomorrow"}, status: 200, body: ten},
	// 13.2 Who comes first.
	{section: "13.2.1", name: "a condition on what is not there", path: "/none", fields: []string{"If-None-Match: *"}, status: 404, body: "404 Not Found\n"},
	{section: "13.2.2", name: "If-Match before If-Unmodified-Since", fields: []string{"If-Match: " + tenTag, "If-Unmodified-Since: " + sooner}, status: 200, body: ten},
	{section: "13.2.2", name: "If-None-Match before If-Modified-Since", fields: []string{`If-None-Match: "a"`, "If-Modified-Since: " + later}, status: 200, body: ten},
	{section: "13.2.2", name: "If-None-Match and If-Modified-Since", fields: []string{"If-None-Match: " + tenTag, "If-Modified-Since: " + sooner}, status: 304},
	{section: "13.2.2", name: "412 before 304", fields: []string{`If-Match: "a"`, "If-None-Match: " + tenTag}, status: 412, body: "412 Precondition Failed\n"},
	{section: "13.2.2", name: "304 after If-Match", fields: []string{"If-Match: " + tenTag, "If-None-Match: " + tenTag}, status: 304},
	{section: "13.2.2", name: "304 before 206", fields: []string{"If-None-Match: " + tenTag, "Range: bytes=0-1"}, status: 304},
	{section: "13.2.2", name: "412 before 416", fields: []string{`If-Match: "a"`, "Range: bytes=20-"}, status: 412, body: "412 Precondition Failed\n"},

	// 14 Ranges.
	{section: "14.1.2", name: "first and last", fields: []string{"Range: bytes=2-4"}, status: 206, body: "234", want: map[string]string{"Content-Range": "bytes 2-4/10", "Content-Length": "3", "ETag": tenTag, "Last-Modified": changed}},
	{section: "14.1.2", name: "one byte", fields: []string{"Range: bytes=0-0"}, status: 206, body: "0", want: map[string]string{"Content-Range": "bytes 0-0/10"}},
	{section: "14.1.2", name: "from one on", fields: []string{"Range: bytes=7-"}, status: 206, body: "789", want: map[string]string{"Content-Range": "bytes 7-9/10"}},
	{section: "14.1.2", name: "the last ones", fields: []string{"Range: bytes=-3"}, status: 206, body: "789", want: map[string]string{"Content-Range": "bytes 7-9/10"}},
	{section: "14.1.2", name: "more of the last ones than there are", fields: []string{"Range: bytes=-30"}, status: 206, body: ten, want: map[string]string{"Content-Range": "bytes 0-9/10"}},
	{section: "14.1.2", name: "a last one that is not there", fields: []string{"Range: bytes=8-99999999999999999999"}, status: 206, body: "89", want: map[string]string{"Content-Range": "bytes 8-9/10"}},
	{section: "14.1.2", name: "a first one that is not there", fields: []string{"Range: bytes=10-"}, status: 416, body: "416 Requested Range Not Satisfiable\n", want: map[string]string{"Content-Range": "bytes */10"}},
	{section: "14.1.2", name: "a first one beyond all numbers", fields: []string{"Range: bytes=99999999999999999999-"}, status: 416, body: "416 Requested Range Not Satisfiable\n"},
	{section: "14.1.2", name: "the last none", fields: []string{"Range: bytes=-0"}, status: 416, body: "416 Requested Range Not Satisfiable\n", want: map[string]string{"Content-Range": "bytes */10"}},
	{section: "14.1", name: "the unit's case does not matter", fields: []string{"Range: BYTES=0-1"}, status: 206, body: "01"},
	{section: "14.2", name: "an unknown unit", fields: []string{"Range: lines=0-1"}, status: 200, body: ten},
	{section: "14.1.1", name: "last before first", fields: []string{"Range: bytes=4-2"}, status: 200, body: ten},
	{section: "14.1.1", name: "no number", fields: []string{"Range: bytes=a-b"}, status: 200, body: ten},
	{section: "14.1.1", name: "a sign", fields: []string{"Range: bytes=+1-2"}, status: 200, body: ten},
	{section: "14.1.1", name: "only a dash", fields: []string{"Range: bytes=-"}, status: 200, body: ten},
	{section: "14.1.1", name: "no set", fields: []string{"Range: bytes="}, status: 200, body: ten},
	{section: "14.1.1", name: "one good and one bad", fields: []string{"Range: bytes=0-1,x"}, status: 200, body: ten},
	{section: "14.2", name: "only of GET", method: "HEAD", fields: []string{"Range: bytes=0-1"}, status: 200, want: map[string]string{"Content-Length": "10", "Content-Range": ""}},
	{section: "14.6", name: "several", fields: []string{"Range: bytes=0-1,4-5, -1"}, status: 206, parts: []string{"bytes 0-1/10:01", "bytes 4-5/10:45", "bytes 9-9/10:9"}},
	{section: "14.6", name: "several, in the order asked for", fields: []string{"Range: bytes=7-8,0-2"}, status: 206, parts: []string{"bytes 7-8/10:78", "bytes 0-2/10:012"}},
	{section: "5.6.1.2", name: "several, with nothing between commas", fields: []string{"Range: bytes=,0-1 , ,4-4,"}, status: 206, parts: []string{"bytes 0-1/10:01", "bytes 4-4/10:4"}},
	{section: "15.3.7.2", name: "several, of which there is one", fields: []string{"Range: bytes=20-30,1-2"}, status: 206, body: "12", want: map[string]string{"Content-Range": "bytes 1-2/10"}},
	{section: "15.5.17", name: "several, of which there is none", fields: []string{"Range: bytes=20-30,40-"}, status: 416, body: "416 Requested Range Not Satisfiable\n"},
	{section: "14.2", name: "several, that come to more than there is", fields: []string{"Range: bytes=0-8,1-9"}, status: 200, body: ten},
	{section: "14.2", name: "very many", fields: []string{"Range: bytes=" + strings.Repeat("0-0,", 65)}, status: 200, body: ten},
	{section: "14.1.2", name: "of an empty file", path: "/empty", fields: []string{"Range: bytes=0-"}, status: 416, body: "416 Requested Range Not Satisfiable\n", want: map[string]string{"Content-Range": "bytes */0"}},
	{section: "14.1.2", name: "the last ones of an empty file", path: "/empty", fields: []string{"Range: bytes=-5"}, status: 200},
	// 13.1.5 If-Range.
	{section: "13.1.5", name: "If-Range, the same", fields: []string{"If-Range: " + tenTag, "Range: bytes=0-1"}, status: 206, body: "01"},
	{section: "13.1.5", name: "If-Range, another", fields: []string{`If-Range: "a"`, "Range: bytes=0-1"}, status: 200, body: ten},
	{section: "13.1.5", name: "If-Range, weak", fields: []string{"If-Range: W/" + tenTag, "Range: bytes=0-1"}, status: 200, body: ten},
	{section: "13.1.5", name: "If-Range, the date", fields: []string{"If-Range: " + changed, "Range: bytes=0-1"}, status: 206, body: "01"},
	{section: "13.1.5", name: "If-Range, a later date", fields: []string{"If-Range: " + later, "Range: bytes=0-1"}, status: 200, body: ten},
	{section: "13.1.5", name: "If-Range, nonsense", fields: []string{"If-Range: x", "Range: bytes=0-1"}, status: 200, body: ten},
	{section: "13.1.5", name: "If-Range of a range that is not there", fields: []string{`If-Range: "a"`, "Range: bytes=20-"}, status: 200, body: ten},
	{section: "13.1.5", name: "If-Range without ranges", fields: []string{`If-Range: "a"`}, status: 200, body: ten},

	// 12.5.3 Accept-Encoding; /text has both neighbours, /half only .gz, /old one that is older.
	{section: "12.5.3", name: "no Accept-Encoding", path: "/text.txt", status: 200, body: "text as it is", want: map[string]string{"Vary": "Accept-Encoding", "Content-Encoding": "", "Content-Type": "text/plain; charset=utf-8"}},
	{section: "12.5.3", name: "gzip", path: "/text.txt", fields: []string{"Accept-Encoding: gzip"}, status: 200, body: "text in gzip", want: map[string]string{"Vary": "Accept-Encoding", "Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}},
	{section: "12.5.3", name: "all of them", path: "/text.txt", fields: []string{"Accept-Encoding: gzip, deflate, br, zstd"}, status: 200, body: "text in zstd", want: map[string]string{"Content-Encoding": "zstd"}},
	{section: "12.4.2", name: "by weight", path: "/text.txt", fields: []string{"Accept-Encoding: zstd;q=0.5, gzip;q=0.8"}, status: 200, body: "text in gzip"},
	{section: "12.4.2", name: "none of weight 0", path: "/text.txt", fields: []string{"Accept-Encoding: zstd;q=0, gzip ; q=0.001"}, status: 200, body: "text in gzip"},
	{section: "12.5.3", name: "identity is liked better", path: "/text.txt", fields: []string{"Accept-Encoding: gzip;q=0.5, identity"}, status: 200, body: "text as it is"},
	{section: "12.5.3", name: "anything", path: "/text.txt", fields: []string{"Accept-Encoding: *"}, status: 200, body: "text in zstd"},
	{section: "12.5.3", name: "anything but", path: "/text.txt", fields: []string{"Accept-Encoding: *, zstd;q=0"}, status: 200, body: "text in gzip"},
	{section: "12.5.3", name: "an empty one", path: "/text.txt", fields: []string{"Accept-Encoding:"}, status: 200, body: "text as it is"},
	{section: "12.5.3", name: "one that we do not have", path: "/text.txt", fields: []string{"Accept-Encoding: br"}, status: 200, body: "text as it is"},
	{section: "12.5.3", name: "nothing is acceptable", path: "/text.txt", fields: []string{"Accept-Encoding: br, identity;q=0"}, status: 406, body: "406 Not Acceptable\n"},
	{section: "12.5.3", name: "nothing at all is acceptable", path: "/text.txt", fields: []string{"Accept-Encoding: *;q=0"}, status: 406, body: "406 Not Acceptable\n"},
	{section: "12.5.3", name: "in two lines", path: "/text.txt", fields: []string{"Accept-Encoding: br", "Accept-Encoding: gzip"}, status: 200, body: "text in gzip"},
	{section: "12.5.3", name: "only one is there", path: "/half.txt", fields: []string{"Accept-Encoding: zstd, gzip"}, status: 200, body: "half in gzip"},
	{section: "12.5.3", name: "an older neighbour", path: "/old.txt", fields: []string{"Accept-Encoding: gzip"}, status: 200, body: "new", want: map[string]string{"Vary": "", "Content-Encoding": ""}},
	{section: "14.2", name: "a range of what was chosen", path: "/text.txt", fields: []string{"Accept-Encoding: gzip", "Range: bytes=8-"}, status: 206, body: "gzip", want: map[string]string{"Content-Encoding": "gzip", "Content-Range": "bytes 8-11/12", "Vary": "Accept-Encoding"}},
	{section: "8.8.3.3", name: "each has its own tag", path: "/text.txt", fields: []string{"Accept-Encoding: gzip", `If-None-Match: "16345785d8a0000-d"`}, status: 200, body: "text in gzip", want: map[string]string{"ETag": `"16345785d8a0000-c-gzip"`}},
	{section: "15.4.5", name: "304 has Vary", path: "/text.txt", fields: []string{"Accept-Encoding: gzip", `If-None-Match: "16345785d8a0000-c-gzip"`}, status: 304, want: map[string]string{"Vary": "Accept-Encoding", "ETag": `"16345785d8a0000-c-gzip"`}},
}

// rfcSite makes the files of the rules.
func rfcSite(t *testing.T) string {
	dir := t.TempDir()
	at := time.Unix(0, 1e17)
	for name, content := range map[string]string{"ten": ten, "empty": "", "dir/index.html": "<p>index", "bare/file": "x",
		"text.txt": "text as it is", "text.txt.gz": "text in gzip", "text.txt.zst": "text in zstd",
		"half.txt": "half as it is", "half.txt.gz": "half in gzip", "old.txt": "new", "old.txt.gz": "old"} {
		file(t, dir, name, []byte(content))
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "old.txt.gz"), at.Add(-1), at.Add(-1)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAnswersFollowRFC9110(t *testing.T) {
	dir := rfcSite(t)
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		for _, from := range []struct {
			name   string
			change func(*config)
		}{{"memory", nil}, {"files", func(c *config) { c.cacheBytes = 0 }}} {
			t.Run(from.name, func(t *testing.T) {
				c := dial(t, serve(t, engine, dir, from.change).addr) // one connection for all
				for _, r := range rules {
					t.Run(r.section+" "+r.name, func(t *testing.T) {
						c.t = t
						r.check(t, c)
					})
				}
			})
		}
	})
}

func (r rule) check(t *testing.T, c *client) {
	if r.method == "" {
		r.method = "GET"
	}
	if r.path == "" {
		r.path = "/ten"
	}
	c.send(append([]string{r.method + " " + r.path + " HTTP/1.1", "Host: x"}, r.fields...)...)
	a, b := c.answer(r.method)
	if a.StatusCode != r.status {
		t.Errorf("status %d, want %d", a.StatusCode, r.status)
	}
	if at, err := http.ParseTime(a.Header.Get("Date")); err != nil || time.Since(at).Abs() > 5*time.Second {
		t.Errorf("date %q", a.Header.Get("Date"))
	}
	for name, want := range r.want {
		got, has := a.Header[http.CanonicalHeaderKey(name)]
		if want == "" && has || want != "" && (len(got) != 1 || got[0] != want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.parts != nil {
		if err := r.checkParts(a, b); err != nil {
			t.Error(err)
		}
	} else if string(b) != r.body {
		t.Errorf("content %q, want %q", b, r.body)
	}
}

func (r rule) checkParts(a *http.Response, b []byte) error {
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		return fmt.Errorf("type %q: %v", a.Header.Get("Content-Type"), err)
	}
	if has := a.Header.Get("Content-Range"); has != "" {
		return fmt.Errorf("a multipart answer has Content-Range: %s", has)
	}
	in := multipart.NewReader(bytes.NewReader(b), params["boundary"])
	for i := 0; ; i++ {
		p, err := in.NextRawPart()
		if err == io.EOF && i == len(r.parts) {
			return nil
		}
		if err != nil || i == len(r.parts) {
			return fmt.Errorf("part %d of %d: %v", i, len(r.parts), err)
		}
		content, err := io.ReadAll(p)
		if got := p.Header.Get("Content-Range") + ":" + string(content); err != nil || got != r.parts[i] {
			return fmt.Errorf("part %d is %q, want %q (%v)", i, got, r.parts[i], err)
		}
		if p.Header.Get("Content-Type") != "application/octet-stream" {
			return fmt.Errorf("part %d has type %q", i, p.Header.Get("Content-Type"))
		}
	}
}

// A file that was changed just now may be changed again without a trace in its times: its
// tag is weak, and there are no ranges of what a client had before.
func TestTagsAreWeakWhileAFileIsNew(t *testing.T) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		s := serve(t, engine, t.TempDir(), nil)
		s.site.tree.rest = time.Hour
		s.file("a", []byte("abcdef"))
		c := dial(t, s.addr)
		a, _ := c.get("/a")
		tag := a.Header.Get("ETag")
		if !strings.HasPrefix(tag, `W/"`) {
			t.Errorf("tag %s", tag)
		}
		for _, validator := range []string{tag, a.Header.Get("Last-Modified"), tag[2:]} {
			if a, b := c.get("/a", "Range: bytes=1-2", "If-Range: "+validator); a.StatusCode != 200 || string(b) != "abcdef" {
				t.Errorf("If-Range: %s: %d, %q", validator, a.StatusCode, b)
			}
		}
		if a, b := c.get("/a", "Range: bytes=1-2"); a.StatusCode != 206 || string(b) != "bc" {
			t.Errorf("ranges: %d, %q", a.StatusCode, b)
		}
		if a, _ := c.get("/a", "If-None-Match: "+tag); a.StatusCode != 304 {
			t.Errorf("If-None-Match: %d", a.StatusCode)
		}
	})
}
