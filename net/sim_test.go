//go:build linux

package net

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/internal/engine/sim"
)

var (
	simSeed   = flag.Uint64("sim.seed", 0, "run only the simulated world of this seed")
	simTrace  = flag.Bool("sim.trace", false, "with -sim.seed: print everything that happens in it")
	simWorlds = flag.Int("sim.worlds", 0, "how many simulated worlds to run; 0: 10000, or 1500 with -short and under the race detector")
	simFirst  = flag.Uint64("sim.first", 1, "the first seed")
)

// TestSimulatedWorlds runs the loop over a simulated kernel, network and clock, in
// thousands of worlds. A seed that fails is printed with the command that shows it.
func TestSimulatedWorlds(t *testing.T) {
	if *simSeed != 0 {
		trace := io.Writer(nil)
		if *simTrace {
			trace = os.Stdout
		}
		out := runWorld(*simSeed, trace)
		if err := out.report(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%v of its own time, %+v, %+v", out.spent, out.counts, out.stats)
		return
	}
	worlds := *simWorlds
	if worlds == 0 {
		worlds = 10_000
		if simRace {
			worlds = 1500
		}
		if testing.Short() {
			worlds = 100 // the same on every kernel
		}
	}
	begin := time.Now()
	var sum simSum
	runWorlds(t, *simFirst, worlds, func(out *simOutcome) { sum.add(out) })
	took := time.Since(begin)
	t.Logf("%d worlds in %v, %.0f a second, %v of their own time", worlds, took.Round(time.Millisecond), float64(worlds)/took.Seconds(), sum.spent.Round(time.Second))
	t.Logf("the kernel: %+v", sum.counts)
	t.Logf("the server: %+v", sum.stats)
	if worlds >= 5000 && !t.Failed() {
		sum.check(t)
	}
}

// simSum adds worlds up.
type simSum struct {
	mu     sync.Mutex
	counts sim.Counts
	stats  Stats
	spent  time.Duration
}

func (s *simSum) add(out *simOutcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Add(out.counts)
	s.stats.add(&out.stats)
	s.spent += out.spent
}

// check wants everything to have happened that worlds are there for: what they no
// longer reach, they no longer prove.
func (s *simSum) check(t *testing.T) {
	kernel := reflect.ValueOf(s.counts)
	for i := range kernel.NumField() {
		if kernel.Field(i).IsZero() {
			t.Errorf("no world had any %s", kernel.Type().Field(i).Name)
		}
	}
	server := reflect.ValueOf(s.stats)
	for _, name := range []string{"NoBuffers", "Starved", "ToBulk", "ToSmall", "ToDirect", "DirectReceives", "DirectSends", "ShortSends",
		"HighWater", "HeapBuffers", "Flushes", "AcceptErrors", "Dialled", "DialErrors", "Panics", "Stale", "TimersFired", "Timeouts", "SpinsFound", "SpinsMissed",
		"ZeroCopySends", "ZeroCopyCopied", "ZeroCopyRefused", "FileErrors", "FileBytesMapped", "ColdReads",
		"PacketsReceived", "PacketsTruncated", "PacketsSent", "PacketWaits", "PacketErrors", "Segmented"} {
		if server.FieldByName(name).IsZero() {
			t.Errorf("no world had any %s", name)
		}
	}
}

// runWorlds runs worlds on every processor, each world on its own.
func runWorlds(t *testing.T, first uint64, worlds int, ended func(*simOutcome)) {
	t.Helper()
	const enough = 10 // failures
	var next, failed atomic.Uint64
	var all sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	running := make([]simRunning, workers)
	for i := range workers {
		all.Go(func() {
			for failed.Load() < enough {
				n := next.Add(1) - 1
				if n >= uint64(worlds) {
					return
				}
				running[i].begin(first + n)
				out := runWorld(first+n, nil)
				running[i].end()
				if err := out.report(); err != nil {
					failed.Add(1)
					t.Error(err)
				}
				ended(&out)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		all.Wait()
		close(over)
	}()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-over:
			return
		case <-look.C:
			for i := range running {
				if seed, ok := running[i].stuck(); ok {
					t.Fatalf("seed %d does not end, and makes no calls\n%s", seed, stacks())
				}
			}
		}
	}
}

// simRunning is the world that a goroutine runs.
type simRunning struct {
	mu    sync.Mutex
	seed  uint64
	since time.Time
}

func (r *simRunning) begin(seed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seed, r.since = seed, time.Now()
}

func (r *simRunning) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = time.Time{}
}

// stuck reports a world that has taken a minute, which is ten thousand times as
// long as they take.
func (r *simRunning) stuck() (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seed, !r.since.IsZero() && time.Since(r.since) > time.Minute
}

// Else a seed that fails would be of no use.
func TestSimulatedWorldsAreTheSameEachTime(t *testing.T) {
	worlds := uint64(200)
	if simRace {
		worlds = 40
	}
	if testing.Short() {
		worlds = 5
	}
	for seed := uint64(1); seed <= worlds; seed++ {
		var first, second bytes.Buffer
		runWorld(seed, &first)
		runWorld(seed, &second)
		if err := differ(second.Bytes(), first.Bytes()); err != nil {
			t.Fatalf("seed %d: the traces differ: %v\n%s", seed, err, firstDifference(first.Bytes(), second.Bytes()))
		}
	}
}

func firstDifference(a, b []byte) string {
	as, bs := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range min(len(as), len(bs)) {
		if !bytes.Equal(as[i], bs[i]) {
			return fmt.Sprintf("line %d:\n%s\n%s", i+1, as[i], bs[i])
		}
	}
	return "one goes on where the other ends"
}
