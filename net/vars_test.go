//go:build linux

package net

import (
	"encoding/json"
	"expvar"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

var _ expvar.Var = Vars{}

func TestVarsAreStatsAsJSON(t *testing.T) {
	srv := serve(t, Options{Loops: 2}, echoWrite(t))
	wantEcho(t, srv.dial(), payload(1, 1000))
	var got struct {
		Engine              string
		CompletionsPerEnter float64
		Total               Stats
		Loops               []Stats
	}
	if err := json.Unmarshal([]byte(srv.Vars().String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Total.BytesReceived != 1000 || got.Total.Accepted != 1 || len(got.Loops) != 2 || got.Total.Loops != 2 ||
		got.Loops[0].BytesSent+got.Loops[1].BytesSent != 1000 || got.CompletionsPerEnter <= 0 || got.Engine != srv.Engine().Kind.String() {
		t.Errorf("the variables are %+v", got)
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(srv.Vars().String()), &got); err != nil || got.Total.Closed != 1 {
		t.Errorf("after the end the variables are %+v, %v", got, err)
	}
}

// Who imports package net does not get net/http with it.
func TestNetDoesNotBringHTTP(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("no go command: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), tool, "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOPROXY=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if p == "net/http" || p == "expvar" {
			t.Errorf("a user of net builds %s", p)
		}
	}
}

// Each counter has to be in the sum: fields are added by hand.
func TestStatsAddsEveryField(t *testing.T) {
	var one, sum Stats
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.Struct:
				fill(f)
			case reflect.Int, reflect.Int64:
				f.SetInt(3)
			case reflect.Uint64:
				f.SetUint(3)
			default:
				t.Fatalf("a field of kind %v", f.Kind())
			}
		}
	}
	fill(reflect.ValueOf(&one).Elem())
	sum.add(&one)
	if sum != one {
		t.Errorf("one loop alone sums to %+v", sum)
	}
	sum.add(&one)
	var check func(v reflect.Value, path string)
	check = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			name := path + v.Type().Field(i).Name
			want := int64(6)
			if name == "LastTurn" || name == "LongestTurn" {
				want = 3 // the longest
			}
			switch f := v.Field(i); f.Kind() {
			case reflect.Struct:
				check(f, name+".")
			case reflect.Uint64:
				if int64(f.Uint()) != want {
					t.Errorf("two loops sum to %s %d", name, f.Uint())
				}
			default:
				if f.Int() != want {
					t.Errorf("two loops sum to %s %d", name, f.Int())
				}
			}
		}
	}
	check(reflect.ValueOf(sum), "")
}

func TestRatiosOfStats(t *testing.T) {
	var none Stats
	if none.CompletionsPerEnter() != 0 || none.EntriesPerEnter() != 0 || none.CompletionsPerTurn() != 0 || none.Load() != 0 || none.MeanTurn() != 0 {
		t.Error("ratios of nothing are not zero")
	}
	s := Stats{Turns: 10, Uptime: 4 * time.Second, Asleep: 3 * time.Second}
	s.Ring.Enters, s.Ring.Completions, s.Ring.Submitted = 4, 20, 8
	if s.CompletionsPerEnter() != 5 || s.EntriesPerEnter() != 2 || s.CompletionsPerTurn() != 2 || math.Abs(s.Load()-0.25) > 1e-9 || s.MeanTurn() != 100*time.Millisecond {
		t.Errorf("ratios: %v %v %v %v %v", s.CompletionsPerEnter(), s.EntriesPerEnter(), s.CompletionsPerTurn(), s.Load(), s.MeanTurn())
	}
}

// An idle loop sleeps, and says so.
func TestStatsOfALoopThatSleeps(t *testing.T) {
	srv := serve(t, Options{Loops: 1}, echoWrite(t))
	wantEcho(t, srv.dial(), payload(1, 100))
	until(t, "the loop to have slept for most of the time", func() bool {
		st := srv.Stats()
		return st.Uptime > 50*time.Millisecond && st.Load() < 0.5 && st.Asleep <= st.Uptime
	})
	st := srv.Stats()
	if st.Turns == 0 || st.LongestTurn <= 0 || st.LastTurn > st.LongestTurn || st.MeanTurn() > st.LongestTurn+st.Uptime/2 {
		t.Errorf("turns: %d, the last took %v, the longest %v, on average %v", st.Turns, st.LastTurn, st.LongestTurn, st.MeanTurn())
	}
	// It sleeps for ever: nothing is due.
	srv.onLoop(0, func(l *loop) {
		if d := l.untilExpiry(); d >= 0 {
			t.Errorf("the loop would wake after %v", d)
		}
	})
}

func TestEventsOfAServer(t *testing.T) {
	var book logbook
	srv := &Server{Handler: Events{}, Options: Options{Loops: 1, Logger: slog.New(slog.NewTextHandler(&book, nil))}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	addr := srv.Addrs()[0].String()
	for range 3 {
		c := dialTo(t, srv.Addrs()[0])
		_ = c.Close()
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := book.String()
	for _, want := range []string{"ringnet: serving", addr, "engine=" + srv.Engine().Kind.String(), "ringnet: draining", "ringnet: ended", "accepted="} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if n := strings.Count(log, "\n"); n > 4 {
		t.Errorf("%d lines for three connections: at most one for each event of the server\n%s", n, log)
	}
}

func TestEventsOfShortagesAndMoves(t *testing.T) {
	var book logbook
	o := Options{Loops: 1, RecvBufs: 2, RecvBufBytes: 64, poison: true}
	srv := serve(t, o, echoWrite(t))
	srv.onLoop(0, func(l *loop) {
		l.o.Logger = slog.New(slog.NewTextHandler(&book, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	c := srv.dial()
	srv.toBulk(c)
	srv.onLoop(0, func(l *loop) {
		for range 5 { // is told once
			c := l.testConns()[0]
			l.logStarved()
			l.logConn(c, "test")
		}
	})
	log := book.String()
	if n := strings.Count(log, "all receive buffers are in use"); n != 1 || !strings.Contains(log, "RecvBufs") {
		t.Errorf("the shortage of buffers was told %d times:\n%s", n, log)
	}
	if !strings.Contains(log, "level=DEBUG msg=\"ringnet: a connection goes over to large buffers\"") {
		t.Errorf("the move was not told:\n%s", log)
	}
}
