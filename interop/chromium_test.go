//go:build linux

package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// page asks for more by itself, and shows what it got: a script, the echo of a request,
// and that of a WebSocket. It has loaded once its image has, which the server keeps back
// until the page says that the rest is there: a browser does not wait for a WebSocket by
// itself.
const page = `<!doctype html><title>ringnet</title>
<p id="script"></p><p id="fetch"></p><p id="socket"></p>
<img src="/image">
<script src="/script.js"></script>
<script>
function show(id, text) {
	document.getElementById(id).textContent = text;
	if ([...document.getElementsByTagName("p")].every(p => p.textContent)) {
		fetch("/shown", {method: "POST"});
	}
}
fetch("/echo", {method: "POST", body: "x".repeat(100000)}).then(r => r.text()).then(t => show("fetch", "echo of " + t.length + " bytes"));
const s = new WebSocket("wss://" + location.host + "/socket");
s.onopen = () => s.send("through the socket");
s.onmessage = e => { show("socket", "came " + e.data); s.close(); };
show("script", scripted);
</script>`

// A browser loads a page over HTTPS, and what that asks for.
func TestChromiumLoadsAPageOverHTTPS(t *testing.T) {
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
	engines(t, func(t *testing.T, p *port) {
		mux := http.NewServeMux()
		protos := make(chan string, 100)
		mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
			protos <- r.Proto
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, page)
		})
		mux.HandleFunc("/script.js", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = io.WriteString(w, `const scripted = "the script has run";`)
		})
		shown := make(chan struct{}, 1)
		mux.HandleFunc("POST /shown", func(http.ResponseWriter, *http.Request) {
			select {
			case shown <- struct{}{}:
			default:
			}
		})
		mux.HandleFunc("/image", func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-shown:
			case <-r.Context().Done():
			}
			http.NotFound(w, r)
		})
		mux.HandleFunc("/echo", echoHTTP)
		mux.HandleFunc("/socket", echoWebSocket)
		serve(t, p.tls, mux, &tls.Config{Certificates: []tls.Certificate{p.cert}})
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		// Without a sandbox, since it may run as root in a container; with a page that
		// is its own server's that is no risk.
		cmd := exec.CommandContext(ctx, browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
			"--ignore-certificate-errors", fmt.Sprintf("--timeout=%d", patience.Milliseconds()), "--dump-dom", "https://"+p.addr+"/")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", browser, err, errs.String())
		}
		for _, want := range []string{"the script has run", "echo of 100000 bytes", "came through the socket"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the page does not say %q:\n%s\n%s", want, out.String(), errs.String())
			}
		}
		if proto := <-protos; proto != "HTTP/2.0" {
			t.Errorf("it came by %s", proto)
		}
	})
}
