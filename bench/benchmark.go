package main

import (
	"fmt"
	"slices"
	"strings"
)

// benchmark is a subcommand in which servers take turns under the same loads.
type benchmark struct {
	name    string
	what    string   // one line for the usage
	servers []server // in the order of the tables
	bases   string   // whom the others are compared with
	cells   string   // measured unless the flags ask for others
	kinds   []kind   // of load
	columns []column // of the tables, after the names
	notes   string   // below the tables
	beside  string   // the default shape of the second load, where servers have one
	behind  *server  // a server that the measured ones connect to, on the load's core
	single  bool     // one cell may be given by flags of its own
}

// kind is a manner of load. Where a benchmark has but one, its cells need not name
// it.
type kind struct {
	name    string
	what    string              // for the title; empty: nothing to add
	network string              // in front of the server's address: "", "unix:" or "udp:"
	content bool                // the load asks for content, on the server's second address
	serve   string              // what servers of blocking functions do
	tls     bool                // over TLS, with the runner's certificate
	server  func(cell) []string // flags of the server; nil: none
	load    []string            // flags of the load generator
	needs   string              // a program that the load is made by; empty: only ours
	without string              // how to get it, or do without
	partial bool                // answers may be so slow that the window's end cuts them off
	files   func(cell) int      // how many files are asked for; nil: it is not for files
	cold    bool                // they are dropped from the page cache before
	columns []column            // of its tables; nil: those of the benchmark
}

// benchmarks is all of them, in the order of the usage.
var benchmarks = []*benchmark{&echoBenchmark, &udpBenchmark, &unixBenchmark, &churnBenchmark, &postBenchmark,
	&zerocopyBenchmark, &fileBenchmark, &coldBenchmark, &slowBenchmark,
	&fiberBenchmark, &fasthttpBenchmark, &tlsBenchmark, &proxyBenchmark, &httpBenchmark}

var echoBenchmark = benchmark{
	name:    "echo",
	what:    "speed of echo servers over TCP",
	servers: catalog,
	bases:   "uring-c,epoll-c,gnet,std",
	kinds:   []kind{{}},
	columns: echoColumns,
	single:  true,
}

// kindOf finds the kind of a cell, and names it in the cell where it has to be
// named.
func (b *benchmark) kindOf(c cell) (kind, error) {
	if c.Kind == "" && len(b.kinds) == 1 {
		return b.kinds[0], nil
	}
	for _, k := range b.kinds {
		if k.name == c.Kind && c.Kind != "" {
			return k, nil
		}
	}
	if len(b.kinds) == 1 {
		return kind{}, fmt.Errorf("cell %q: cells of bench %s have no kinds: write CONNSxSIZExPIPELINE", c, b.name)
	}
	return kind{}, fmt.Errorf("cell %q: bench %s has the kinds %s: write KIND:CONNSxSIZExPIPELINE, such as %s",
		c, b.name, strings.Join(b.kindNames(), ", "), strings.Split(b.cells, ",")[0])
}

func (b *benchmark) kindNames() []string {
	var all []string
	for _, k := range b.kinds {
		all = append(all, k.name)
	}
	return all
}

// usage is a line for each benchmark.
func usage() string {
	var s strings.Builder
	s.WriteString("usage: go run ./bench BENCHMARK [flags]; -h lists its flags\n")
	for _, b := range benchmarks {
		fmt.Fprintf(&s, "  %-9s %s\n", b.name, b.what)
		if b == &echoBenchmark {
			fmt.Fprintf(&s, "  %-9s %s\n", "idle", "memory and CPU of idle connections")
		}
		if b == &fileBenchmark {
			fmt.Fprintf(&s, "  %-9s %s\n", pathsBenchmark.name, pathsBenchmark.what)
			fmt.Fprintf(&s, "  %-9s %s\n", filesBenchmark.name, filesBenchmark.what)
		}
	}
	return s.String()
}

// only lists servers by their names.
func only(list []server, wanted ...string) []server {
	var some []server
	for _, s := range list {
		if slices.Contains(wanted, s.name) {
			some = append(some, s)
		}
	}
	return some
}
