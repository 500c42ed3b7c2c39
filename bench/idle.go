package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/result"
)

// idlePlan is what the flags of the idle benchmark ask for.
type idlePlan struct {
	conns   int
	size    int
	seconds float64
	rounds  int
	servers []server
	json    string
	cores   cores
}

func parseIdle(args []string) (idlePlan, error) {
	var p idlePlan
	var servers string
	fs := flag.NewFlagSet("bench idle", flag.ContinueOnError)
	fs.IntVar(&p.conns, "conns", 10000, "connections")
	fs.IntVar(&p.size, "size", 64, "bytes in the message that each connection echoes before it rests")
	fs.Float64Var(&p.seconds, "seconds", 3, "how long to watch the CPU time of the resting server")
	fs.IntVar(&p.rounds, "rounds", 1, "rounds; each server has one turn in each")
	fs.StringVar(&servers, "servers", "", "servers, in the order of the table: "+strings.Join(names(resting), ",")+" (default: "+strings.Join(names(ordinary(resting)), ",")+")")
	fs.StringVar(&p.json, "json", "", "file for the raw rows, or off (default: one named by the time in bench/results)")
	fs.IntVar(&p.cores.Server, "server-core", -1, "core of the server; -1 is the last one")
	fs.IntVar(&p.cores.Load, "load-core", -1, "core of the load generator; -1 is the first one")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	switch {
	case fs.NArg() > 0:
		return p, fmt.Errorf("%q is not a flag: see bench idle -h", fs.Arg(0))
	case p.conns < 2:
		return p, fmt.Errorf("-conns %d: it must be at least 2", p.conns)
	case p.size < 1 || p.size > maxMessage:
		return p, fmt.Errorf("-size %d: it must be from 1 to %d", p.size, maxMessage)
	case p.rounds < 1:
		return p, fmt.Errorf("-rounds %d: there must be at least 1", p.rounds)
	case p.seconds < 0.05 || p.seconds > 3600:
		return p, fmt.Errorf("-seconds %g: it must be 0.05 to 3600", p.seconds)
	}
	var err error
	if p.servers, err = choose(resting, servers); err != nil {
		return p, fmt.Errorf("-servers: %w", err)
	}
	p.cores, err = pickCores(p.cores.Server, p.cores.Load)
	return p, err
}

// idleRow is what one server gave: its memory with no connection, with half of
// them and with all of them open, and its CPU time while they rested.
type idleRow struct {
	Server     string
	Conns      int
	Round      int
	Date       time.Time
	ServerArgs []string
	Error      string `json:",omitempty"`

	None, Half, All memory

	// Bytes per connection. The user figures count from no connection, the pools
	// that a server fills on first use included; the further figure counts from
	// the first half of the connections to the second, without them.
	User, UserFurther float64
	System            float64 // kernel memory, of both ends of each connection

	// CPU is the part of a core that the resting server used, 0 to 1.
	CPU     float64
	Seconds float64
}

// idle runs the idle benchmark and writes its table to w.
func idle(ctx context.Context, args []string, w io.Writer) error {
	p, err := parseIdle(args)
	if err != nil {
		return err
	}
	bins, err := newBinaries(ctx)
	if err != nil {
		return err
	}
	defer bins.remove()
	show := newProgress()
	able, absent, err := bins.buildAll(ctx, show, p.servers)
	if err != nil {
		return err
	}
	rec, err := newRecord[idleRow](p.json, bins.module, describe(ctx, "idle", args, bins.module, p.cores))
	if err != nil {
		return err
	}
	back, err := moveTo(p.cores.Load)
	if err != nil {
		return err
	}
	defer back()
	show.steps(p.rounds*len(able), 0)
	for round := range p.rounds {
		for _, s := range turns(able, round) {
			if err = ctx.Err(); err != nil {
				break
			}
			show.say("round %d of %d  %s", round+1, p.rounds, s.name)
			r := idleRow{Server: s.name, Conns: p.conns, Round: round + 1, Date: time.Now().UTC(), ServerArgs: append([]string{"-addr", "127.0.0.1:0"}, s.arguments(cell{Sizes: []int{p.size}, Pipeline: 1})...)}
			if err := p.rest(ctx, bins, s, &r); err != nil {
				r.Error = err.Error()
			}
			if err := rec.add(r); err != nil {
				return err
			}
			show.step()
		}
	}
	show.clear()
	printHead(w, rec.About)
	failed := printIdle(w, &p, rec.Rows, absent)
	if rec.path != "" && len(rec.Rows) > 0 {
		fmt.Fprintf(w, "\nraw rows: %s\n", shortPath(rec.path))
	}
	return errors.Join(err, failed)
}

// settleTime is how long memory is left alone before it is measured: the kernel
// frees some of it only after a grace period.
const settleTime = 300 * time.Millisecond

// rest measures one server.
func (p *idlePlan) rest(ctx context.Context, bins *binaries, s server, r *idleRow) error {
	srv, addrs, err := startServer(p.cores.Server, bins.path(s), r.ServerArgs...)
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	defer srv.stop()
	weigh := func() (memory, error) {
		time.Sleep(settleTime)
		if _, err := srv.ask(control.GC); err != nil {
			return memory{}, fmt.Errorf("server: %w", err)
		}
		return weigh(srv.pid())
	}
	if r.None, err = weigh(); err != nil {
		return err
	}
	load, err := launch(p.cores.Load, bins.load(), "-mode", "idle", "-addr", addrs[0], "-conns", strconv.Itoa(p.conns), "-size", strconv.Itoa(p.size), "-steps", "2",
		"-silent="+strconv.FormatBool(s.silent))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer load.stop()
	stop := context.AfterFunc(ctx, func() { _ = load.cmd.Process.Kill() })
	defer stop()
	for _, m := range []*memory{&r.Half, &r.All} {
		switch said, err := load.line(5 * time.Minute); {
		case err != nil:
			return fmt.Errorf("load: %w%s", err, srv.errors.suffix())
		case said != result.Holding:
			return fmt.Errorf("load: it says %q and not %q", said, result.Holding)
		}
		if *m, err = weigh(); err != nil {
			return err
		}
		if m == &r.Half {
			if _, err := io.WriteString(load.in, "go on\n"); err != nil {
				return fmt.Errorf("load: %w", err)
			}
		}
	}
	before, err := processCPU(srv.pid())
	if err != nil {
		return err
	}
	from := time.Now()
	select {
	case <-time.After(time.Duration(p.seconds * float64(time.Second))):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := processCPU(srv.pid())
	if err != nil {
		return err
	}
	took := time.Since(from)
	r.Seconds, r.CPU = took.Seconds(), float64(after-before)/float64(took)
	r.sum()
	return nil
}

// sum computes the figures per connection.
func (r *idleRow) sum() {
	n := float64(r.Conns)
	further := n - float64(r.Conns/2)
	r.User = float64(r.All.Private-r.None.Private) / n
	r.UserFurther = float64(r.All.Private-r.Half.Private) / further
	r.System = float64(r.All.Kernel-r.None.Kernel) / n
}

func printIdle(w io.Writer, p *idlePlan, rows []idleRow, absent map[string]error) error {
	fmt.Fprintf(w, "\n%d connections at rest, each after one message of %d bytes, or silent: after none; bytes per connection\n", p.conns, p.size)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line(t, []string{"server", "user", "user, 2nd half", "system, both ends", "RSS with none MB", "RSS with all MB", "CPU at rest"})
	var errs []error
	for _, s := range p.servers {
		figure := func(of func(idleRow) float64) float64 {
			var v []float64
			for _, r := range rows {
				if r.Server == s.name && r.Error == "" {
					v = append(v, of(r))
				}
			}
			return median(v)
		}
		cpu := "-"
		if v := figure(func(r idleRow) float64 { return r.CPU }); v == v {
			cpu = fmt.Sprintf("%.3f%%", 100*v)
		}
		line(t, []string{s.name,
			number(figure(func(r idleRow) float64 { return r.User }), 0),
			number(figure(func(r idleRow) float64 { return r.UserFurther }), 0),
			number(figure(func(r idleRow) float64 { return r.System }), 0),
			number(figure(func(r idleRow) float64 { return float64(r.None.RSS) / 1e6 }), 1),
			number(figure(func(r idleRow) float64 { return float64(r.All.RSS) / 1e6 }), 1),
			cpu})
	}
	_ = t.Flush()
	fmt.Fprint(w, "user: private memory of the server above what it has with no connection, after a collection of garbage; 2nd half: the same from half of the connections to all\n"+
		"system: kernel memory of the whole machine, so the load generator's ends of the connections are in it, the same for all\n")
	failed := 0
	for _, s := range p.servers {
		if err := absent[s.name]; err != nil {
			fmt.Fprintf(w, "\n%s: not measured: %v\n", s.name, err)
			if !errors.Is(err, errAbsent) {
				errs = append(errs, fmt.Errorf("%s could not be built", s.name))
			}
		}
	}
	for _, r := range rows {
		if r.Error != "" {
			failed++
			fmt.Fprintf(w, "\nfailed: %s, round %d: %s\n", r.Server, r.Round, r.Error)
		}
	}
	if failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d trials failed", failed, len(rows)))
	}
	return errors.Join(errs...)
}
