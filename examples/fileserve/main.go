//go:build linux

// Fileserve serves the files below a directory over HTTP/1.1 and HTTPS.
//
//	go run ./examples/fileserve -root /var/www
//	curl -i http://127.0.0.1:8080/
//
// Each connection is an ordinary function that reads requests and writes answers, on a
// fiber of its loop. Small files that are asked for often come out of memory, and others
// by SendFile; what opens and looks at files runs beside the loop (net.Await). Headers are
// parsed by fasthttp.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"example.com/ringnet/ring"
)

// config is what the flags say.
type config struct {
	root, addr, engine string
	loops              int
	cert, key          string

	cacheBytes, cacheFile int64
	openFiles             int
	maxHeader             int
	headerTimeout         time.Duration
	idleTimeout           time.Duration
	stallTimeout          time.Duration
	minRate               int64
	maxConns              int
	workers               int
	fileBuffers           int
	sendBuffer            int
	accessLog             string
	drain                 time.Duration
}

func (c *config) flags(f *flag.FlagSet) {
	f.StringVar(&c.root, "root", ".", "directory to serve; nothing outside of it is, nor any name that begins with a dot")
	f.StringVar(&c.addr, "addr", "127.0.0.1:8080", "address to listen on, host:port")
	f.IntVar(&c.loops, "loops", runtime.GOMAXPROCS(0), "event loops, one thread each")
	f.StringVar(&c.engine, "engine", "auto", "what drives the loops: auto, uring or epoll")
	f.StringVar(&c.cert, "tls-cert", "", "file with the certificate to serve HTTPS with, PEM")
	f.StringVar(&c.key, "tls-key", "", "file with its key, PEM")
	f.Int64Var(&c.cacheBytes, "cache", 64<<20, "bytes of hot small files to keep in memory, on all loops together; 0: none")
	f.Int64Var(&c.cacheFile, "cache-file", 64<<10, "largest file to keep there, in bytes; larger ones are kept open")
	f.IntVar(&c.openFiles, "open-files", 1024, "files to keep open, on all loops together")
	f.IntVar(&c.maxHeader, "max-header", 8<<10, "largest header of a request, in bytes, from 4096 on")
	f.DurationVar(&c.headerTimeout, "header-timeout", 10*time.Second, "how long a header may take from its first byte on")
	f.DurationVar(&c.idleTimeout, "idle-timeout", time.Minute, "how long a connection may wait for its next request; 0: for ever")
	f.DurationVar(&c.stallTimeout, "stall-timeout", 30*time.Second, "for how long a peer may take nothing of its answer; 0: for ever")
	f.Int64Var(&c.minRate, "min-rate", 1<<10, "bytes a second that a peer has to take of a file, on average after -stall-timeout; 0: any")
	f.IntVar(&c.maxConns, "max-conns", 0, "connections at once, others wait; 0: as many as there are descriptors")
	f.IntVar(&c.workers, "workers", 256, "how many files may be looked for and opened at the same time, beside the loops")
	f.IntVar(&c.fileBuffers, "file-buffers", 32, "buffers of 128 KiB for each loop, for files that are not in the page cache")
	f.IntVar(&c.sendBuffer, "send-buffer", 0, "bytes that the kernel may hold for a peer that is slow; 0: it decides (net.ipv4.tcp_wmem)")
	f.StringVar(&c.accessLog, "access-log", "", "file to append a line to for each request, - for standard output; empty: none")
	f.DurationVar(&c.drain, "drain", 5*time.Second, "how long answers may take to end after a signal")
}

// check refuses what cannot be.
func (c *config) check() error {
	for _, v := range []struct {
		name       string
		value, min int64
	}{
		{"loops", int64(c.loops), 1}, {"cache", c.cacheBytes, 0}, {"cache-file", c.cacheFile, 0}, {"open-files", int64(c.openFiles), 1},
		{"max-header", int64(c.maxHeader), 4096}, {"header-timeout", int64(c.headerTimeout), int64(time.Millisecond)},
		{"idle-timeout", int64(c.idleTimeout), 0}, {"stall-timeout", int64(c.stallTimeout), 0}, {"min-rate", c.minRate, 0},
		{"max-conns", int64(c.maxConns), 0}, {"workers", int64(c.workers), 1}, {"file-buffers", int64(c.fileBuffers), 1}, {"send-buffer", int64(c.sendBuffer), 0}, {"drain", int64(c.drain), 0},
	} {
		if v.value < v.min {
			return fmt.Errorf("-%s is %d: it must be at least %d", v.name, v.value, v.min)
		}
	}
	if c.cacheFile > 16<<20 {
		return fmt.Errorf("-cache-file is %d: it must be at most %d, since larger files are sent better from where the kernel has them", c.cacheFile, 16<<20)
	}
	if (c.cert == "") != (c.key == "") {
		return errors.New("-tls-cert and -tls-key belong together: give both, or none for plain HTTP")
	}
	return nil
}

func main() {
	var c config
	c.flags(flag.CommandLine)
	flag.Parse()
	if err := run(&c); err != nil {
		fmt.Fprintln(os.Stderr, "fileserve:", err)
		os.Exit(1)
	}
}

func run(c *config) error {
	if err := c.check(); err != nil {
		return err
	}
	kind, err := ring.ParseEngine(c.engine)
	if err != nil {
		return err
	}
	site, err := newSite(c)
	if err != nil {
		return err
	}
	defer site.close()
	srv, err := site.server(kind)
	if err != nil {
		return err
	}

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := srv.Start(c.addr); err != nil {
		return err
	}
	scheme := "http"
	if c.cert != "" {
		scheme = "https"
	}
	fmt.Printf("fileserve on %s://%v, %d loops, root %s\nengine: %v\n", scheme, srv.Addrs()[0], len(srv.LoopStats()), c.root, srv.Engine())

	<-stop.Done()
	cancel() // a second signal ends the program at once

	ctx, cancelDrain := context.WithTimeout(context.Background(), c.drain)
	defer cancelDrain()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s := srv.Stats()
	fmt.Printf("connections: %d accepted, %d closed, %d timed out\nbytes: %d received, %d sent\n",
		s.Accepted, s.Closed, s.Timeouts, s.BytesReceived, s.BytesSent)
	fmt.Println(site.counters())
	fmt.Printf("files: %d sent, %d bytes mapped, %d read, %d cold reads, %d errors\n", s.Files, s.FileBytesMapped, s.FileBytesRead, s.ColdReads, s.FileErrors)
	fmt.Printf("enters: %d for %d completions\n", s.Ring.Enters, s.Ring.Completions)
	return nil
}
