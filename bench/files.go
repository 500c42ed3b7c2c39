package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// filesBenchmark is file servers beside each other. Kinds and cells come from the flags,
// and for mixed loads each server once more, with the second load.
var filesBenchmark = benchmark{
	name: "files",
	what: "static files over HTTP: examples/fileserve, nginx, fasthttp, net/http; wrk is the load",
	servers: []server{
		fileserve("fileserve", "this library: examples/fileserve", "auto"),
		more(fileserve("fileserve-epoll", "the same on epoll", "epoll")),
		nginxServer("nginx", "one worker, sendfile, tcp_nopush and open_file_cache"),
		more(nginxServer("nginx-threads", "the same, which reads what is not in memory in threads", "aio threads;")),
		{name: "fasthttp", what: "fasthttp.FS on Go's net", dir: "servers/files", root: true, flags: []string{"-on", "fasthttp"}},
		{name: "net/http", what: "http.FileServer on Go's net", dir: "servers/files", root: true, flags: []string{"-on", "net/http"}},
	},
	bases: "nginx,fasthttp,net/http",
	columns: []column{
		{head: "requests/s", of: filesPerSecond, spread: true, versus: withAll},
		{head: "GB/s", of: func(r row) float64 { return r.BytesPerSecond / 1e9 }, decimals: 3},
		{head: "CPU µs/req", of: perFile, decimals: 2},
		{head: "CPU s/GB", of: perGigabyte, decimals: 3, spread: true, versus: withAll},
		{head: "core s/GB", of: corePerGigabyte, decimals: 3, versus: withFirst},
		serverCoreColumn, loadCoreColumn, p50Column, p99Column,
	},
	notes: "requests/s: bytes of files received, over the size of one: the parts of answers that the window's end cut off count as well\n" +
		"CPU s/GB of large files has in it what a server had put into the sockets when the window ended, some MB for each: the longer the window, the less that is\n" +
		"CPU: of all processes of the server; core: the time that its core was busy, with interrupts\n" +
		"warm: one file of each size; cold: many in turn, each dropped from the page cache right before it is asked for, from which a server's\n" +
		"own cache may still have it; mixed: +cold has a second load, which streams large files that are dropped in the same way, and\n" +
		"takes what the measured load leaves of their core, where that has a rate to keep; latency then counts from when a request was due\n" +
		"wrk looks at no body, so before and after, files are fetched and every byte is verified, and the number of bytes that wrk got has to\n" +
		"fit; our own load generator, which also makes the mixed loads, verifies every byte of every answer\n",
}

// mixedColumns are those of mixed loads.
var mixedColumns = []column{
	{head: "requests/s", of: rate, versus: withAlone},
	{head: "p50 µs", of: p50, versus: withAlone},
	{head: "p99 µs", of: p99, spread: true, versus: withAlone},
	{head: "p99.9 µs", of: func(r row) float64 { return latency(r, r.Report.Latency.P999) }, versus: withAlone},
	{head: "beside MB/s", of: besideVolume},
	serverCoreColumn, loadCoreColumn,
}

// filesPerSecond counts parts of files, too: in a window there may be but a few large
// ones.
func filesPerSecond(r row) float64 { return r.BytesPerSecond / float64(r.Load.largest()) }

// perFile is the CPU time of the server for one, in microseconds.
func perFile(r row) float64 { return r.ServerCPU * 1e6 / filesPerSecond(r) }

// fileserve is the example on an engine.
func fileserve(name, what, engine string) server {
	return server{name: name, what: what, dir: "../examples/fileserve", root: true, flags: []string{"-engine", engine},
		foreign: func(s server, bins *binaries, addr string) ([]string, error) {
			return append([]string{"-root", bins.root(), "-addr", addr, "-loops", "1"}, s.flags...), nil
		}}
}

// Kinds of load.
const (
	warmKind  = "warm"
	coldKind  = "cold"
	mixedKind = "mixed"
)

// What the flags may ask for.
const (
	maxFileConns = 4096
	coldFiles    = 16384 // of one size
)

// filesPlan is what the flags of the benchmark ask for.
type filesPlan struct {
	contestPlan
	chosen      []string // kinds of load
	sizes       []int
	connections []int
	coldBytes   int
	by          string
}

func parseFiles(args []string) (filesPlan, error) {
	b := filesBenchmark
	p := filesPlan{contestPlan: contestPlan{benchmark: &b}}
	var list, kinds, sizes, connections, coldBytes, mixed, second string
	fs := flag.NewFlagSet("bench "+b.name, flag.ContinueOnError)
	fs.StringVar(&list, "servers", "", "servers, in the order of the table: "+strings.Join(names(b.servers), ",")+" (default: "+strings.Join(names(ordinary(b.servers)), ",")+")")
	fs.StringVar(&kinds, "kinds", "warm,cold,mixed", "kinds of load: warm, cold (files are dropped from the page cache before they are asked for), mixed (the latency of small files alone, and while large cold ones stream)")
	fs.StringVar(&sizes, "sizes", "1KiB,16KiB,64KiB,1MiB,16MiB", "warm and cold: sizes of the files")
	fs.StringVar(&connections, "connections", "64", "warm and cold: numbers of connections")
	fs.StringVar(&coldBytes, "cold-bytes", "512MiB", "cold: as many files of each size as make so much, but no fewer than connections and no more than "+strconv.Itoa(coldFiles))
	fs.StringVar(&mixed, "mixed", "32x1024x1@10000,64x1024x1", "mixed: the measured loads, CONNSxSIZExPIPELINE[@RATE],…")
	fs.StringVar(&second, "beside", "8x33554432", "mixed: the load beside it: CONNSxSIZE, connections and bytes of the file that each asks for again and again, dropped before")
	fs.StringVar(&p.by, "by", "wrk", "warm and cold: who makes the load: wrk, or own: our load generator, which verifies every byte")
	check := p.flags(fs, 2, 3)
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	if fs.NArg() > 0 {
		return p, fmt.Errorf("%q is not a flag: see bench %s -h", fs.Arg(0), b.name)
	}
	var err error
	if p.servers, err = choose(b.servers, list); err != nil {
		return p, fmt.Errorf("-servers: %w", err)
	}
	p.chosen = strings.Split(kinds, ",")
	for i, k := range p.chosen {
		p.chosen[i] = strings.TrimSpace(k)
		if !slices.Contains([]string{warmKind, coldKind, mixedKind}, p.chosen[i]) {
			return p, fmt.Errorf("-kinds: there is no %q: choose from warm, cold, mixed", k)
		}
	}
	if p.by != "wrk" && p.by != "own" {
		return p, fmt.Errorf("-by %q: use wrk or own", p.by)
	}
	// The load generator bounds what it can check in a message.
	if p.sizes, err = parseList(sizes, parseBytes); err != nil || slices.Max(p.sizes) > maxMessage {
		return p, fmt.Errorf("-sizes %q: give sizes up to %s, such as 1KiB,1MiB", sizes, sizeName(maxMessage))
	}
	if p.connections, err = parseList(connections, strconv.Atoi); err != nil || slices.Min(p.connections) < 1 || slices.Max(p.connections) > maxFileConns {
		return p, fmt.Errorf("-connections %q: give numbers from 1 to %d, such as 1,64", connections, maxFileConns)
	}
	if p.coldBytes, err = parseBytes(coldBytes); err != nil {
		return p, fmt.Errorf("-cold-bytes: %w", err)
	}
	if p.beside, err = parseCell(second + "x1"); err != nil || p.beside.Rate > 0 || len(p.beside.Sizes) != 1 || p.beside.Kind != "" || p.beside.Conns > coldFiles {
		return p, fmt.Errorf("-beside %q: write CONNSxSIZE, such as 8x33554432", second)
	}
	p.beside.Burst = 1
	small, err := parseCells(mixed)
	if err != nil {
		return p, fmt.Errorf("-mixed: %w", err)
	}
	for i, c := range small {
		if len(c.Sizes) != 1 || c.Kind != "" {
			return p, fmt.Errorf("-mixed: %v: a load has one size and no kind here", c)
		}
		small[i].Kind, small[i].Burst = mixedKind, 1
	}
	p.plan(small)
	if err := check(); err != nil {
		return p, err
	}
	if p.by == "wrk" {
		p.window = time.Duration(math.Ceil(p.window.Seconds())) * time.Second
	}
	return p, nil
}

// plan makes the kinds, the cells and the files for what the flags ask for.
func (p *filesPlan) plan(small []cell) {
	load := kind{name: warmKind, what: "out of the page cache, asked for by our load generator", partial: true, load: []string{"-mode", "get"},
		files: func(cell) int { return 1 }}
	if p.by == "wrk" {
		load.what = "out of the page cache, asked for by wrk"
		load.load = []string{"-mode", "wrk"}
		load.needs, load.without = "wrk", "install it (on Debian, 'apt-get install wrk'), or have our load generator ask: -by own"
	}
	cold := load
	cold.name, cold.what, cold.files, cold.cold = coldKind, strings.Replace(load.what, "out of", "not in", 1), p.coldCount, true
	mixed := kind{name: mixedKind, what: "hot files, asked for by our load generator, alone and beside cold ones", load: []string{"-mode", "get"},
		files: load.files, columns: mixedColumns}
	p.kinds = []kind{load, cold, mixed}
	for _, k := range p.kinds {
		if !slices.Contains(p.chosen, k.name) {
			continue
		}
		if k.name == mixedKind {
			p.cells = append(p.cells, small...)
			p.servers = withCold(p.servers)
			for _, c := range small {
				p.need(c.largest(), 1)
			}
			p.need(p.beside.largest(), p.beside.Conns)
			continue
		}
		for _, conns := range p.connections {
			for _, size := range p.sizes {
				c := cell{Kind: k.name, Conns: conns, Sizes: []int{size}, Pipeline: 1, Burst: 1}
				p.cells = append(p.cells, c)
				p.need(size, k.files(c))
			}
		}
	}
}

// withCold adds to each server itself with a second load, for mixed loads.
func withCold(list []server) []server {
	var all []server
	for _, s := range list {
		both := s
		both.name, both.what, both.kind, both.alone = s.name+"+cold", "with large cold files beside it", mixedKind, s.name
		both.beside = &beside{mode: "get", cold: true, meek: true}
		all = append(all, s, both)
	}
	return all
}

// coldCount is how many files a cold load asks for.
func (p *filesPlan) coldCount(c cell) int {
	return max(c.Conns, min(p.coldBytes/c.largest(), coldFiles))
}

// need makes sure that there are n files of a size.
func (p *filesPlan) need(size, n int) {
	i := slices.IndexFunc(p.files, func(s fileSet) bool { return s.size == size })
	if i < 0 {
		i, p.files = len(p.files), append(p.files, fileSet{size: size})
	}
	p.files[i].n = max(p.files[i].n, n)
}

// bytes is what the files take on the disk.
func (p *filesPlan) bytes() (sum int) {
	const block = 4096
	for _, s := range p.files {
		sum += (s.size + block - 1) / block * block * s.n
	}
	return sum
}

// room says whether the files can be made, and can be cold, where programs are built.
func (p *filesPlan) room(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("file system of %s: %w", dir, err)
	}
	if free := int(s.Bavail) * int(s.Bsize); free < p.bytes() {
		return fmt.Errorf("the files take %d MB and %s has %d MB free: choose another directory with TMPDIR, or fewer with -sizes, -cold-bytes or -beside", p.bytes()>>20, dir, free>>20)
	}
	cold := slices.Contains(p.chosen, coldKind) || slices.Contains(p.chosen, mixedKind)
	if cold && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC) {
		return fmt.Errorf("%s lies in memory, where no file can be cold: choose a directory on a disk with TMPDIR, or -kinds warm", dir)
	}
	return nil
}

// serveFiles runs the benchmark and writes its tables to w.
func serveFiles(ctx context.Context, args []string, w io.Writer) error {
	p, err := parseFiles(args)
	if err != nil {
		return err
	}
	if err := p.equipped(); err != nil {
		return err
	}
	if err := p.room(os.TempDir()); err != nil {
		return err
	}
	n, err := p.trials(p.servers)
	if err != nil {
		return err
	}
	took := time.Duration(n) * (p.trialTime() + 300*time.Millisecond)
	fmt.Fprintf(os.Stderr, "bench: %d trials, about %v, with files of %d MB in %s\n", n, took.Round(time.Second), p.bytes()>>20, os.TempDir())
	_, err = p.run(ctx, args, w)
	return err
}
