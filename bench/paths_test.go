package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEveryPathSendsTheFile(t *testing.T) {
	if testing.Short() {
		t.Skip("runs every path")
	}
	skipWithoutRing(t)
	dir := t.TempDir()
	rows := filepath.Join(dir, "rows.json")
	var out strings.Builder
	var err error
	// A window may be too short on a machine that has much else to do. The last piece
	// of the file is shorter than the others.
	for _, seconds := range []string{"0.1", "2"} {
		out.Reset()
		if err = paths(t.Context(), []string{"-paths", "all", "-pieces", "20000", "-connections", "3", "-bytes", "1000003", "-rounds", "1",
			"-seconds", seconds, "-json", rows}, &out); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log("\n" + out.String())
	if strings.Contains(out.String(), errAbsent.Error()) {
		t.Skip("a compiler or liburing is missing")
	}
	b, err := os.ReadFile(rows)
	if err != nil {
		t.Fatal(err)
	}
	var rec record[row]
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, r := range rec.Rows {
		seen = append(seen, r.Server)
		if r.Report.Verified < r.Report.Bytes || r.Report.Bytes == 0 {
			t.Errorf("%s: %d bytes are counted, %d verified", r.Server, r.Report.Bytes, r.Report.Verified)
		}
		if r.Copies == nil || r.Copies.Source == "" {
			t.Errorf("%s: nothing is said of copies", r.Server)
		} else if zc := strings.HasPrefix(r.Server, "zc"); zc && strings.HasPrefix(r.Copies.Source, "reported") && r.Copies.Loopback != r.Copies.NIC+1 {
			t.Errorf("%s: not all is copied on loopback: %+v", r.Server, r.Copies)
		}
	}
	if want := names(pathsBenchmark.servers); !slices.Equal(seen, want) {
		t.Errorf("measured are %v, want %v", seen, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "rows.svg")); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("picture of %d bytes: %v", len(b), err)
	}
}

func TestPathsWithoutTools(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the load generator")
	}
	skipWithoutRing(t)
	args := []string{"-paths", "sendfile,zc-read", "-pieces", "4KiB", "-connections", "1", "-bytes", "64KiB", "-rounds", "1", "-seconds", "0.5", "-json", "off"}

	// Where there is go and nothing else.
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(tool, filepath.Join(dir, "go")); err != nil {
		t.Fatal(err)
	}
	was := os.Getenv("PATH")
	t.Setenv("PATH", dir)
	t.Setenv("CC", "")
	var out strings.Builder
	if err := paths(t.Context(), args, &out); err == nil || !strings.Contains(out.String(), "sendfile, zc-read: not measured") || !strings.Contains(out.String(), "install gcc") {
		t.Errorf("without a compiler: %v\n%s", err, out.String())
	}

	t.Setenv("PATH", was)
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc")
	}
	cc := filepath.Join(t.TempDir(), "cc")
	script := "#!/bin/sh\ncase \"$*\" in *-luring*) echo 'paths.c: fatal error: liburing.h: No such file' >&2; exit 1;; esac\nexec gcc \"$@\"\n"
	if err := os.WriteFile(cc, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CC", cc)
	out.Reset()
	if err := paths(t.Context(), args, &out); err != nil || !strings.Contains(out.String(), "zc-read: not measured") || !strings.Contains(out.String(), "install liburing-dev") {
		t.Errorf("without liburing: %v\n%s", err, out.String())
	}
}

func TestPathsFlags(t *testing.T) {
	p, err := parsePaths(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.trials(p.servers); err != nil || n != 12*5*2*3 {
		t.Errorf("%d trials by default, %v", n, err)
	}
	if took := float64(360) * p.trialTime().Seconds(); took > 6*60 {
		t.Errorf("the default takes %.0f seconds", took)
	}
	if p, err = parsePaths(strings.Fields("-paths zc-memory,sendfile -pieces 5000,64K -connections 7 -bytes 1M -picture x.png")); err != nil {
		t.Fatal(err)
	}
	if got := []string{p.cells[0].String(), p.cells[1].String()}; len(p.cells) != 2 || !slices.Equal(got, []string{"5000:7x1048576x1", "64KiB:7x1048576x1"}) {
		t.Errorf("cells %v", p.cells)
	}
	k, err := p.kindOf(p.cells[1])
	if err != nil || !slices.Equal(k.server(p.cells[1]), []string{"-buf", "65536"}) {
		t.Errorf("kind %+v, %v", k, err)
	}
	if p.contentBytes() != 1<<20 {
		t.Errorf("the file has %d bytes", p.contentBytes())
	}
	for _, bad := range []string{"-paths teleport", "-pieces 63", "-pieces 32M -bytes 64M", "-pieces 1M -bytes 4K", "-pieces x", "-connections 0", "-connections 4096",
		"-bytes 1G", "-bytes none", "-picture x.gif", "-rounds 0", "-seconds 0", "-base nobody", "stray"} {
		if _, err := parsePaths(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestReportsOfCopiesAreHeard(t *testing.T) {
	c := copies{1, 2, "somebody says so"}
	for _, test := range []struct {
		before, after string
		want          copies
	}{
		{`{"enters":1}`, `{"enters":2}`, copies{1, 2, "known: somebody says so"}},
		{`{"zerocopy":{"notified":5,"copied":5}}`, `{"zerocopy":{"notified":5,"copied":5}}`, copies{1, 2, "known: somebody says so"}},
		{`{"zerocopy":{"notified":2,"copied":2}}`, `{"zerocopy":{"notified":6,"copied":3}}`, copies{1, 1.25, "reported: 1 of 4 sends were copied"}},
	} {
		if got := c.reported([]byte(test.before), []byte(test.after)); *got != test.want {
			t.Errorf("%s to %s: %+v, want %+v", test.before, test.after, *got, test.want)
		}
	}
}

func TestPicturesAreDrawn(t *testing.T) {
	p, err := parsePaths([]string{"-paths", "all", "-rounds", "1"})
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for i, s := range p.servers {
		if looks[s.name].colour == nil {
			t.Errorf("nothing says how the line of %s looks", s.name)
		}
		for j, c := range p.cells {
			r := row{Server: s.name, Cell: c.String(), Load: c, Round: 1, BytesPerSecond: 1e9, ServerCPU: 0.1 * float64(1+i) / float64(1+j%len(p.pieces))}
			if s.name == "splice" || s.name == "sendfile" && j == 0 {
				r.Error = "it failed" // one has no line, the other one point less
			}
			rows = append(rows, r)
		}
	}
	for name, begin := range map[string]string{"p.svg": "<?xml", "p.png": "\x89PNG"} {
		path := filepath.Join(t.TempDir(), name)
		if err := p.draw(path, rows); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte(begin)) {
			t.Errorf("%s: %d bytes that begin with %q, %v", name, len(b), b[:min(len(b), 8)], err)
		}
	}
}

func TestSizesAreReadAsTheyAreWritten(t *testing.T) {
	for s, n := range map[string]int{"1": 1, "1000": 1000, "4KiB": 4096, "1MiB": 1 << 20, "3GiB": 3 << 30, "1536KiB": 1536 << 10} {
		if got, err := parseBytes(s); err != nil || got != n || sizeName(n) != s {
			t.Errorf("%s: %d, %v; %d is written %s", s, got, err, n, sizeName(n))
		}
	}
	if n, err := parseBytes("64K"); err != nil || n != 64<<10 {
		t.Errorf("64K: %d, %v", n, err)
	}
	for _, bad := range []string{"", "0", "-1", "KiB", "4kib", "4 KiB", "1.5MiB", "9999999GiB"} {
		if n, err := parseBytes(bad); err == nil {
			t.Errorf("%q is taken for %d", bad, n)
		}
	}
}
