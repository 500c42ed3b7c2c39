package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFilesFlags(t *testing.T) {
	p, err := parseFiles(strings.Fields("-servers nginx,net/http -sizes 1K,1MiB -connections 8,64 -kinds warm,cold,mixed -cold-bytes 16MiB -seconds 0.3 -mixed 4x1024x1@100,2x2000x1 -beside 3x2097152"))
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, c := range p.cells {
		cells = append(cells, c.String())
	}
	want := "warm:8x1024x1 warm:8x1048576x1 warm:64x1024x1 warm:64x1048576x1 cold:8x1024x1 cold:8x1048576x1 cold:64x1024x1 cold:64x1048576x1 mixed:4x1024x1@100 mixed:2x2000x1"
	if got := strings.Join(cells, " "); got != want {
		t.Errorf("cells %s\nwant %s", got, want)
	}
	if got := names(p.servers); !slices.Equal(got, []string{"nginx", "nginx+cold", "net/http", "net/http+cold"}) {
		t.Errorf("servers %v", got)
	}
	if !slices.Equal(p.bases, []string{"nginx", "net/http"}) {
		t.Errorf("bases %v", p.bases)
	}
	// 16 MiB are 16,384 files of 1 KiB, and 64 connections need 64 of any size.
	if !slices.Equal(p.files, []fileSet{{1024, 16384}, {1 << 20, 64}, {2000, 1}, {2 << 20, 3}}) {
		t.Errorf("files %v", p.files)
	}
	if p.window != time.Second {
		t.Errorf("window of %v: wrk measures whole seconds", p.window)
	}
	k, err := p.kindOf(p.cells[4])
	if err != nil {
		t.Fatal(err)
	}
	s, _ := find(p.servers, "net/http+cold")
	if s.takes(k) {
		t.Error("a server with a second load takes one that is not mixed")
	}
	bins := &binaries{dir: "/bins"}
	cold := trial{server: s, kind: k, cell: p.cells[4], beside: p.beside}
	if got := strings.Join(cold.loadArgs(bins), " "); !strings.Contains(got, "-mode wrk -drain=false -files 16384 -cold /bins/root ") {
		t.Errorf("load of cold files: %s", got)
	}
	for i, meek := range []bool{true, false} {
		both := trial{server: s, cell: p.cells[8+i], beside: p.beside}
		got := strings.Join(both.besideArgs(bins), " ")
		if !strings.Contains(got, "-mode get -window 0 -conns 3 -size 2097152 ") || !strings.Contains(got, "-files 3 -cold /bins/root") || strings.Contains(got, "-meek") != meek {
			t.Errorf("load beside %v: %s", both.cell, got)
		}
	}
	for _, bad := range []string{"-servers nobody", "-base nobody", "-kinds hot", "-sizes x", "-sizes 2GiB", "-connections 0", "-cold-bytes x", "-beside 3", "-beside 3x4@5", "-mixed 4x1+2x1", "-mixed warm:4x1x1", "-by hand", "-rounds 0", "stray"} {
		if _, err := parseFiles(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestDefaultsOfFilesAreTaken(t *testing.T) {
	p, err := parseFiles(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.bases, []string{"nginx", "fasthttp", "net/http"}) || len(p.cells) != 12 {
		t.Errorf("bases %v, cells %v", p.bases, p.cells)
	}
	if p.bytes() < 1<<30 || p.bytes() > 4<<30 {
		t.Errorf("the files take %d MB", p.bytes()>>20)
	}
}

func TestFilesRun(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every file server and runs them all")
	}
	skipWithoutRing(t)
	common := strings.Fields("-kinds warm,cold,mixed -sizes 100KiB -connections 4 -cold-bytes 1MiB -mixed 4x1024x1@500 -beside 2x1048576 -rounds 1 -json off")
	for _, by := range []string{"own", "wrk"} {
		args := append([]string{"-by", by, "-seconds", "0.2"}, common...)
		p, err := parseFiles(args)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.room(os.TempDir()); err != nil {
			t.Skip(err)
		}
		if by == "wrk" {
			if err := p.equipped(); err != nil {
				t.Skip(err)
			}
			args = append(args, "-kinds", "cold", "-sizes", "1KiB")
		}
		var out strings.Builder
		if err := serveFiles(t.Context(), args, &out); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		for _, s := range p.servers {
			if _, err := installed(s.program); s.program != "" && err != nil {
				continue
			}
			heading := "p99 µs"
			if by == "wrk" {
				if s.beside != nil {
					continue
				}
				heading = "requests/s"
			}
			if got := shown(t, strings.ReplaceAll(out.String(), "µ", "u"), s.name, strings.ReplaceAll(heading, "µ", "u")); got == "-" {
				t.Errorf("nothing is measured of %s by %s", s.name, by)
			}
		}
		t.Log("\n" + out.String())
	}
}

func TestMixedLoadsAreComparedWithTheSameServerAlone(t *testing.T) {
	p, err := parseFiles(strings.Fields("-servers nginx,net/http -kinds mixed -mixed 4x1024x1@100"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, r := range []struct {
		server string
		p99    float64
	}{{"nginx", 100}, {"nginx+cold", 900}, {"net/http", 200}, {"net/http+cold", 300}} {
		one := given(r.server, p.cells[0].String(), 1, 100)
		one.Report.Latency.P99 = r.p99
		rows = append(rows, one)
	}
	var out strings.Builder
	p.printCell(&out, p.cells[0], rows)
	var got []string
	for l := range strings.Lines(out.String()) {
		if f := strings.Fields(l); len(f) > 8 && strings.HasPrefix(f[0], "n") {
			got = append(got, f[0]+" "+f[7])
		}
	}
	if want := []string{"nginx -", "nginx+cold 9.00", "net/http -", "net/http+cold 1.50"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q\n%s", got, want, out.String())
	}
}

func TestNginxIsToldWhatItNeeds(t *testing.T) {
	dir := t.TempDir()
	config, err := nginxConfig(dir, "/the/root", "127.0.0.1:8080", []string{"aio threads;"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"worker_processes 1;", "sendfile on;", "tcp_nopush on;", "open_file_cache ", "access_log off;", "aio threads;", "listen 127.0.0.1:8080;", `root "/the/root";`} {
		if !strings.Contains(config, want) {
			t.Errorf("there is no %q in\n%s", want, config)
		}
	}
	nginx, err := installed("nginx")
	if err != nil {
		t.Skip("nginx is missing: on Debian, 'apt-get install --no-install-recommends nginx'")
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(nginx, "-t", "-q", "-e", "stderr", "-p", dir, "-c", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("nginx -t: %v: %s", err, out)
	}
}

func TestMissingNginxIsNoFailure(t *testing.T) {
	s := nginxServer("nginx", "")
	s.program = "nginx-that-is-not-there"
	err := (&binaries{}).build(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("error %v, want one that says what to install", err)
	}
	var out strings.Builder
	if err := printTrouble(&out, nil, map[string]error{"nginx": err}); err != nil {
		t.Errorf("it fails the run: %v", err)
	}
}
