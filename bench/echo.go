package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// echoPlan is what the flags of the echo benchmark ask for.
type echoPlan struct {
	cells   []cell
	servers []server
	bases   []string // servers that others are compared with
	rounds  int
	window  time.Duration
	warmup  time.Duration
	json    string
	cores   cores
}

func parseEcho(args []string) (echoPlan, error) {
	var p echoPlan
	var one cell
	var cells, sizes, servers, bases string
	var seconds, warmup float64
	fs := flag.NewFlagSet("bench echo", flag.ContinueOnError)
	fs.StringVar(&cells, "cells", "", "several loads in one run, CONNSxSIZExPIPELINE[@RATE],…: 64x64x1,1000x64x1,16x64+65536x1,1x64x1@1000; instead of -conns, -size, -pipeline and -rate")
	fs.IntVar(&one.Conns, "conns", 64, "connections")
	fs.StringVar(&sizes, "size", "64", "bytes in a message; several sizes (64,65536) alternate on each connection")
	fs.IntVar(&one.Pipeline, "pipeline", 1, "messages in flight on each connection")
	fs.Float64Var(&one.Rate, "rate", 0, "requests per second in all, as an open loop; 0 is a closed loop: as fast as answers come")
	fs.IntVar(&one.Burst, "burst", 16, "messages of one size in a row, when sizes alternate")
	fs.Float64Var(&seconds, "seconds", 3, "length of each measured window")
	fs.Float64Var(&warmup, "warmup", -1, "seconds before each window; -1 is a third of -seconds, at most 0.5")
	fs.IntVar(&p.rounds, "rounds", 5, "rounds; each server has one turn in each")
	fs.StringVar(&servers, "servers", "", "servers, in the order of the table: "+strings.Join(names(catalog), ",")+" (default: "+strings.Join(names(ordinary()), ",")+")")
	fs.StringVar(&bases, "base", "uring-c,epoll-c,gnet,std", "servers that the others are compared with")
	fs.StringVar(&p.json, "json", "", "file for the raw rows, or off (default: one named by the time in bench/results)")
	fs.IntVar(&p.cores.Server, "server-core", -1, "core of the server; -1 is the last one")
	fs.IntVar(&p.cores.Load, "load-core", -1, "core of the load generator; -1 is the first one")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	if fs.NArg() > 0 {
		return p, fmt.Errorf("%q is not a flag: see bench echo -h", fs.Arg(0))
	}
	var err error
	if cells == "" {
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
	}
	if p.servers, err = choose(servers); err != nil {
		return p, err
	}
	if p.bases, err = chooseBases(bases, p.servers); err != nil {
		return p, err
	}
	switch {
	case one.Burst < 1:
		return p, fmt.Errorf("-burst %d: it must be at least 1", one.Burst)
	case p.rounds < 1:
		return p, fmt.Errorf("-rounds %d: there must be at least 1", p.rounds)
	case seconds < 0.05 || seconds > 3600:
		return p, fmt.Errorf("-seconds %g: a window must have 0.05 to 3600 seconds", seconds)
	}
	if warmup < 0 {
		warmup = min(0.5, seconds/3)
	}
	p.window = time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
	p.warmup = time.Duration(warmup * float64(time.Second)).Round(time.Millisecond)
	p.cores, err = pickCores(p.cores.Server, p.cores.Load)
	return p, err
}

// chooseBases checks the names, and leaves out bases that are not measured.
func chooseBases(list string, servers []server) ([]string, error) {
	var bases []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if _, ok := find(name); !ok {
			return nil, fmt.Errorf("-base: there is no server %q: choose from %s", name, strings.Join(names(catalog), ", "))
		}
		if slices.Contains(names(servers), name) {
			bases = append(bases, name)
		}
	}
	return bases, nil
}

// echo runs the echo benchmark.
func echo(ctx context.Context, args []string) error {
	p, err := parseEcho(args)
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
	rec, err := newRecord[row](p.json, bins.module, describe(ctx, "echo", args, bins.module, p.cores))
	if err != nil {
		return err
	}
	if p.cores.Server == p.cores.Load {
		fmt.Fprintln(os.Stderr, "bench: there is only one core: the load generator takes its time from the server, and rates say little")
	}
	// Out of the way of the server; only now, since the compiler wants all cores.
	if err := moveTo(p.cores.Load); err != nil {
		return err
	}
	err = p.contest(ctx, bins, able, show, rec)
	show.clear()
	printHead(os.Stdout, rec.About)
	for _, c := range p.cells {
		printCell(os.Stdout, c, p.servers, p.bases, rec.Rows)
	}
	failed := printTrouble(os.Stdout, rec.Rows, absent)
	if rec.path != "" && len(rec.Rows) > 0 {
		fmt.Printf("\nraw rows: %s\n", shortPath(rec.path))
	}
	return errors.Join(err, failed)
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
func (p *echoPlan) contest(ctx context.Context, bins *binaries, able []server, show *progress, rec *record[row]) error {
	show.steps(len(p.cells) * p.rounds * len(able))
	for _, c := range p.cells {
		for round := range p.rounds {
			for _, s := range turns(able, round) {
				if err := ctx.Err(); err != nil {
					return err
				}
				show.say("%v  round %d of %d  %s", c, round+1, p.rounds, s.name)
				t := trial{server: s, cell: c, round: round + 1, window: p.window, warmup: p.warmup, cores: p.cores}
				if err := rec.add(t.run(ctx, bins)); err != nil {
					return err
				}
				show.step()
			}
		}
	}
	return nil
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
