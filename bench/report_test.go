package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/ringnet/bench/internal/result"
)

// given makes a good row.
func given(server, cell string, round int, rate float64) row {
	return row{Server: server, Cell: cell, Round: round, RequestsPerSecond: rate, CPUPerRequest: 1e6 / rate,
		ServerCPU: 0.98, ServerCore: 0.99, LoadCPU: 0.90, LoadCore: 0.91,
		Report: &result.Report{Latency: result.Latency{P50: 200, P99: 400}}}
}

// shown finds a server's value under a heading. Headings may have spaces, so
// they are found by where they end: columns are aligned to the right.
func shown(t *testing.T, table, server, heading string) string {
	t.Helper()
	var head string
	for l := range strings.Lines(table) {
		if strings.Contains(l, heading) {
			head = l
		}
		if f := strings.Fields(l); head != "" && len(f) > 0 && f[0] == server {
			end := strings.Index(head, heading) + len(heading)
			return l[strings.LastIndexByte(l[:end], ' ')+1 : end]
		}
	}
	t.Fatalf("no %s for %s in\n%s", heading, server, table)
	return ""
}

func TestTableShowsMediansRatiosAndLosers(t *testing.T) {
	c, err := parseCell("64x64x1")
	if err != nil {
		t.Fatal(err)
	}
	var servers []server
	for _, name := range []string{"ringnet", "std", "uring-c", "gnet"} {
		s, _ := find(catalog, name)
		servers = append(servers, s)
	}
	rows := []row{
		given("ringnet", "64x64x1", 1, 100), given("ringnet", "64x64x1", 2, 200), given("ringnet", "64x64x1", 3, 300),
		given("uring-c", "64x64x1", 1, 100), given("uring-c", "64x64x1", 2, 250), given("uring-c", "64x64x1", 3, 200),
		given("std", "64x64x1", 1, 50),
		given("std", "16x65536x1", 1, 9), // another cell
		{Server: "gnet", Cell: "64x64x1", Round: 1, Error: "broke"},
	}
	var out strings.Builder
	(&contestPlan{benchmark: &echoBenchmark, servers: servers, bases: []string{"uring-c", "std"}}).printCell(&out, c, rows)
	for _, want := range []struct{ server, heading, value string }{
		{"ringnet", "requests/s", "200"},
		{"ringnet", "spread", "100%"},
		{"ringnet", "vs uring-c", "1.00"}, // of 1, 0.8 and 1.5
		{"ringnet", "vs std", "2.00"},
		{"ringnet", "CPU µs/req", "5000.00"},
		{"ringnet", "enters/req", "-"},
		{"std", "requests/s", "50"},
		{"std", "vs uring-c", "0.50"},
		{"gnet", "requests/s", "-"},
		{"gnet", "vs uring-c", "-"},
	} {
		if got := shown(t, strings.ReplaceAll(out.String(), "µ", "u"), want.server, strings.ReplaceAll(want.heading, "µ", "u")); got != want.value {
			t.Errorf("%s, %s: %q, want %q", want.server, want.heading, got, want.value)
		}
	}
	if t.Failed() {
		t.Log("\n" + out.String())
	}
}

func TestDisturbedAndLimitedCellsSaySo(t *testing.T) {
	c, err := parseCell("64x64x1")
	if err != nil {
		t.Fatal(err)
	}
	s, _ := find(catalog, "ringnet")
	p := contestPlan{benchmark: &echoBenchmark, servers: []server{s}}
	r := given("ringnet", "64x64x1", 1, 100)
	var out strings.Builder
	p.printCell(&out, c, []row{r})
	if strings.Contains(out.String(), "disturbed") || strings.Contains(out.String(), "limited") {
		t.Errorf("a good row is complained of:\n%s", out.String())
	}
	r.ServerCPU, r.LoadCPU = 0.7, 0.98
	out.Reset()
	p.printCell(&out, c, []row{r})
	if !strings.Contains(out.String(), "disturbed: in 1 of 1 rows") || !strings.Contains(out.String(), "limited by the load generator's core: ringnet") {
		t.Errorf("a bad row is not complained of:\n%s", out.String())
	}
}

func TestFailuresAreListedAndCount(t *testing.T) {
	var out strings.Builder
	if err := printTrouble(&out, []row{given("std", "64x64x1", 1, 1)}, map[string]error{"uring-c": fmt.Errorf("%w: no gcc", errAbsent)}); err != nil {
		t.Errorf("a missing compiler is an error: %v", err)
	}
	if !strings.Contains(out.String(), "uring-c: not measured") {
		t.Errorf("a missing server is not listed: %q", out.String())
	}
	if err := printTrouble(&out, nil, map[string]error{"gnet": errors.New("does not compile")}); err == nil {
		t.Error("a server that does not compile is no error")
	}
	out.Reset()
	err := printTrouble(&out, []row{{Server: "std", Cell: "1x1x1", Round: 2, Error: "wrong payload: byte 3", WrongPayload: true}}, nil)
	if err == nil || !strings.Contains(err.Error(), "1 of them with a wrong payload") {
		t.Errorf("wrong payload: %v", err)
	}
	if !strings.Contains(out.String(), "failed: std, 1x1x1, round 2") {
		t.Errorf("a failed trial is not listed: %q", out.String())
	}
}

func TestSumDividesEachClockByItsOwnTime(t *testing.T) {
	at := time.Now()
	before := sample{at: at, statsAt: at.Add(time.Second), stats: []byte(`{"enters":100}`)}
	after := sample{at: at.Add(2 * time.Second), server: time.Second, load: time.Second / 2, serverCore: time.Second / 2, loadCore: time.Second,
		statsAt: at.Add(3 * time.Second), stats: []byte(`{"enters":300}`)}
	r := row{Report: &result.Report{Requests: 1000, Seconds: 1, Bytes: 64000}}
	r.sum(before, after)
	if r.RequestsPerSecond != 1000 || r.BytesPerSecond != 64000 || r.ServerCPU != 0.5 || r.LoadCPU != 0.25 ||
		r.ServerCore != 0.75 || r.LoadCore != 0.5 || r.CPUPerRequest != 500 {
		t.Errorf("%+v", r)
	}
	if r.EntersPerRequest == nil || *r.EntersPerRequest != 0.1 {
		t.Errorf("enters per request: %v, want 0.1", r.EntersPerRequest)
	}
	after.stats = []byte(`{}`)
	r = row{Report: &result.Report{Requests: 1000, Seconds: 1}}
	if r.sum(before, after); r.EntersPerRequest != nil {
		t.Errorf("a server that tells no enters has %v", *r.EntersPerRequest)
	}
}
