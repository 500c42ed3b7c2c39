//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/ringnet/ring"
)

// schemes runs a test over HTTP and HTTPS on each engine.
func schemes(t *testing.T, test func(t *testing.T, s *testSite, url, cert string)) {
	engines(t, func(t *testing.T, engine ring.EngineKind) {
		for _, scheme := range []string{"http", "https"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				var cert, key string
				if scheme == "https" {
					cert, key, _ = certificate(t)
				}
				s := serve(t, engine, t.TempDir(), func(c *config) { c.cert, c.key = cert, key })
				test(t, s, scheme+"://"+s.addr, cert)
			})
		}
	})
}

func TestCurlFetchesByteExact(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl here: install Debian's package curl")
	}
	schemes(t, func(t *testing.T, s *testSite, url, cert string) {
		page, large := []byte("<!doctype html><title>page</title>"), payload(1, 20<<20)
		s.file("index.html", page)
		s.file("large", large)
		text := bytes.Repeat([]byte("text "), 1000)
		s.file("text.txt", text)
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(text)
		_ = w.Close()
		s.file("text.txt.gz", packed.Bytes())
		run := func(args ...string) []byte {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			args = append([]string{"-sS", "--fail-early"}, args...)
			if cert != "" {
				args = append(args, "--cacert", cert)
			}
			cmd := exec.CommandContext(ctx, curl, args...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("curl %q: %v: %s", args, err, errs.String())
			}
			return out
		}
		part := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(part, large[:7_000_000], 0o644); err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct {
			name string
			args []string
			want []byte
		}{
			{"a page", []string{url + "/"}, page},
			{"several, on one connection", []string{url + "/", url + "/large", url + "/"}, bytes.Join([][]byte{page, large, page}, nil)},
			{"HTTP/1.0", []string{"-0", url + "/large"}, large},
			{"a range of a page", []string{"-r", "2-8", url + "/"}, page[2:9]},
			{"a range of a large file", []string{"-r", "1000000-9999999", url + "/large"}, large[1_000_000:10_000_000]},
			{"the end of a large file", []string{"-r", "-5000000", url + "/large"}, large[len(large)-5_000_000:]},
			{"packed", []string{"-H", "Accept-Encoding: gzip", url + "/text.txt"}, packed.Bytes()},
			{"unpacked", []string{"--compressed", url + "/text.txt"}, text},
			{"status and length", []string{"-I", "-o", "/dev/null", "-w", "%{response_code} %header{content-length}", url + "/large"}, []byte(fmt.Sprintf("200 %d", len(large)))},
			{"not modified", []string{"-z", "20300101", "-o", "/dev/null", "-w", "%{response_code}", url + "/large"}, []byte("304")},
			{"to be followed", []string{"--path-as-is", "-o", "/dev/null", "-w", "%{response_code}", url + "/../../etc/passwd"}, []byte("404")},
			{"a form", []string{"-d", "a=b", "-o", "/dev/null", "-w", "%{response_code}", url + "/"}, []byte("405")},
			{"an upload", []string{"-T", part, "-o", "/dev/null", "-w", "%{response_code}", url + "/x"}, []byte("405")},
		} {
			if out := run(f.args...); differ(out, f.want) != nil {
				t.Errorf("%s: %v", f.name, differ(out, f.want))
			}
		}
		run("-C", "-", "-o", part, url+"/large")
		if got, err := os.ReadFile(part); err != nil || differ(got, large) != nil {
			t.Errorf("a download that goes on: %v %v", err, differ(got, large))
		}
	})
}

// browserPage fetches by itself, and waits for what comes, so that it has loaded when it
// has all of it. What it shows are lengths and hashes.
const browserPage = `<!doctype html><meta charset="utf-8"><title>fileserve</title>
<link rel="stylesheet" href="style.css">
<pre id="out"></pre>
<script src="dir/script.js"></script>
<script>
function get(path, range) {
	const r = new XMLHttpRequest();
	r.open("GET", path, false);
	r.overrideMimeType("text/plain; charset=x-user-defined");
	if (range) r.setRequestHeader("Range", range);
	r.send();
	let hash = 0x811c9dc5;
	for (let i = 0; i < r.responseText.length; i++) {
		hash = Math.imul(hash ^ (r.responseText.charCodeAt(i) & 0xff), 0x01000193);
	}
	return path + " " + r.status + " " + r.responseText.length + " " + (hash >>> 0).toString(16) + "\n";
}
document.getElementById("out").textContent = scripted + get("small") + get("large") + get("large", "bytes=1000000-2999999") + get("small", "bytes=-10") +
	get("text.txt") + get("dir") + get("none") + "color " + getComputedStyle(document.getElementById("out")).color;
</script>`

func TestChromiumLoadsByteExact(t *testing.T) {
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium here: install Debian's package chromium")
	}
	schemes(t, func(t *testing.T, s *testSite, url, cert string) {
		small, large := payload(1, 3000), payload(2, 5<<20)
		text := bytes.Repeat([]byte("text "), 1000)
		s.file("index.html", []byte(browserPage))
		s.file("style.css", []byte("pre { color: rgb(1, 2, 3) }"))
		s.file("dir/script.js", []byte(`const scripted = "the script has run\n";`))
		s.file("dir/index.html", []byte("<p>dir"))
		s.file("small", small)
		s.file("large", large)
		s.file("text.txt", text)
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(text)
		_ = w.Close()
		s.file("text.txt.gz", packed.Bytes())
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		// Without a sandbox, since it may run as root in a container; with a page that
		// is its own server's that is no risk.
		cmd := exec.CommandContext(ctx, browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
			"--ignore-certificate-errors", fmt.Sprintf("--timeout=%d", patience.Milliseconds()), "--dump-dom", url+"/")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", browser, err, errs.String())
		}
		line := func(path string, status int, content []byte) string {
			h := fnv.New32a()
			_, _ = h.Write(content)
			return fmt.Sprintf("%s %d %d %x\n", path, status, len(content), h.Sum32())
		}
		want := "the script has run\n" + line("small", 200, small) + line("large", 200, large) + line("large", 206, large[1_000_000:3_000_000]) +
			line("small", 206, small[len(small)-10:]) + line("text.txt", 200, text) + line("dir", 200, []byte("<p>dir")) + line("none", 404, []byte("404 Not Found\n")) + "color rgb(1, 2, 3)"
		if !strings.Contains(out.String(), want) {
			_, got, _ := strings.Cut(out.String(), `<pre id="out">`)
			got, _, _ = strings.Cut(got, "<script")
			t.Errorf("the page says\n%s\nwant\n%s\n%s", got, want, errs.String())
		}
		if cert == "" {
			return
		}
		if st := s.srv.Stats(); st.TLSHandshakes == 0 {
			t.Error("no TLS")
		}
	})
}
