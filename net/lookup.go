//go:build linux

package net

import (
	"context"
	"fmt"
	stdnet "net"
	"net/netip"
	"strconv"
)

// parseName reads an address that is not one of numbers. An empty host is this
// machine.
func parseName(addr string) (target, error) {
	host, port, err := stdnet.SplitHostPort(addr)
	if err != nil {
		return target{}, fmt.Errorf("ringnet: address %q: %w: write host:port, such as \"127.0.0.1:9000\" or \"example.org:80\", or unix:path", addr, err)
	}
	if port == "" {
		return target{}, fmt.Errorf("ringnet: address %q has no port: write host:port", addr)
	}
	if host == "" {
		host = "localhost"
	}
	return target{host: host, port: port}, nil
}

// lookUp finds the addresses of a name on a goroutine of its own: it may take
// seconds, and blocks.
func (l *loop) lookUp(g *Dialing, t target) {
	ctx, cancel := context.WithCancel(context.Background())
	g.phase, g.stop = dialLooksUp, cancel
	l.lookAgain(g, g.deadline)
	find := l.o.lookup
	if find == nil {
		find = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return stdnet.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	go func() {
		defer cancel()
		addrs, err := resolveTarget(ctx, t, find)
		_ = l.mail.demand(letter{what: func() { l.lookedUp(g, t.host, addrs, err) }}) // an error: the loop has ended, and g with it
	}()
}

// lookedUp takes the answer. On the loop's goroutine.
func (l *loop) lookedUp(g *Dialing, host string, addrs []Addr, err error) {
	g.phase, g.until = dialWaits, 0
	if g.cause == nil {
		g.to = addrs
		if g.cause = err; err == nil {
			g.keepFamily(host)
		}
	}
	l.advanceDial(g)
}

// resolveTarget looks a host and a port up. A port may be a service's name.
func resolveTarget(ctx context.Context, t target, find func(context.Context, string) ([]netip.Addr, error)) ([]Addr, error) {
	port, err := strconv.ParseUint(t.port, 10, 16)
	if err != nil {
		p, err := stdnet.DefaultResolver.LookupPort(ctx, "tcp", t.port)
		if err != nil {
			return nil, err
		}
		port = uint64(p)
	}
	ips, err := find(ctx, t.host)
	if err != nil {
		return nil, err
	}
	addrs := make([]Addr, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, TCPAddr(netip.AddrPortFrom(ip.Unmap(), uint16(port))))
	}
	if len(addrs) == 0 {
		return nil, &stdnet.DNSError{Err: "no address", Name: t.host, IsNotFound: true}
	}
	return addrs, nil
}
