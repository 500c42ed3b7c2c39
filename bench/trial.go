package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/result"
)

// row is what one trial gave: one server, under one load, once.
type row struct {
	Server     string
	Cell       string
	Load       cell
	Round      int
	Date       time.Time
	ServerArgs []string
	LoadArgs   []string

	// Error says why there are no figures. WrongPayload: the server sent back
	// something else than it was sent.
	Error        string `json:",omitempty"`
	WrongPayload bool   `json:",omitempty"`

	RequestsPerSecond float64
	BytesPerSecond    float64 // of payload, in one direction
	CPUPerRequest     float64 // of the server, in microseconds

	// Parts of the window, 0 to 1. A core may have been busy with something else
	// than our process: then the row is worth less.
	ServerCPU, LoadCPU   float64 // time of our process
	ServerCore, LoadCore float64 // time that the core was busy

	EntersPerRequest *float64 `json:",omitempty"` // io_uring_enter(2), where the server tells

	Report *result.Report `json:",omitempty"` // as the load generator wrote it
	Before json.RawMessage
	After  json.RawMessage // the server's counters at the ends of the window
}

// exitPayload is the load generator's exit status for a wrong byte.
const exitPayload = 3

// trial is one turn of one server.
type trial struct {
	server         server
	cell           cell
	round          int
	window, warmup time.Duration
	cores          cores
}

// run starts the server, puts the load on it, and returns what came of it.
func (t *trial) run(ctx context.Context, bins *binaries) row {
	r := row{Server: t.server.name, Cell: t.cell.String(), Load: t.cell, Round: t.round,
		Date: time.Now().UTC(), ServerArgs: t.server.arguments(t.cell)}
	if err := t.measure(ctx, bins, &r); err != nil {
		r.Error = err.Error()
		r.WrongPayload = errors.Is(err, errWrongPayload)
	}
	return r
}

// errWrongPayload says that a server did not echo.
var errWrongPayload = errors.New("wrong payload")

func (t *trial) measure(ctx context.Context, bins *binaries, r *row) error {
	srv, addr, err := startServer(t.cores.Server, bins.path(t.server), r.ServerArgs...)
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	defer srv.stop()
	r.LoadArgs = append([]string{"-addr", addr, "-warmup", t.warmup.String(), "-window", t.window.String()}, t.cell.loadFlags()...)
	load, err := launch(t.cores.Load, bins.load(), r.LoadArgs...)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer load.stop()
	stop := context.AfterFunc(ctx, func() { _ = load.cmd.Process.Kill() })
	defer stop()

	// Opening many connections takes a while too.
	if err := t.expect(srv, load, result.Began, t.warmup+time.Minute); err != nil {
		return err
	}
	before, err := t.sample(srv, load)
	if err != nil {
		return err
	}
	if err := t.expect(srv, load, result.Ended, t.window+30*time.Second); err != nil {
		return err
	}
	after, err := t.sample(srv, load)
	if err != nil {
		return err
	}
	line, err := load.line(30 * time.Second)
	if err != nil {
		return t.blame(srv, load, err)
	}
	var report result.Report
	if err := json.Unmarshal([]byte(line), &report); err != nil {
		return fmt.Errorf("load: report %q: %w", line, err)
	}
	if report.Requests == 0 {
		return errors.New("no request was answered in the window: use a longer one (-seconds) or smaller messages")
	}
	r.Report = &report
	r.sum(before, after)
	return nil
}

// expect waits for the load generator to say word.
func (t *trial) expect(srv, load *process, word string, timeout time.Duration) error {
	s, err := load.line(timeout)
	if err != nil {
		return t.blame(srv, load, err)
	}
	if s != word {
		return fmt.Errorf("load: it says %q and not %q", s, word)
	}
	return nil
}

// blame finds out why the load generator did not go on: a wrong payload, a server
// that has ended, or trouble of its own.
func (t *trial) blame(srv, load *process, err error) error {
	select {
	case <-load.ended:
		if load.exitStatus() == exitPayload {
			return fmt.Errorf("%w: %w", errWrongPayload, err)
		}
	default:
	}
	select {
	case <-srv.ended:
		return fmt.Errorf("server: %w; load: %w", srv.failure(), err)
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("load: %w%s", err, srv.errors.suffix())
	}
}

// sample is the state of all clocks at one end of the window.
type sample struct {
	at                   time.Time
	server, load         time.Duration // on the CPU
	serverCore, loadCore time.Duration // idle
	stats                json.RawMessage
	statsAt              time.Time
}

func (t *trial) sample(srv, load *process) (sample, error) {
	s := sample{at: time.Now()}
	var errs [4]error
	s.server, errs[0] = processCPU(srv.pid())
	s.load, errs[1] = processCPU(load.pid())
	s.serverCore, errs[2] = coreIdle(t.cores.Server)
	s.loadCore, errs[3] = coreIdle(t.cores.Load)
	if err := errors.Join(errs[:]...); err != nil {
		return s, err
	}
	s.statsAt = time.Now()
	var err error
	if s.stats, err = srv.ask(control.Ask); err != nil {
		return s, fmt.Errorf("server: %w", err)
	}
	return s, nil
}

// sum computes the row's figures. The load generator's window and ours differ by
// what it takes a line to get from there to here, so each clock's difference is
// divided by its own time first.
func (r *row) sum(before, after sample) {
	took := float64(after.at.Sub(before.at))
	part := func(before, after time.Duration) float64 { return float64(after-before) / took }
	r.RequestsPerSecond = float64(r.Report.Requests) / r.Report.Seconds
	r.BytesPerSecond = float64(r.Report.Bytes) / r.Report.Seconds
	r.ServerCPU = part(before.server, after.server)
	r.LoadCPU = part(before.load, after.load)
	r.ServerCore = 1 - part(before.serverCore, after.serverCore)
	r.LoadCore = 1 - part(before.loadCore, after.loadCore)
	if r.RequestsPerSecond > 0 {
		r.CPUPerRequest = r.ServerCPU * 1e6 / r.RequestsPerSecond
	}
	r.Before, r.After = before.stats, after.stats
	var a, b control.Stats
	if json.Unmarshal(before.stats, &a) == nil && json.Unmarshal(after.stats, &b) == nil && a.Enters != nil && b.Enters != nil && r.RequestsPerSecond > 0 {
		perSecond := float64(*b.Enters-*a.Enters) / after.statsAt.Sub(before.statsAt).Seconds()
		n := perSecond / r.RequestsPerSecond
		r.EntersPerRequest = &n
	}
}
