//go:build linux

package net

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// caFile is the test's authority for other programs.
func caFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCA().cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed here: %v", name, err)
	}
}

// openssl is the other implementation. Its client can ask for a key update, which the
// server has to answer in the middle of a read ("K").
func TestTLSWithOpenSSL(t *testing.T) {
	needTool(t, "openssl")
	ca := caFile(t)
	overVariants(t, func(t *testing.T, v variant) {
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			t.Run(version, func(t *testing.T) {
				config := serverTLS()
				config.NextProtos = []string{"echo"}
				srv := serveTLS(t, v.Options, config, echoWrite(t))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", srv.addr().String(), "-CAfile", ca, "-servername", "localhost",
					"-verify_return_error", "-verify_hostname", "localhost", "-alpn", "echo", version)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				pipe, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				cmd.Stderr = cmd.Stdout
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				out, seen := bufio.NewReader(pipe), ""
				say := func(line string) {
					write(t, in, []byte(line+"\n"))
				}
				wants := func(line string) {
					t.Helper()
					for {
						got, err := out.ReadString('\n')
						seen += got
						if strings.TrimSpace(got) == line {
							return
						}
						if err != nil {
							t.Fatalf("openssl does not print %q: %v\n%s", line, err, seen)
						}
					}
				}
				say("hello")
				wants("hello")
				if version == "-tls1_3" {
					say("K")
					wants("KEYUPDATE") // what else it reads with this it throws away
				}
				for i := range 3 {
					say(fmt.Sprint("line ", i))
					wants(fmt.Sprint("line ", i))
				}
				if !strings.Contains(seen, "ALPN protocol: echo") || !strings.Contains(seen, "Verification: OK") {
					t.Errorf("openssl prints\n%s", seen)
				}
				say("Q")
				_, _ = io.Copy(io.Discard, out)
				if err := cmd.Wait(); err != nil {
					t.Errorf("openssl: %v", err)
				}
				srv.wantCause(io.EOF)
			})
		}
	}, "default", "epoll")
}

// pages is an HTTP server as small as one can be: it knows GET, and POST with a length.
type pages struct {
	Events
	t    *testing.T
	file *File
}

func (p pages) OnData(c *Conn, b []byte) int {
	head, _, found := bytes.Cut(b, []byte("\r\n\r\n"))
	if !found {
		return 0
	}
	n := len(head) + 4
	var length int
	for _, line := range strings.Split(string(head), "\r\n") {
		if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "Content-Length") {
			length, _ = strconv.Atoi(value)
		} else if strings.EqualFold(name, "Expect") {
			p.t.Error("curl waits for a word that never comes")
		}
	}
	if len(b) < n+length {
		return 0
	}
	body := b[n : n+length]
	switch {
	case bytes.HasPrefix(b, []byte("GET /file")):
		size, _ := p.file.Size()
		fmt.Fprintf(connWriter{c}, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		if err := c.SendFile(p.file, 0, -1, nil); err != nil {
			p.t.Error(err)
		}
	default:
		fmt.Fprintf(connWriter{c}, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	return n + length
}

func TestTLSWithCurl(t *testing.T) {
	needTool(t, "curl")
	ca := caFile(t)
	dir := t.TempDir()
	name, posted := filepath.Join(dir, "file"), filepath.Join(dir, "posted")
	content, form := payload(1, 3<<20), payload(2, 500_000)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(posted, form, 0o600); err != nil {
		t.Fatal(err)
	}
	overVariants(t, func(t *testing.T, v variant) {
		file, err := OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		srv := serveHandler(t, v.Options, TLS(serverTLS(), pages{t: t, file: file}))
		_, port, _ := stdnet.SplitHostPort(srv.addr().String())
		curl := func(args ...string) []byte {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "curl", append([]string{"--silent", "--show-error", "--fail", "--cacert", ca,
				"--noproxy", "*", "--http1.1"}, args...)...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("curl: %v\n%s", err, &errs)
			}
			return out
		}
		url := "https://localhost:" + port
		// The second goes over the same connection.
		if err := differ(curl(url+"/file", url+"/file"), append(bytes.Clone(content), content...)); err != nil {
			t.Error(err)
		}
		if err := differ(curl("--header", "Expect:", "--data-binary", "@"+posted, url+"/echo"), form); err != nil {
			t.Error(err)
		}
		if st := srv.Stats(); st.Accepted != 2 || st.TLSHandshakes != 2 {
			t.Errorf("%d connections, %d handshakes, want two", st.Accepted, st.TLSHandshakes)
		}
	}, "default", "epoll")
}

// What openssl's own server says is understood, and what it is sent.
func TestTLSClientWithOpenSSL(t *testing.T) {
	needTool(t, "openssl")
	dir := t.TempDir()
	cert := testCA().local
	key, err := marshalKey(cert)
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(dir, "both.pem")
	b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), key...)
	if err := os.WriteFile(both, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	// -rev sends each line back, reversed.
	cmd := exec.CommandContext(ctx, "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", both, "-rev", "-naccept", "1")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := ""
	for lines := bufio.NewScanner(pipe); addr == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			addr = rest
		}
	}
	if addr == "" {
		t.Fatalf("openssl does not say where it listens\n%s", &errs)
	}
	answers := make(chan string, 1)
	var got []byte
	cl := startClient(t, Options{Loops: 1, poison: true}, script2{
		open: func(c *Conn) { _, _ = c.Write([]byte("ringnet\n")) },
		data: func(c *Conn, b []byte) int {
			if got = append(got, b...); bytes.HasSuffix(got, []byte("\n")) {
				answers <- string(got)
				c.Close()
			}
			return len(b)
		},
	})
	if err := cl.DialContext(ctx, addr, Dialer{TLS: &tls.Config{RootCAs: testCA().pool}}); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	if got := await(t, answers, "an answer"); got != "tengnir\n" {
		t.Errorf("openssl answers %q", got)
	}
	_, _ = io.Copy(io.Discard, pipe)
	_ = cmd.Wait()
}
