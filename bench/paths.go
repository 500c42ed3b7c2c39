package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/ringnet/bench/internal/control"
)

// pathsBenchmark lays the ways from the page cache to a socket side by side: a
// "server" is a path, and a kind of load is a size of the pieces that content is
// moved in. Kinds and cells come from the flags.
var pathsBenchmark = benchmark{
	name: "paths",
	what: "what zero copy is: ways from a file to a socket, over the size of the pieces",
	servers: []server{
		classic("read+write", "read", copies{2, 2, "read to a buffer, send to the socket"}),
		classic("mmap+write", "mapped", copies{1, 1, "send to the socket"}),
		classic("sendfile", "sendfile", copies{0, 0, "the socket refers to the page cache"}),
		classic("splice", "splice", copies{0, 0, "pipe and socket refer to the page cache"}),
		ringPath("uring-read+send", "read-send", copies{2, 2, "read to a buffer, send to the socket"}),
		ringPath("uring-mmap+send", "mmap-send", copies{1, 1, "send to the socket"}),
		ringPath("zc-read-wait", "zc-read-wait", copies{1, 2, "read to a buffer; loopback copies what it delivers"}),
		ringPath("zc-read", "zc-read", copies{1, 2, "read to a buffer; loopback copies what it delivers"}),
		ringPath("zc-fixed-wait", "zc-fixed-wait", copies{1, 2, "read to a buffer; loopback copies what it delivers"}),
		ringPath("zc-fixed", "zc-fixed", copies{1, 2, "read to a buffer; loopback copies what it delivers"}),
		more(ringPath("zc-mmap-wait", "zc-mmap-wait", copies{0, 1, "loopback copies what it delivers"})),
		ringPath("zc-mmap", "zc-mmap", copies{0, 1, "loopback copies what it delivers"}),
		more(ringPath("zc-memory-wait", "zc-memory-wait", copies{0, 1, "loopback copies what it delivers"})),
		more(ringPath("zc-memory", "zc-memory", copies{0, 1, "loopback copies what it delivers"})),
		ringPath("uring-splice", "splice", copies{0, 0, "pipe and socket refer to the page cache"}),
	},
	bases: "sendfile,read+write",
	columns: append(volumes(column{head: "enters/piece", of: entersPerPiece, decimals: 2}),
		column{head: "copies NIC", of: copiesOf(func(c copies) float64 { return c.NIC })},
		column{head: "loopback", of: copiesOf(func(c copies) float64 { return c.Loopback }), decimals: 2},
		column{head: "source", text: func(r row) string { return r.Copies.Source }}),
	notes: "read+write, mmap+write, sendfile, splice: system calls on epoll; the others io_uring, those of zc by SEND_ZC\n" +
		"zc-read: from buffers that are not registered; zc-fixed: from registered ones; zc-mmap: from the mapped file; zc-memory: from a registered copy of it\n" +
		"wait: a piece is read, sent and notified before the next is begun; else only its buffer waits for the notification,\n" +
		"which comes when the receiver has acknowledged: it may put that off for 40 ms, and does with the first piece of an answer on a lone connection\n" +
		"copies: how often the processor copies each byte on its way from the page cache to a network card that gathers and checksums,\n" +
		"and to the receiver's socket over loopback; the receiver's own copy, the same for all, is not counted\n" +
		"source: reported is what the kernel's notifications said (IORING_SEND_ZC_REPORT_USAGE) in the last round; the rest is known\n",
}

// classic is a path by system calls.
func classic(name, how string, c copies) server {
	return server{name: name, what: "C, epoll", c: "servers/c/content.c", flags: []string{"-how", how}, file: true, copies: &c}
}

// ringPath is a path by io_uring.
func ringPath(name, how string, c copies) server {
	return server{name: name, what: "C, liburing", c: "servers/c/paths.c", libs: []string{"-luring"}, flags: []string{"-how", how}, file: true, copies: &c}
}

// more is a server that is measured only when asked for.
func more(s server) server {
	s.extra = true
	return s
}

// copies is how often the processor copies each byte on its way from the page cache
// to the network card, and to the receiver's socket over loopback.
type copies struct {
	NIC, Loopback float64
	Source        string // of that knowledge
}

// reported is what is known, bettered by what the kernel has said of zero-copy sends
// between two answers of the server.
func (c copies) reported(before, after json.RawMessage) *copies {
	var a, b control.Stats
	known := copies{c.NIC, c.Loopback, "known: " + c.Source}
	if json.Unmarshal(before, &a) != nil || json.Unmarshal(after, &b) != nil || a.ZeroCopy == nil || b.ZeroCopy == nil {
		return &known
	}
	notified, copied := b.ZeroCopy.Notified-a.ZeroCopy.Notified, b.ZeroCopy.Copied-a.ZeroCopy.Copied
	if notified == 0 {
		return &known
	}
	return &copies{c.NIC, c.NIC + float64(copied)/float64(notified), fmt.Sprintf("reported: %d of %d sends were copied", copied, notified)}
}

// pathsPlan is what the flags of the benchmark ask for.
type pathsPlan struct {
	contestPlan
	pieces      []int
	connections []int
	picture     string
}

// Limits of a piece, as the servers have them.
const (
	minPiece = 64
	maxPiece = 16 << 20
)

func parsePaths(args []string) (pathsPlan, error) {
	b := pathsBenchmark
	p := pathsPlan{contestPlan: contestPlan{benchmark: &b}}
	var list, pieces, connections, size string
	fs := flag.NewFlagSet("bench "+b.name, flag.ContinueOnError)
	fs.StringVar(&list, "paths", "", "paths, in the order of the table, or all: "+strings.Join(names(b.servers), ",")+" (default: "+strings.Join(names(ordinary(b.servers)), ",")+")")
	fs.StringVar(&pieces, "pieces", "4KiB,16KiB,64KiB,256KiB,1MiB", "sizes of the pieces that the file is sent in")
	fs.StringVar(&connections, "connections", "1,64", "numbers of connections, each of which asks for the file again and again")
	fs.StringVar(&size, "bytes", "16MiB", "size of the file")
	fs.StringVar(&p.picture, "picture", "", "file for the picture, .svg or .png, or off (default: an .svg beside the raw rows, if they are kept)")
	check := p.flags(fs, 0.4, 3)
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	if fs.NArg() > 0 {
		return p, fmt.Errorf("%q is not a flag: see bench %s -h", fs.Arg(0), b.name)
	}
	var err error
	if list == "all" {
		list = strings.Join(names(b.servers), ",")
	}
	if p.servers, err = choose(b.servers, list); err != nil {
		return p, fmt.Errorf("-paths: %w", err)
	}
	bytes, err := parseBytes(size)
	if err != nil || bytes > maxMessage {
		return p, fmt.Errorf("-bytes %q: give a size up to %s, such as 16MiB", size, sizeName(maxMessage))
	}
	if p.pieces, err = parseList(pieces, parseBytes); err != nil || slices.Min(p.pieces) < minPiece || slices.Max(p.pieces) > min(maxPiece, bytes) {
		return p, fmt.Errorf("-pieces %q: give sizes from %d bytes to %s, and no more than -bytes, such as 4KiB,1MiB", pieces, minPiece, sizeName(maxPiece))
	}
	if p.connections, err = parseList(connections, strconv.Atoi); err != nil || slices.Min(p.connections) < 1 || slices.Max(p.connections) > maxPathConns {
		return p, fmt.Errorf("-connections %q: give numbers from 1 to %d, such as 1,64", connections, maxPathConns)
	}
	if e := filepath.Ext(p.picture); p.picture != "" && p.picture != "off" && e != ".svg" && e != ".png" {
		return p, fmt.Errorf("-picture %q: the file's name must end in .svg or .png", p.picture)
	}
	for _, n := range p.pieces {
		b.kinds = append(b.kinds, kind{name: sizeName(n), what: "pieces of " + sizeName(n), content: true, partial: true,
			load:   []string{"-mode", "content"},
			server: func(cell) []string { return []string{"-buf", strconv.Itoa(n)} }})
	}
	for _, conns := range p.connections {
		for _, k := range b.kinds {
			p.cells = append(p.cells, cell{Kind: k.name, Conns: conns, Sizes: []int{bytes}, Pipeline: 1, Burst: 1})
		}
	}
	return p, check()
}

// maxPathConns is how many connections a server has room for.
const maxPathConns = 2048

// paths runs the benchmark, writes its tables to w and draws its picture.
func paths(ctx context.Context, args []string, w io.Writer) error {
	p, err := parsePaths(args)
	if err != nil {
		return err
	}
	n, err := p.trials(p.servers)
	if err != nil {
		return err
	}
	took := time.Duration(n) * p.trialTime()
	fmt.Fprintf(os.Stderr, "bench: %d trials (%d paths, %d sizes of pieces, %d numbers of connections, %d rounds), about %v\n",
		n, len(p.servers), len(p.pieces), len(p.connections), p.rounds, took.Round(time.Second))
	rec, err := p.run(ctx, args, w)
	path := p.picturePath(rec)
	if path == "" {
		return err
	}
	if e := p.draw(path, rec.Rows); e != nil {
		return errors.Join(err, fmt.Errorf("picture: %w", e))
	}
	fmt.Fprintf(w, "picture: %s\n", shortPath(path))
	return err
}

// picturePath is where the picture goes; empty: nowhere, or there is nothing to draw.
func (p *pathsPlan) picturePath(rec *record[row]) string {
	switch {
	case rec == nil || !slices.ContainsFunc(rec.Rows, func(r row) bool { return r.Error == "" }):
		return ""
	case p.picture == "off" || p.picture == "" && rec.path == "":
		return ""
	case p.picture == "":
		return strings.TrimSuffix(rec.path, filepath.Ext(rec.path)) + ".svg"
	}
	return p.picture
}
