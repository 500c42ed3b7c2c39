//go:build linux

package net

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// allowedList are the processors of this process.
func allowedList(t *testing.T) (cpus []int) {
	t.Helper()
	set, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

func TestLoopsArePinned(t *testing.T) {
	cpus := allowedList(t)
	last := cpus[len(cpus)-1]
	cases := []struct {
		name  string
		cpus  []int
		loops int
		want  []int // by loop
	}{
		{name: "one", cpus: []int{last}, want: []int{last}},
		{name: "one for two loops", cpus: []int{last}, loops: 2, want: []int{last, last}},
		{name: "all", cpus: cpus, want: cpus},
		{name: "the other way round and again", cpus: []int{last, cpus[0]}, loops: 3, want: []int{last, cpus[0], last}},
	}
	for _, cs := range cases {
		for _, engine := range []ring.EngineKind{ring.Auto, ring.Epoll} {
			t.Run(fmt.Sprintf("%s %v", cs.name, engine), func(t *testing.T) {
				srv := serve(t, Options{CPUs: cs.cpus, Loops: cs.loops, Engine: engine, Placement: RoundRobin, poison: true}, echoWrite(t))
				if len(srv.loops) != len(cs.want) {
					t.Fatalf("%d loops, want %d", len(srv.loops), len(cs.want))
				}
				var wg sync.WaitGroup
				for i, want := range cs.want {
					wg.Add(1)
					srv.onLoop(i, func(*loop) {
						defer wg.Done()
						var set unix.CPUSet
						if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() != 1 || !set.IsSet(want) {
							t.Errorf("loop %d may use %s, want %d (%v)", i, listCPUs(&set), want, err)
						}
					})
				}
				wg.Wait()
				wantEcho(t, srv.dial(), payload(1, 1000))
				if err := srv.shutdown(); err != nil {
					t.Error(err)
				}
				wantUnpinned(t)
			})
		}
	}
}

// wantUnpinned wants every thread of the process to be allowed what the process is.
func wantUnpinned(t *testing.T) {
	t.Helper()
	set, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "all threads to be free again", func() bool {
		files, err := filepath.Glob("/proc/self/task/*/status")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(files, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(b), "Cpus_allowed_list:\t"+listCPUs(&set)+"\n")
		})
	})
}

func TestProcessorsThatLoopsCannotHave(t *testing.T) {
	cpus := allowedList(t)
	for _, bad := range []int{-1, cpus[len(cpus)-1] + 1, 1023, 1024, 1 << 30} {
		if slices.Contains(cpus, bad) {
			continue
		}
		err := startFails(t, &Server{Handler: Events{}, Options: Options{CPUs: []int{cpus[0], bad}}}, "127.0.0.1:0")
		for _, part := range []string{"CPUs", fmt.Sprint("not ", bad), "may use", "taskset"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%d: the error does not say %q: %v", bad, part, err)
			}
		}
	}
	wantUnpinned(t)
}

// A loop that cannot start gives its thread back as it got it.
func TestPinnedLoopThatDoesNotStart(t *testing.T) {
	cpu := allowedList(t)[0]
	err := startFails(t, &Server{Handler: Events{}, Options: Options{CPUs: []int{cpu}, Loops: 2}}, "127.0.0.1:0", "192.0.2.1:0")
	if !strings.Contains(err.Error(), "192.0.2.1") {
		t.Error(err)
	}
	wantUnpinned(t)
}

func TestListOfProcessors(t *testing.T) {
	for _, cs := range []struct {
		cpus []int
		want string
	}{
		{nil, ""}, {[]int{0}, "0"}, {[]int{0, 1}, "0-1"}, {[]int{1, 3, 4, 5, 8, 63, 64, 65}, "1,3-5,8,63-65"}, {[]int{1022, 1023}, "1022-1023"},
	} {
		var set unix.CPUSet
		for _, c := range cs.cpus {
			set.Set(c)
		}
		if got := listCPUs(&set); got != cs.want {
			t.Errorf("%v: %q, want %q", cs.cpus, got, cs.want)
		}
	}
}
