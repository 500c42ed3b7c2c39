package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestTurnsGiveEveryServerEveryPlace(t *testing.T) {
	list := catalog[:4]
	first := make(map[string]int)
	after := make(map[string]bool)
	for round := range 2 * len(list) {
		order := names(turns(list, round))
		if s := slices.Sorted(slices.Values(order)); !slices.Equal(s, slices.Sorted(slices.Values(names(list)))) {
			t.Fatalf("round %d: %v", round, order)
		}
		first[order[0]]++
		for i := range order[1:] {
			after[fmt.Sprint(order[i], " ", order[i+1])] = true
		}
	}
	for _, s := range list {
		if first[s.name] != 2 {
			t.Errorf("%s began %d times in %d rounds", s.name, first[s.name], 2*len(list))
		}
	}
	if len(after) <= len(list) {
		t.Errorf("the same servers always follow each other: %v", after)
	}
}

func TestEchoFlags(t *testing.T) {
	p, err := echoBenchmark.parse(strings.Fields("-conns 16 -size 64,65536 -burst 4 -rounds 2 -seconds 0.3 -servers ringnet,std -base std,gnet"))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.cells) != 1 || p.cells[0].String() != "16x64+65536x1" || p.cells[0].Burst != 4 {
		t.Errorf("cells %+v", p.cells)
	}
	if got := names(p.servers); !slices.Equal(got, []string{"ringnet", "std"}) {
		t.Errorf("servers %v", got)
	}
	if !slices.Equal(p.bases, []string{"std"}) {
		t.Errorf("bases %v: gnet is not measured", p.bases)
	}
	if p.warmup <= 0 || p.warmup > p.window {
		t.Errorf("warm-up of %v for a window of %v", p.warmup, p.window)
	}
	for _, bad := range []string{"-conns 0", "-size x", "-rounds 0", "-seconds 0", "-servers nobody", "-base nobody", "-burst 0", "-cells 1x1", "-server-core 5000", "stray"} {
		if _, err := echoBenchmark.parse(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestDefaultServersAreAllButTheExtraOnes(t *testing.T) {
	chosen, err := choose(catalog, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ringnet", "ringnet-epoll", "std", "gnet", "netpoll", "giouring", "uring-c", "epoll-c"}
	if got := names(chosen); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// tiny is a small load for each kind of each benchmark.
var tiny = map[string][]string{
	"echo":     {"-cells", "4x64x1,2x64+65536x1"},
	"udp":      {"-cells", "4x64x2"},
	"unix":     {"-cells", "4x64x2,2x65536x1"},
	"churn":    {"-cells", "server:4x64x1,client:4x64x1,reset:4x64x1"},
	"post":     {"-cells", "send:4x64x4,broadcast:8x64x16"},
	"zerocopy": {"-cells", "echo:2x65536x1,content:2x65536x1"},
	"file":     {"-cells", "2x262144x1"},
	"cold":     {"-cells", "4x64x1", "-beside", "2x262144"},
	"slow":     {"-cells", "4x64x1", "-beside", "10x1048576"},
	"fiber":    {"-cells", "echo:4x64x1,copy:2x65536x1"},
	"fasthttp": {"-cells", "own:4x1024x1,wrk:4x1024x1"},
	"tls":      {"-cells", "echo:4x64x1,echo:2x65536x1,full:2x64x1,resumed:2x64x1"},
	"proxy":    {"-cells", "echo:4x1024x1,down:2x1048576x1"},
	"http":     {"-cells", "own:4x1024x1,own:2x300000x1,wrk:4x1024x1", "-servers", "handed,sniffed,sniffed-epoll,std"},
}

func TestEveryBenchmarkRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every server and runs every benchmark")
	}
	skipWithoutRing(t)
	for _, b := range benchmarks {
		t.Run(b.name, func(t *testing.T) {
			args, ok := tiny[b.name]
			if !ok {
				t.Fatalf("tiny has no load for bench %s", b.name)
			}
			wanted := b.kindNames()
			if _, err := exec.LookPath("wrk"); err != nil && slices.Contains(wanted, "wrk") {
				t.Log("wrk is missing: on Debian, 'apt-get install wrk'")
				args = []string{args[0], strings.ReplaceAll(args[1], ",wrk:4x1024x1", "")}
				wanted = slices.DeleteFunc(wanted, func(k string) bool { return k == "wrk" })
			}
			var out strings.Builder
			var err error
			// A window may be too short on a machine that has much else to do.
			for _, seconds := range []string{"0.1", "2"} {
				out.Reset()
				if err = b.run(t.Context(), append(args, "-rounds", "1", "-json", "off", "-seconds", seconds), &out); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			for _, k := range wanted {
				if k != "" && !strings.Contains(out.String(), "\n"+k+":") {
					t.Errorf("nothing is measured of kind %s", k)
				}
			}
			t.Log("\n" + out.String())
		})
	}
}

func TestIdleRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("builds servers")
	}
	skipWithoutRing(t)
	servers := "ringnet,std,fiber,fiber-copy,ringnet-silent,fiber-silent,std-silent"
	var out strings.Builder
	if err := idle(t.Context(), strings.Fields("-conns 20 -seconds 0.05 -json off -servers "+servers), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for name := range strings.SplitSeq(servers, ",") {
		if shown(t, out.String(), name, "RSS with all MB") == "-" {
			t.Errorf("nothing is measured of %s", name)
		}
	}
	t.Log("\n" + out.String())
}

func TestDefaultsOfEveryBenchmarkAreTaken(t *testing.T) {
	for _, b := range benchmarks {
		p, err := b.parse(nil)
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		if len(p.bases) == 0 {
			t.Errorf("%s: nothing is compared", b.name)
		}
		for _, s := range b.servers {
			if s.kind != "" && !slices.Contains(b.kindNames(), s.kind) {
				t.Errorf("%s: server %s is of kind %q, which there is not", b.name, s.name, s.kind)
			}
		}
	}
}

func TestMissingProgramsAreToldBeforeAnythingIsBuilt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out strings.Builder
	err := fasthttpBenchmark.run(t.Context(), []string{"-json", "off"}, &out)
	if err == nil || !strings.Contains(err.Error(), "wrk is missing: install it") || out.Len() > 0 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

func TestKindsAreChecked(t *testing.T) {
	for _, bad := range []struct {
		b     *benchmark
		cells string
		want  string
	}{
		{&churnBenchmark, "64x64x1", "KIND:"},
		{&churnBenchmark, "nobody:64x64x1", "server, client, reset"},
		{&unixBenchmark, "send:64x64x1", "no kinds"},
	} {
		if _, err := bad.b.parse([]string{"-cells", bad.cells}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s %s: error %v, want one that says %q", bad.b.name, bad.cells, err, bad.want)
		}
	}
	if _, err := slowBenchmark.parse([]string{"-beside", "1000"}); err == nil {
		t.Error("-beside 1000 is taken")
	}
}
