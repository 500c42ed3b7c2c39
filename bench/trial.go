package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
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
	BesideArgs []string `json:",omitempty"` // of the second load

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
	EntersPerSecond  *float64 `json:",omitempty"`

	Copies *copies `json:",omitempty"` // of every byte, where that is known

	// BesideBytesPerSecond is what the second load received.
	BesideBytesPerSecond float64 `json:",omitempty"`

	Memory memory // at the end of the window

	Report *result.Report `json:",omitempty"` // as the load generator wrote it
	Before json.RawMessage
	After  json.RawMessage // the server's counters at the ends of the window
}

// exitPayload is the load generator's exit status for a wrong byte.
const exitPayload = 3

// trial is one turn of one server.
type trial struct {
	server         server
	kind           kind
	cell           cell
	beside         cell    // the shape of the server's second load, if it has one
	behind         *server // what the server connects to; nil: nothing
	round          int
	window, warmup time.Duration
	cores          cores
}

// run starts the server, puts the load on it, and returns what came of it.
func (t *trial) run(ctx context.Context, bins *binaries) row {
	r := row{Server: t.server.name, Cell: t.cell.String(), Load: t.cell, Round: t.round,
		Date: time.Now().UTC(), ServerArgs: t.serverArgs(bins)}
	if err := t.measure(ctx, bins, &r); err != nil {
		r.Error = err.Error()
		r.WrongPayload = errors.Is(err, errWrongPayload)
	}
	return r
}

// serverArgs are the flags that the server is started with.
func (t *trial) serverArgs(bins *binaries) []string {
	if t.server.foreign != nil {
		return nil // they need an address first
	}
	addr := t.kind.network + "127.0.0.1:0"
	if t.kind.network == "unix:" {
		addr = t.kind.network + bins.socket()
	}
	args := append([]string{"-addr", addr}, t.server.arguments(t.cell)...)
	if t.server.blocking {
		args = append(args, "-serve", t.kind.serve)
	}
	if t.kind.tls {
		args = append(args, "-tls", bins.certificate())
	}
	if t.kind.server != nil {
		args = append(args, t.kind.server(t.cell)...)
	}
	if (t.kind.content && t.behind == nil) || t.server.beside != nil && !t.server.root {
		args = append(args, "-content", "127.0.0.1:0")
	}
	if t.server.file {
		args = append(args, "-file", bins.content())
	}
	if t.server.root {
		args = append(args, "-root", bins.root())
	}
	return args
}

// besideArgs are the flags of the second load. It goes on until it is stopped.
func (t *trial) besideArgs(bins *binaries) []string {
	args := append([]string{"-mode", t.server.beside.mode, "-window", "0"}, t.beside.loadFlags()...)
	switch {
	case t.server.beside.cold && t.server.root:
		args = append(args, "-files", strconv.Itoa(t.beside.Conns), "-cold", bins.root())
	case t.server.beside.cold:
		args = append(args, "-cold", bins.content())
	}
	if t.server.beside.meek && t.cell.Rate > 0 {
		args = append(args, "-meek")
	}
	return args
}

// errWrongPayload says that a server did not echo.
var errWrongPayload = errors.New("wrong payload")

// troupe is the processes of a trial. Those that it does without are nil.
type troupe struct {
	server               *process
	behind, beside, load *process // on the load's core
}

func (a *troupe) stop() {
	for _, p := range []*process{a.load, a.beside, a.server, a.behind} {
		if p != nil {
			p.stop()
		}
	}
}

func (t *trial) measure(ctx context.Context, bins *binaries, r *row) error {
	_ = os.Remove(bins.socket()) // of the server before
	var all troupe
	defer all.stop()
	if err := t.startServers(bins, &all, r); err != nil {
		return err
	}
	begin := func(args []string) (*process, error) {
		p, err := launch(t.cores.Load, bins.load(), args...)
		if err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
		return p, nil
	}
	var err error
	if t.server.beside != nil {
		if all.beside, err = begin(r.BesideArgs); err != nil {
			return err
		}
		if err := t.expect(&all, all.beside, result.Holding, time.Minute); err != nil {
			return fmt.Errorf("beside: %w", err)
		}
	}
	if all.load, err = begin(r.LoadArgs); err != nil {
		return err
	}

	// Opening many connections takes a while too.
	if err := t.expect(&all, all.load, result.Began, t.warmup+time.Minute); err != nil {
		return err
	}
	before, err := t.sample(&all)
	if err != nil {
		return err
	}
	if err := t.expect(&all, all.load, result.Ended, t.window+30*time.Second); err != nil {
		return err
	}
	after, err := t.sample(&all)
	if err != nil {
		return err
	}
	if r.Memory, err = all.server.weigh(); err != nil {
		return err
	}
	if all.beside != nil {
		select {
		case <-all.beside.ended:
			return fmt.Errorf("beside: %w", t.blame(&all, all.beside, all.beside.failure()))
		default:
		}
	}
	if t.kind.partial {
		_ = all.load.in.Close()
	}
	line, err := all.load.line(30 * time.Second)
	if err != nil {
		return t.blame(&all, all.load, err)
	}
	var report result.Report
	if err := json.Unmarshal([]byte(line), &report); err != nil {
		return fmt.Errorf("load: report %q: %w", line, err)
	}
	if report.Requests == 0 && (!t.kind.partial || report.Bytes == 0) {
		return errors.New("no request was answered in the window: use a longer one (-seconds) or smaller messages")
	}
	r.Report = &report
	r.sum(before, after)
	if t.server.copies != nil {
		r.Copies = t.server.copies.reported(before.stats, after.stats)
	}
	return nil
}

// startServers starts what is behind the server, and the server, and completes the
// flags of all by the addresses that they have got.
func (t *trial) startServers(bins *binaries, all *troupe, r *row) (err error) {
	var addrs []string
	// at is the address that the load asks, or what asks for it.
	at := func() string {
		if t.kind.content {
			return addrs[1]
		}
		return addrs[0]
	}
	if t.behind != nil {
		args := append([]string{"-addr", "127.0.0.1:0", "-content", "127.0.0.1:0"}, t.behind.flags...)
		if all.behind, addrs, err = startServer(t.cores.Load, bins.path(*t.behind), args...); err != nil {
			return fmt.Errorf("behind: %w", err)
		}
		r.ServerArgs = append(r.ServerArgs, "-to", at())
	}
	if t.server.foreign != nil {
		all.server, addrs, r.ServerArgs, err = startForeign(t.cores.Server, bins, t.server)
	} else {
		all.server, addrs, err = startServer(t.cores.Server, bins.path(t.server), r.ServerArgs...)
	}
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	if t.server.beside != nil {
		r.BesideArgs = append([]string{"-addr", addrs[len(addrs)-1]}, t.besideArgs(bins)...)
	}
	to := addrs[0]
	if t.behind == nil {
		to = at()
	}
	r.LoadArgs = append([]string{"-addr", to}, t.loadArgs(bins)...)
	return nil
}

// loadArgs are the flags of the measured load, beside its address.
func (t *trial) loadArgs(bins *binaries) []string {
	args := append([]string{"-warmup", t.warmup.String(), "-window", t.window.String()}, t.kind.load...)
	if t.kind.tls {
		args = append(args, "-tls", bins.certificate())
	}
	if t.kind.partial {
		args = append(args, "-drain=false")
	}
	if t.kind.files != nil {
		args = append(args, "-files", strconv.Itoa(t.kind.files(t.cell)))
		if t.kind.cold {
			args = append(args, "-cold", bins.root())
		}
	}
	return append(args, t.cell.loadFlags()...)
}

// expect waits for the load generator to say word.
func (t *trial) expect(all *troupe, load *process, word string, timeout time.Duration) error {
	s, err := load.line(timeout)
	if err != nil {
		return t.blame(all, load, err)
	}
	if s != word {
		return fmt.Errorf("load: it says %q and not %q", s, word)
	}
	return nil
}

// blame finds out why the load generator did not go on: a wrong payload, a server
// that has ended, or trouble of its own.
func (t *trial) blame(all *troupe, load *process, err error) error {
	select {
	case <-load.ended:
		err = load.failure()
		if load.exitStatus() == exitPayload {
			return fmt.Errorf("%w: %w", errWrongPayload, err)
		}
	case <-time.After(100 * time.Millisecond):
	}
	select {
	case <-all.server.ended:
		return fmt.Errorf("server: %w; load: %w", all.server.failure(), err)
	default:
		return fmt.Errorf("load: %w%s", err, all.server.errors.suffix())
	}
}

// sample is the state of all clocks at one end of the window.
type sample struct {
	at                   time.Time
	server, load         time.Duration // on the CPU; load: of all that has the load's core
	serverCore, loadCore time.Duration // idle
	stats                json.RawMessage
	statsAt              time.Time
	beside               uint64 // bytes that the second load has received
}

func (t *trial) sample(all *troupe) (sample, error) {
	s := sample{at: time.Now()}
	var errs [4]error
	s.server, errs[0] = all.server.cpu()
	for _, p := range []*process{all.behind, all.beside, all.load} {
		if p == nil {
			continue
		}
		cpu, err := processCPU(p.pid())
		s.load += cpu
		errs[1] = errors.Join(errs[1], err)
	}
	s.serverCore, errs[2] = coreIdle(t.cores.Server)
	s.loadCore, errs[3] = coreIdle(t.cores.Load)
	if err := errors.Join(errs[:]...); err != nil {
		return s, t.blame(all, all.load, err)
	}
	if all.beside != nil {
		told, err := all.beside.ask(control.Ask)
		if err == nil {
			err = json.Unmarshal(told, &s.beside)
		}
		if err != nil {
			return s, fmt.Errorf("beside: %w", t.blame(all, all.beside, err))
		}
	}
	s.statsAt = time.Now()
	var err error
	if s.stats, err = all.server.ask(control.Ask); err != nil {
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
	r.LoadCPU = part(before.load, after.load) + r.Report.ChildCPU/r.Report.Seconds
	r.ServerCore = 1 - part(before.serverCore, after.serverCore)
	r.LoadCore = 1 - part(before.loadCore, after.loadCore)
	if r.RequestsPerSecond > 0 {
		r.CPUPerRequest = r.ServerCPU * 1e6 / r.RequestsPerSecond
	}
	r.BesideBytesPerSecond = float64(after.beside-before.beside) / after.statsAt.Sub(before.statsAt).Seconds()
	r.Before, r.After = before.stats, after.stats
	var a, b control.Stats
	if json.Unmarshal(before.stats, &a) == nil && json.Unmarshal(after.stats, &b) == nil && a.Enters != nil && b.Enters != nil {
		perSecond := float64(*b.Enters-*a.Enters) / after.statsAt.Sub(before.statsAt).Seconds()
		r.EntersPerSecond = &perSecond
		if r.RequestsPerSecond > 0 {
			n := perSecond / r.RequestsPerSecond
			r.EntersPerRequest = &n
		}
	}
}
