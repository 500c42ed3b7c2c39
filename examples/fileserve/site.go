//go:build linux

package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	stdnet "net"
	"time"

	"github.com/valyala/fasthttp"

	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

// site is what is served, and how. Apart from the tree and the log it is made of one desk
// for each loop, so that nothing of a request is shared between loops.
type site struct {
	*config
	tree  *tree
	log   *accessLog // nil: there is none
	desks []*desk
}

// desk is what one loop has: its cache, and what its connections use in turn. Only on
// that loop's goroutine.
type desk struct {
	site    *site
	cache   cache
	readers []*bufio.Reader // not in use
	headers []*request      // likewise

	began  time.Time
	date   [dateBytes]byte // the Date of answers
	dateAt time.Duration   // when it is over, since began

	requests, hits, loads, checks, refused int64
}

// dateBytes is the length of a date in a header.
const dateBytes = len("Mon, 02 Jan 2006 15:04:05 GMT")

// sparesMax bounds what a desk keeps for the next requests.
const sparesMax = 1024

func newSite(c *config) (*site, error) {
	t, err := openTree(c.root, c.cacheFile)
	if err != nil {
		return nil, err
	}
	s := &site{config: c, tree: t}
	if c.accessLog != "" {
		if s.log, err = openLog(c.accessLog); err != nil {
			t.close()
			return nil, err
		}
	}
	if c.cacheBytes == 0 {
		t.small = -1
	}
	for range c.loops {
		d := &desk{site: s, began: time.Now()}
		d.cache.init(max(1, c.cacheBytes/int64(c.loops)), max(1, c.openFiles/c.loops), max(1, c.workers/c.loops))
		s.desks = append(s.desks, d)
	}
	return s, nil
}

// server is what serves the site.
func (s *site) server(engine ring.EngineKind) (*net.Server, error) {
	srv := &net.Server{Handler: net.Blocking(s.serve), Options: net.Options{
		Loops: s.loops, Engine: engine, MaxConns: s.maxConns, IdleTimeout: s.idleTimeout, WriteTimeout: s.stallTimeout,
		OffloadWorkers: s.workers, FileBufs: s.fileBuffers,
		NoBulk: true, // requests are small, and what nobody reads of them has to be bounded
	}}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, err
		}
		srv.Handler = net.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1", "http/1.0"}}, srv.Handler)
	}
	return srv, nil
}

// close frees what the site has, when no loop is left.
func (s *site) close() {
	for _, d := range s.desks {
		d.cache.close()
	}
	s.log.close()
	s.tree.close()
}

func (s *site) counters() string {
	var sum desk
	for _, d := range s.desks {
		sum.requests += d.requests
		sum.hits += d.hits
		sum.loads += d.loads
		sum.checks += d.checks
		sum.refused += d.refused
	}
	return fmt.Sprintf("requests: %d, %d refused; cache: %d hits, %d loads, %d checks; log lines lost: %d",
		sum.requests, sum.refused, sum.hits, sum.loads, sum.checks, s.log.lost())
}

// serve is the function of each connection.
func (s *site) serve(stream *net.Stream) error {
	if s.sendBuffer > 0 {
		if err := stream.Conn().SetWriteBuffer(s.sendBuffer); err != nil {
			return err
		}
	}
	c := conn{site: s, desk: s.desks[stream.Loop()], s: stream}
	if s.log != nil {
		host, _, err := stdnet.SplitHostPort(stream.RemoteAddr().String())
		if err != nil {
			host = "-" // it had gone before we could ask
		}
		c.peer = host
	}
	defer c.giveBack()
	return c.serve()
}

// now is the time since the desk was opened. It keeps the date as well.
func (d *desk) now() time.Duration {
	now := time.Since(d.began)
	if now >= d.dateAt {
		wall := time.Now()
		fasthttp.AppendHTTPDate(d.date[:0], wall)
		d.dateAt = now + time.Second - time.Duration(wall.Nanosecond())
	}
	return now
}

func (d *desk) reader() *bufio.Reader {
	if n := len(d.readers); n > 0 {
		r := d.readers[n-1]
		d.readers = d.readers[:n-1]
		return r
	}
	return bufio.NewReaderSize(nil, d.site.maxHeader)
}

func (d *desk) putReader(r *bufio.Reader) {
	r.Reset(nil)
	if len(d.readers) < sparesMax {
		d.readers = append(d.readers, r)
	}
}

func (d *desk) request() *request {
	if n := len(d.headers); n > 0 {
		r := d.headers[n-1]
		d.headers = d.headers[:n-1]
		return r
	}
	return new(request)
}

func (d *desk) putRequest(r *request) {
	if len(d.headers) < sparesMax {
		d.headers = append(d.headers, r)
	}
}
