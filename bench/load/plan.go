package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/ringnet/bench/internal/files"
)

// plan is what the flags ask for.
type plan struct {
	addr     address
	mode     string
	conns    int           // connections
	sizes    []int         // of messages, in bytes, in turn
	burst    int           // messages of one size before the next size
	pipeline int           // messages in flight per connection, in a closed loop
	rate     float64       // requests per second over all connections; 0: closed loop
	warmup   time.Duration // before the measured window
	window   time.Duration // the measured window
	steps    int           // idle: in how many equal steps the connections open
	driver   string        // ringed, direct, or auto: by the largest size
	first    string        // churn: who closes first, client, server, or client by a reset
	timeout  time.Duration // datagrams: when an answer is given up
	cold     string        // content: each connection asks for its part of this file, which it drops from the page cache; get and wrk: the files' directory, which are
	files    int           // get and wrk: how many files are asked for; wrk: 0 is the page
	meek     bool          // leave the core to everything else that wants it
	drip     int           // slow: bytes that a connection reads at a time
	every    time.Duration // slow: and how often
	drain    bool          // content and get: all has to be answered in the end
	netHTTP  bool          // page and wrk: net/http answers, and not fasthttp
	silent   bool          // idle: only the last connection of each step says anything
	tls      string        // echo and handshake: over TLS, with this certificate
	resume   bool          // handshake: resume sessions
}

// What a load does.
const (
	modeEcho      = "echo"      // messages come back as they were sent
	modeIdle      = "idle"      // connections echo one message each and rest
	modeChurn     = "churn"     // a connection for each message
	modePost      = "post"      // the server sends on its own accord; what came is acknowledged
	modeContent   = "content"   // requests are answered by content
	modeSlow      = "slow"      // the same, read slowly
	modeHandshake = "handshake" // a connection for each message, over TLS
	modePage      = "page"      // HTTP requests
	modeWrk       = "wrk"       // the same, or the next, sent by wrk
	modeGet       = "get"       // HTTP requests for files
)

var modes = []string{modeEcho, modeIdle, modeChurn, modePost, modeContent, modeSlow, modeHandshake, modePage, modeWrk, modeGet}

// Who closes a connection first.
const (
	firstClient = "client"
	firstServer = "server"
	firstReset  = "reset" // the client, by a reset
)

// ringedBytes is the largest message that the ringed driver is chosen for. From
// about this size on, chopping a message up into ring buffers costs more than
// the system calls of the direct driver.
const ringedBytes = 8 << 10

// maxMessage bounds a message; the positions in the pattern and the chunks are
// made for it.
const maxMessage = 256 << 20

func parsePlan(args []string) (plan, error) {
	var p plan
	var addr, sizes string
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.StringVar(&addr, "addr", "", "server's address: HOST:PORT, udp:HOST:PORT or unix:PATH")
	fs.StringVar(&p.mode, "mode", modeEcho, "echo; idle: open connections, echo one message on each, hold them; churn: a connection for each message; "+
		"post: acknowledge what the server sends; content: ask for -size bytes; slow: the same, and read them slowly; "+
		"handshake: a TLS connection for each message; page: ask for the page of -size bytes by HTTP; get: ask for -files of -size bytes; wrk: have wrk do one or the other")
	fs.IntVar(&p.conns, "conns", 64, "connections")
	fs.StringVar(&sizes, "size", "64", "bytes in a message; several sizes (64,65536) alternate on each connection")
	fs.IntVar(&p.burst, "burst", 16, "messages of one size in a row, when sizes alternate")
	fs.IntVar(&p.pipeline, "pipeline", 1, "messages in flight on each connection")
	fs.Float64Var(&p.rate, "rate", 0, "requests per second over all connections, as an open loop; 0 is a closed loop")
	fs.DurationVar(&p.warmup, "warmup", time.Second/2, "time before the measured window")
	fs.DurationVar(&p.window, "window", 3*time.Second, "measured window; 0: until the end of standard input (content, get and slow)")
	fs.IntVar(&p.steps, "steps", 2, "idle mode: open the connections in so many steps")
	fs.StringVar(&p.driver, "driver", "auto", "how to send and receive: ringed, direct or auto")
	fs.StringVar(&p.first, "first", firstClient, "churn: who closes first: client, server, or reset: the client, by a reset")
	fs.DurationVar(&p.timeout, "timeout", 100*time.Millisecond, "datagrams: after how long without an answer one is lost")
	fs.StringVar(&p.cold, "cold", "", "content: the file that it comes from; each connection asks for its own part, which is dropped from the page cache; get and wrk: directory of the files, each of which is dropped before it is asked for")
	fs.IntVar(&p.files, "files", 0, "get and wrk: how many files are asked for: get: by each connection one; wrk: one after the other, without any the page")
	fs.BoolVar(&p.meek, "meek", false, "leave the core to everything else that wants it (SCHED_IDLE)")
	fs.IntVar(&p.drip, "drip", 4096, "slow: bytes that each connection reads at a time")
	fs.DurationVar(&p.every, "every", 100*time.Millisecond, "slow: and how often")
	fs.BoolVar(&p.drain, "drain", true, "content and get: after the window, end when all is answered; else go on until the end of standard input, and leave what is not (wrk always does)")
	fs.BoolVar(&p.netHTTP, "net-http", false, "page and wrk: the server is net/http; else it is fasthttp, and answers with other heads")
	fs.BoolVar(&p.silent, "silent", false, "idle: only the last connection of each step says anything")
	fs.StringVar(&p.tls, "tls", "", "echo and handshake: speak TLS 1.3 to a server with the certificate in this file")
	fs.BoolVar(&p.resume, "resume", false, "handshake: resume the session of an earlier connection")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	var err error
	if p.addr, err = parseAddress(addr); err != nil {
		return p, fmt.Errorf("-addr %q: %w: give an IP address and a port, such as 127.0.0.1:9000 or udp:127.0.0.1:9000, or unix:PATH", addr, err)
	}
	for s := range strings.SplitSeq(strings.ReplaceAll(sizes, "+", ","), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > maxMessage {
			return p, fmt.Errorf("-size %q: %q is not a number of bytes from 1 to %d", sizes, s, maxMessage)
		}
		p.sizes = append(p.sizes, n)
	}
	return p, p.check()
}

func (p *plan) check() error {
	switch {
	case !slices.Contains(modes, p.mode):
		return fmt.Errorf("-mode %q: use one of %s", p.mode, strings.Join(modes, ", "))
	case p.addr.network == "udp" && p.mode != modeEcho:
		return fmt.Errorf("-mode %s: over UDP there is only echo", p.mode)
	case p.addr.network != "tcp" && p.mode == modeChurn:
		return fmt.Errorf("-mode churn: it is for TCP, not for %s", p.addr.network)
	case p.rate > 0 && (p.mode != modeEcho && p.mode != modeGet || p.addr.network == "udp"):
		return errors.New("-rate: only echo over streams and get have an open loop")
	case p.conns < 1 || p.conns > 1<<20:
		return fmt.Errorf("-conns %d: it must be from 1 to %d", p.conns, 1<<20)
	case p.burst < 1:
		return fmt.Errorf("-burst %d: it must be at least 1", p.burst)
	case p.pipeline < 1 || p.pipeline > maxInFlight:
		return fmt.Errorf("-pipeline %d: it must be from 1 to %d", p.pipeline, maxInFlight)
	case p.rate < 0 || p.rate > 1e8:
		return fmt.Errorf("-rate %g: it must be from 0 to 1e8 requests per second", p.rate)
	case p.warmup < 0 || p.window < 0 || (p.window == 0 && p.mode != modeContent && p.mode != modeGet && p.mode != modeSlow):
		return errors.New("-warmup must not be negative and -window must be positive; only the modes content, get and slow have an endless one")
	case p.window == 0 && p.rate > 0:
		return errors.New("-rate: an endless load is a closed loop")
	case p.mode == modeSlow && p.window != 0:
		return errors.New("-mode slow: it has no window: give -window 0")
	case !p.drain && p.mode != modeContent && p.mode != modeGet && p.mode != modeWrk:
		return errors.New("-drain=false: it is for the modes content and get, and wrk never does")
	case p.drip < 1 || p.drip > maxChunk || p.every < time.Millisecond:
		return fmt.Errorf("-drip %d, -every %v: they must be from 1 to %d bytes, and at least 1ms", p.drip, p.every, maxChunk)
	case p.timeout < time.Millisecond:
		return fmt.Errorf("-timeout %v: it must be at least 1ms", p.timeout)
	case p.first != firstClient && p.first != firstServer && p.first != firstReset:
		return fmt.Errorf("-first %q: use client, server or reset", p.first)
	case p.mode != modeEcho && len(p.sizes) > 1:
		return fmt.Errorf("-size: mode %s has messages of one size", p.mode)
	case p.addr.network == "udp" && (len(p.sizes) > 1 || p.sizes[0] < datagramMin || p.sizes[0] > datagramMax):
		return fmt.Errorf("-size: datagrams have one size, from %d to %d bytes", datagramMin, datagramMax)
	case p.mode == modePost && p.pipeline > ackMax:
		return fmt.Errorf("-pipeline %d: mode post has at most %d messages unacknowledged", p.pipeline, ackMax)
	case p.tls != "" && p.mode != modeEcho && p.mode != modeHandshake:
		return fmt.Errorf("-tls: mode %s does not speak TLS, echo and handshake do", p.mode)
	case p.tls != "" && p.addr.network == "udp":
		return errors.New("-tls: it is for streams")
	case p.mode == modeHandshake && (p.tls == "" || p.addr.network != "tcp" || p.sizes[0] > maxChunk):
		return fmt.Errorf("-mode handshake: it is for TCP, needs -tls, and -size can be at most %d", maxChunk)
	case p.resume && p.mode != modeHandshake:
		return errors.New("-resume: it is for mode handshake")
	case p.netHTTP && p.mode != modePage && p.mode != modeWrk:
		return errors.New("-net-http: it is for the modes page and wrk")
	case p.silent && p.mode != modeIdle:
		return errors.New("-silent: it is for mode idle")
	case p.mode == modeWrk && p.addr.network != "tcp":
		return fmt.Errorf("-mode wrk: it is for TCP, not for %s", p.addr.network)
	case p.files < 0 || p.files > files.Max || p.files > 0 && p.mode != modeGet && p.mode != modeWrk:
		return fmt.Errorf("-files %d: it is for the modes get and wrk, and at most %d", p.files, files.Max)
	case p.mode == modeGet && (p.files == 0 || p.addr.network != "tcp"):
		return errors.New("-mode get: it is for TCP and needs -files")
	case p.mode == modeGet && p.cold != "" && p.files < p.conns:
		return fmt.Errorf("-files %d: for -cold each of the %d connections needs one of its own", p.files, p.conns)
	case p.mode == modeGet && p.cold != "" && p.rate > 0:
		return errors.New("-cold: files that are asked for at a rate cannot be dropped before")
	case p.cold != "" && p.mode != modeContent && p.files == 0:
		return errors.New("-cold: it is for content and files")
	case p.mode == modeIdle && (p.steps < 1 || p.steps > p.conns):
		return fmt.Errorf("-steps %d: it must be from 1 to the number of connections", p.steps)
	}
	switch p.driver {
	case "ringed":
		if p.tls != "" {
			return errors.New("-driver ringed: what crypto/tls writes is not mapped memory: use direct with -tls")
		}
	case "direct":
	case "auto":
		p.driver = "direct"
		if p.largest() <= ringedBytes && p.tls == "" {
			p.driver = "ringed"
		}
	default:
		return fmt.Errorf("-driver %q: use ringed, direct or auto", p.driver)
	}
	return nil
}

// largest is the largest message.
func (p *plan) largest() int {
	n := 0
	for _, s := range p.sizes {
		n = max(n, s)
	}
	return n
}
