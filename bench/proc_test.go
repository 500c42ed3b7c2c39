package main

import (
	"os"
	"testing"
	"time"
)

func TestCoreIdleCountsWaiting(t *testing.T) {
	const stat = "cpu  9514 0 15429 518383 2314 0 7712 25 0 0\ncpu0 1 0 2 300 40 0 7 2 0 0\ncpu1 1 0 2 100 50 0 7 2 0 0\nintr 5\n"
	got, err := parseCoreIdle(stat, 1)
	if err != nil || got != 1500*time.Millisecond {
		t.Errorf("%v, %v, want 1.5s", got, err)
	}
	if _, err := parseCoreIdle(stat, 7); err == nil {
		t.Error("core 7 is found")
	}
}

func TestProcessCPURunsWithTheProcess(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for from := time.Now(); time.Since(from) < 20*time.Millisecond; {
	}
	after, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if d := after - before; d <= 0 || d > 10*time.Second {
		t.Errorf("20 ms of work took %v", d)
	}
}

func TestSlabObjectsAreActiveOnes(t *testing.T) {
	const info = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n" +
		"TCP 10 26 2496 13 8 : tunables 0 0 0\nfilp 100 120 256 16 1 : tunables 0 0 0\n"
	got, err := slabObjects(info)
	if want := int64(10*2496 + 100*256); err != nil || got != want {
		t.Errorf("%d, %v, want %d", got, err, want)
	}
	if _, err := slabObjects("slabinfo - version: 2.1\n"); err == nil {
		t.Error("a list of nothing is taken")
	}
}

func TestFieldsAreBytes(t *testing.T) {
	m := fields("Rss:              12 kB\nPss_Anon: 3 kB\nHugePages_Total: 0\n7f00-7fff ---p 00000000 00:00 0 [rollup]\n")
	if m["Rss"] != 12<<10 || m["Pss_Anon"] != 3<<10 || len(m) != 2 {
		t.Errorf("%v", m)
	}
	if got := socketPages("sockets: used 5\nTCP: inuse 4 orphan 0 tw 3 alloc 9 mem 17\nUDP: inuse 0 mem 1\n"); got != 17 {
		t.Errorf("%d pages, want 17", got)
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	m, err := weigh(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m.RSS < m.Private || m.Private <= 0 || m.Kernel <= 0 {
		t.Errorf("%+v", m)
	}
}

func TestIdleRowIsPerConnection(t *testing.T) {
	r := idleRow{Conns: 1000, None: memory{Private: 1000, Kernel: 0}, Half: memory{Private: 501_000}, All: memory{Private: 601_000, Kernel: 2_000_000}}
	r.sum()
	if r.User != 600 || r.UserFurther != 200 || r.System != 2000 {
		t.Errorf("%+v", r)
	}
}
