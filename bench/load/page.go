package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/page"
)

// askForPage makes connections send HTTP requests, and compares every answer with
// what it has to be, head and body.
func (l *load) askForPage() error {
	response := l.plan.answer()
	p, err := repeating(response)
	if err != nil {
		return err
	}
	// From here on the answer is the message.
	l.pattern, l.plan.sizes = p, []int{len(response)}
	request := page.Request()
	l.out, l.asks = &looped{b: request, period: uint32(len(request))}, len(request)
	for i := range l.conns {
		c := &l.conns[i]
		c.sendPos, c.recvPos = 0, 0
	}
	return nil
}

// answer is what comes of a request for the page.
func (p *plan) answer() []byte {
	if p.netHTTP {
		return page.NetHTTPResponse(p.sizes[0])
	}
	return page.Response(p.sizes[0])
}

// visit asks for the page on as many connections as the plan has, on one after the
// other for at least so long and at least once on each, and compares every answer.
// It returns how many bytes it has compared.
func visit(p plan, least time.Duration) (verified uint64, err error) {
	want, request := p.answer(), page.Request()
	answers, err := repeating(want)
	if err != nil {
		return 0, err
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for i := range p.conns {
		fd, err := connect(p.addr, i)
		if err != nil {
			return 0, err
		}
		fds = append(fds, fd)
	}
	got := make([]byte, min(len(want), maxChunk))
	until := time.Now().Add(least)
	for turn := 0; turn < len(fds) || time.Now().Before(until); turn++ {
		i := turn % len(fds)
		if _, err := unix.Write(fds[i], request); err != nil {
			return verified, fmt.Errorf("connection %d: send: %w", i, err)
		}
		if err := expect(fds[i], answers, i, 0, len(want), got); err != nil {
			return verified, err
		}
		verified += uint64(len(want))
	}
	return verified, nil
}
