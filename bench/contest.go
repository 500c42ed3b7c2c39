package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"example.com/ringnet/bench/internal/certificate"
)

// contestPlan is what the flags of a benchmark ask for.
type contestPlan struct {
	*benchmark
	cells   []cell
	servers []server
	bases   []string // servers that others are compared with
	rounds  int
	window  time.Duration
	warmup  time.Duration
	json    string
	cores   cores
	beside  cell // the shape of the second load, where there is one
	files   []fileSet
}

func (b *benchmark) parse(args []string) (contestPlan, error) {
	p := contestPlan{benchmark: b}
	var one cell
	var cells, sizes, servers, second string
	fs := flag.NewFlagSet("bench "+b.name, flag.ContinueOnError)
	about := "loads, CONNSxSIZExPIPELINE[@RATE],…"
	if len(b.kinds) > 1 {
		about += ", each with its kind and a colon in front: " + strings.Join(b.kindNames(), ", ")
	}
	if b.single {
		about = "several loads in one run, CONNSxSIZExPIPELINE[@RATE],…: 64x64x1,1000x64x1,16x64+65536x1,1x64x1@1000; instead of -conns, -size, -pipeline and -rate"
		fs.IntVar(&one.Conns, "conns", 64, "connections")
		fs.StringVar(&sizes, "size", "64", "bytes in a message; several sizes (64,65536) alternate on each connection")
		fs.IntVar(&one.Pipeline, "pipeline", 1, "messages in flight on each connection")
		fs.Float64Var(&one.Rate, "rate", 0, "requests per second in all, as an open loop; 0 is a closed loop: as fast as answers come")
		fs.StringVar(&cells, "cells", "", about)
	} else {
		fs.StringVar(&cells, "cells", b.cells, about)
	}
	if b.beside != "" {
		fs.StringVar(&second, "beside", b.beside, "the load beside the measured one: CONNSxSIZE, connections and bytes that each asks for at a time")
	}
	fs.IntVar(&one.Burst, "burst", 16, "messages of one size in a row, when sizes alternate")
	fs.StringVar(&servers, "servers", "", "servers, in the order of the table: "+strings.Join(names(b.servers), ",")+" (default: "+strings.Join(names(ordinary(b.servers)), ",")+")")
	check := p.flags(fs, 3, 5)
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	if fs.NArg() > 0 {
		return p, fmt.Errorf("%q is not a flag: see bench %s -h", fs.Arg(0), b.name)
	}
	var err error
	if b.single && cells == "" {
		if one.Sizes, err = parseSizes(sizes); err != nil {
			return p, fmt.Errorf("-size %q: %w", sizes, err)
		}
		if err := one.check(); err != nil {
			return p, err
		}
		p.cells = []cell{one}
	} else if p.cells, err = parseCells(cells); err != nil {
		return p, err
	}
	for i := range p.cells {
		p.cells[i].Burst = one.Burst
		if _, err := b.kindOf(p.cells[i]); err != nil {
			return p, err
		}
	}
	if b.beside != "" {
		if p.beside, err = parseCell(second + "x1"); err != nil {
			return p, fmt.Errorf("-beside: %w", err)
		}
		p.beside.Burst = 1
	}
	if p.servers, err = choose(b.servers, servers); err != nil {
		return p, fmt.Errorf("-servers: %w", err)
	}
	if one.Burst < 1 {
		return p, fmt.Errorf("-burst %d: it must be at least 1", one.Burst)
	}
	return p, check()
}

// flags declares what can be said of every contest, with the defaults of two of them.
// When they are parsed and the servers chosen, check takes them.
func (p *contestPlan) flags(fs *flag.FlagSet, seconds float64, rounds int) (check func() error) {
	var bases string
	var warmup float64
	fs.Float64Var(&seconds, "seconds", seconds, "length of each measured window")
	fs.Float64Var(&warmup, "warmup", -1, "seconds before each window; -1 is a third of -seconds, at most 0.5")
	fs.IntVar(&p.rounds, "rounds", rounds, "rounds; each server has one turn in each")
	fs.StringVar(&bases, "base", p.benchmark.bases, "servers that the others are compared with")
	fs.StringVar(&p.json, "json", "", "file for the raw rows, or off (default: one named by the time in bench/results)")
	fs.IntVar(&p.cores.Server, "server-core", -1, "core of the server; -1 is the last one")
	fs.IntVar(&p.cores.Load, "load-core", -1, "core of the load generator; -1 is the first one")
	return func() (err error) {
		if p.bases, err = chooseBases(bases, p.benchmark.servers, p.servers); err != nil {
			return err
		}
		switch {
		case p.rounds < 1:
			return fmt.Errorf("-rounds %d: there must be at least 1", p.rounds)
		case seconds < 0.05 || seconds > 3600:
			return fmt.Errorf("-seconds %g: a window must have 0.05 to 3600 seconds", seconds)
		}
		if warmup < 0 {
			warmup = min(0.5, seconds/3)
		}
		p.window = time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
		p.warmup = time.Duration(warmup * float64(time.Second)).Round(time.Millisecond)
		p.cores, err = pickCores(p.cores.Server, p.cores.Load)
		return err
	}
}

// contentBytes is how long the file has to be that servers send from; 0 for none.
func (p *contestPlan) contentBytes() int {
	n := 0
	for _, s := range p.servers {
		switch {
		case !s.file:
		case s.beside != nil && s.beside.cold:
			n = max(n, p.beside.Conns*p.beside.largest())
		default:
			for _, c := range p.cells {
				n = max(n, c.largest())
			}
		}
	}
	return n
}

// chooseBases checks the names, and leaves out bases that are not measured.
func chooseBases(list string, all, servers []server) ([]string, error) {
	var bases []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if _, ok := find(all, name); !ok {
			return nil, fmt.Errorf("-base: there is no server %q: choose from %s", name, strings.Join(names(all), ", "))
		}
		if slices.Contains(names(servers), name) {
			bases = append(bases, name)
		}
	}
	return bases, nil
}

// run runs the benchmark and writes its tables to w.
func (b *benchmark) run(ctx context.Context, args []string, w io.Writer) error {
	p, err := b.parse(args)
	if err != nil {
		return err
	}
	if err := p.equipped(); err != nil {
		return err
	}
	_, err = p.run(ctx, args, w)
	return err
}

// programs is those of others that have a part in it.
func (p *contestPlan) programs(ctx context.Context) (all []string) {
	var paths []string
	for _, s := range p.servers {
		if path, err := installed(s.program); err == nil && s.program != "" {
			paths = append(paths, path)
		}
	}
	for _, c := range p.cells {
		k, _ := p.kindOf(c)
		if path, err := installed(k.needs); err == nil && k.needs != "" {
			paths = append(paths, path)
		}
	}
	for _, path := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		all = append(all, version(ctx, path))
	}
	return all
}

// equipped says whether the programs are there that the load is made by.
func (p *contestPlan) equipped() error {
	for _, c := range p.cells {
		k, err := p.kindOf(c)
		if err != nil {
			return err
		}
		if _, err := exec.LookPath(k.needs); k.needs != "" && err != nil {
			return fmt.Errorf("%v: %s is missing: %s", c, k.needs, k.without)
		}
	}
	return nil
}

// run does what the plan says. The record is returned with an error, too, as far as
// there is one.
func (p *contestPlan) run(ctx context.Context, args []string, w io.Writer) (*record[row], error) {
	bins, err := newBinaries(ctx)
	if err != nil {
		return nil, err
	}
	defer bins.remove()
	show := newProgress()
	able, absent, err := bins.buildAll(ctx, show, p.servers)
	if err != nil {
		return nil, err
	}
	if len(able) == 0 {
		return nil, errors.Join(errors.New("nothing can be measured"), printTrouble(w, nil, absent))
	}
	if p.behind != nil {
		show.say("build the server behind")
		if err := bins.build(ctx, *p.behind); err != nil {
			return nil, err
		}
	}
	about := describe(ctx, p.name, args, bins.module, p.cores)
	about.Programs = p.programs(ctx)
	rec, err := newRecord[row](p.json, bins.module, about)
	if err != nil {
		return nil, err
	}
	if p.cores.Server == p.cores.Load {
		fmt.Fprintln(os.Stderr, "bench: there is only one core: the load generator takes its time from the server, and rates say little")
	}
	if err := bins.writeContent(p.contentBytes()); err != nil {
		return nil, err
	}
	if len(p.files) > 0 {
		show.say("write the files")
	}
	if err := bins.writeFiles(p.files); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.kinds, func(k kind) bool { return k.tls }) {
		if err := certificate.Write(bins.certificate()); err != nil {
			return nil, err
		}
	}
	// Out of the way of the server; only now, since the compiler wants all cores.
	back, err := moveTo(p.cores.Load)
	if err != nil {
		return nil, err
	}
	defer back()
	err = p.contest(ctx, bins, able, show, rec)
	show.clear()
	printHead(w, rec.About)
	for _, c := range p.cells {
		p.printCell(w, c, rec.Rows)
	}
	if p.notes != "" {
		fmt.Fprintf(w, "\n%s", p.notes)
	}
	failed := printTrouble(w, rec.Rows, absent)
	if rec.path != "" && len(rec.Rows) > 0 {
		fmt.Fprintf(w, "\nraw rows: %s\n", shortPath(rec.path))
	}
	return rec, errors.Join(err, failed)
}

// buildAll builds the load generator and every server. Servers that cannot be
// built are returned with the reason.
func (b *binaries) buildAll(ctx context.Context, show *progress, list []server) (able []server, absent map[string]error, err error) {
	defer show.clear()
	show.say("build the load generator")
	if err := b.buildLoad(ctx); err != nil {
		return nil, nil, err
	}
	absent = make(map[string]error)
	for _, s := range list {
		show.say("build %s", s.name)
		if err := b.build(ctx, s); err != nil {
			absent[s.name] = err
			continue
		}
		able = append(able, s)
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return able, absent, nil
}

// contest makes a row for each cell, round and server. Only what makes going on
// pointless is an error; a trial that fails is a row that says so.
func (p *contestPlan) contest(ctx context.Context, bins *binaries, able []server, show *progress, rec *record[row]) error {
	steps, err := p.trials(able)
	if err != nil {
		return err
	}
	show.steps(steps, p.trialTime())
	for _, c := range p.cells {
		k, err := p.kindOf(c)
		if err != nil {
			return err
		}
		for round := range p.rounds {
			for _, s := range turns(takers(able, k), round) {
				if err := ctx.Err(); err != nil {
					return err
				}
				show.say("%v  round %d of %d  %s", c, round+1, p.rounds, s.name)
				t := trial{server: s, kind: k, cell: c, round: round + 1, window: p.window, warmup: p.warmup, cores: p.cores, beside: p.beside, behind: p.behind}
				if err := rec.add(t.run(ctx, bins)); err != nil {
					return err
				}
				show.step()
			}
		}
	}
	return nil
}

// trials is how many there will be.
func (p *contestPlan) trials(able []server) (n int, err error) {
	for _, c := range p.cells {
		k, err := p.kindOf(c)
		if err != nil {
			return 0, err
		}
		n += p.rounds * len(takers(able, k))
	}
	return n, nil
}

// trialTime is about how long one takes: beside its window processes start and end,
// and the load goes on for a while.
func (p *contestPlan) trialTime() time.Duration {
	return p.warmup + p.window + 300*time.Millisecond
}

// takers are the servers that take a kind of load.
func takers(list []server, k kind) []server {
	return slices.DeleteFunc(slices.Clone(list), func(s server) bool { return !s.takes(k) })
}

// turns is the order of a round: each round begins with another server, and every
// other goes the other way round, so that nobody always follows the same one.
func turns(list []server, round int) []server {
	order := make([]server, 0, len(list))
	for i := range list {
		order = append(order, list[(i+round)%len(list)])
	}
	if round%2 == 1 {
		slices.Reverse(order[1:])
	}
	return order
}
