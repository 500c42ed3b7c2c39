package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"example.com/ringnet/bench/internal/page"
	"example.com/ringnet/bench/internal/result"
)

// pages answers each request by the page; each may change the n-th answer.
func pages(size int, each func(n int, b []byte)) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for n := 0; ; n++ {
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
			}
			b := page.Response(size)
			each(n, b)
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

func keep(int, []byte) {}

func spoil(n int, b []byte) {
	if n == 7 {
		b[len(b)-1] ^= 1
	}
}

func TestPagesAreVerified(t *testing.T) {
	for _, flags := range []string{"-size 1024", "-size 1024 -pipeline 8", "-size 100000"} {
		size := 1024
		if strings.Contains(flags, "100000") {
			size = 100000
		}
		r, err := measured(t, serve(t, pages(size, keep)), append([]string{"-mode", "page", "-conns", "4"}, strings.Fields(flags)...)...)
		if err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		if r.Requests == 0 || r.Bytes == 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
	var wrong *payloadError
	if _, err := measured(t, serve(t, pages(1024, spoil)), "-mode", "page", "-conns", "1", "-size", "1024"); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a wrong payload", err)
	}
}

func TestWrkMeasuresAndPagesAreVerifiedAround(t *testing.T) {
	if _, err := exec.LookPath("wrk"); err != nil {
		t.Skip("wrk is missing: on Debian, 'apt-get install wrk'")
	}
	run := func(handle func(net.Conn)) (r result.Report, err error) {
		p, err := parsePlan([]string{"-mode", "wrk", "-addr", serve(t, handle).String(), "-warmup", "10ms", "-window", "100ms", "-conns", "4", "-size", "1024"})
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
	r, err := run(pages(1024, keep))
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests == 0 || r.Seconds < 1 || r.Seconds > 3 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.ChildCPU <= 0 || r.Verified == 0 {
		t.Errorf("%+v", r)
	}
	for name, c := range map[string]struct {
		handle func(net.Conn)
		want   string
	}{
		"a wrong byte":         {pages(1024, func(_ int, b []byte) { b[len(b)-1] ^= 1 }), "wrong payload"},
		"a server that closes": {func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 8)) }, "receive"},
	} {
		if _, err := run(c.handle); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestSummariesOfWrkAreChecked(t *testing.T) {
	line := func(s string) string { return "Running 1s test\n\nsummary {" + s + "}\n" }
	for _, c := range []struct{ output, want string }{
		{"unable to connect", "no summary"},
		{line(`"Requests":`), "its summary"},
		{line(`"Requests":10,"Bytes":1000,"Read":2`), "2 to read"},
		{line(`"Requests":10,"Bytes":1000,"Status":3`), "3 answers with another status"},
		{line(`"Requests":10,"Bytes":990`), "990 bytes"},
		{line(`"Requests":10,"Bytes":1101`), "1101 bytes"},
	} {
		if _, err := parseWrk(c.output, 1, visited{least: 100, most: 100}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.output, err, c.want)
		}
	}
	r, err := parseWrk(line(`"Requests":10,"Bytes":1050,"Micros":2000000,"P50":33.5,"P99":40`), 1, visited{least: 100, most: 100})
	if err != nil || r.Requests != 10 || r.Bytes != 1050 || r.Seconds != 2 || r.Latency.P50 != 33.5 {
		t.Errorf("%+v, %v", r, err)
	}
}
