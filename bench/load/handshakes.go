package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/result"
)

// shakers make a TLS connection for each message: connect, shake hands, send,
// receive the answer, close. A conn is one of so many goroutines that do this at the
// same time: the arithmetic of a handshake costs far more than they do.
type shakers struct {
	plan    plan
	config  *tls.Config
	pattern pattern
	opened  atomic.Int64
	bytes   atomic.Uint64 // verified
	over    atomic.Bool
	failed  chan error

	mu       sync.Mutex
	measured bool // the window is open
	requests uint64
	latency  *hdrhistogram.Histogram
}

// shake runs the phases, warm-up, window and cool-down, and reports to out.
func shake(p plan, out io.Writer) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	s := &shakers{plan: p, failed: make(chan error, p.conns), latency: hdrhistogram.New(1, int64(time.Minute), 3)}
	var err error
	if s.config, err = clientConfig(&p); err != nil {
		return err
	}
	if s.pattern, err = newPattern(); err != nil {
		return err
	}
	if p.resume {
		// The first has nothing to resume.
		if _, err := s.once(0); err != nil {
			return err
		}
	}
	var all sync.WaitGroup
	for i := range p.conns {
		all.Go(func() { s.work(i) })
	}
	wait := func(d time.Duration) error {
		select {
		case err := <-s.failed:
			return err
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(p.warmup); err != nil {
		return err
	}
	cpu := ownCPU()
	fmt.Fprintln(out, result.Began)
	s.measure(true)
	from, before := time.Now(), s.bytes.Load()
	if err := wait(p.window); err != nil {
		return err
	}
	s.measure(false)
	window, verified := time.Since(from), s.bytes.Load()
	fmt.Fprintln(out, result.Ended)
	cpu = ownCPU() - cpu
	if err := wait(coolDown); err != nil {
		return err
	}
	s.over.Store(true)
	all.Wait()
	if err := wait(0); err != nil {
		return err
	}
	report := result.Report{Requests: s.requests, Bytes: verified - before, Seconds: window.Seconds(), Connections: p.conns,
		OwnCPU: cpu, Verified: s.bytes.Load(), Latency: latencies(s.latency)}
	return json.NewEncoder(out).Encode(report)
}

func (s *shakers) measure(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured = on
}

// work makes connections one after the other.
func (s *shakers) work(i int) {
	for !s.over.Load() {
		from := time.Now()
		resumed, err := s.once(i)
		if err == nil && resumed != s.plan.resume {
			err = fmt.Errorf("connection %d: the session is resumed: %v, wanted %v", i, resumed, s.plan.resume)
		}
		if err != nil {
			s.failed <- err
			return
		}
		s.mu.Lock()
		if s.measured {
			s.requests++
			// Out of range only above the histogram's minute.
			_ = s.latency.RecordValue(max(1, int64(time.Since(from))))
		}
		s.mu.Unlock()
	}
}

// once is one connection. It reports whether an earlier session was resumed.
func (s *shakers) once(i int) (resumed bool, err error) {
	fail := func(what string, err error) (bool, error) {
		return false, fmt.Errorf("connection %d: %s: %w", i, what, err)
	}
	raw, err := s.dial()
	if err != nil {
		return fail("connect", err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(quietTime)); err != nil {
		return fail("deadline", err)
	}
	c := tls.Client(raw, s.config)
	if err := c.Handshake(); err != nil {
		return fail("handshake", err)
	}
	size := s.plan.sizes[0]
	want := s.pattern.at(s.pattern.start(i), size)
	if _, err := c.Write(want); err != nil {
		return fail("send", err)
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return fail("receive", err)
	}
	if !bytes.Equal(got, want) {
		return false, &payloadError{fmt.Errorf("connection %d: %w", i, s.pattern.mismatch(s.pattern.start(i), got))}
	}
	s.bytes.Add(uint64(size))
	if err := c.Close(); err != nil {
		return fail("close", err)
	}
	return c.ConnectionState().DidResume, nil
}

// dial connects, from many addresses of a loopback in turn as churn does.
func (s *shakers) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: quietTime}
	to := s.plan.addr.ip
	if ip := to.Addr().Unmap(); ip.Is4() && ip.IsLoopback() {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+s.opened.Add(1)%sourceCount))}
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var refused error
			err := c.Control(func(fd uintptr) {
				refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
			return errors.Join(err, refused)
		}
	}
	return d.Dial("tcp", to.String())
}
