package main

import (
	"crypto/tls"
	"log/slog"
	stdnet "net"
	"os"
	"time"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/net"
	"example.com/ringnet/ring"
)

// onFibers gives each connection to f, on a fiber of one loop; with a config, within
// TLS.
func onFibers(addr, engine string, spin time.Duration, config *tls.Config, f function) {
	kind, err := ring.ParseEngine(engine)
	if err != nil {
		control.Fail(err)
	}
	s := &net.Server{Options: net.Options{Engine: kind, Loops: 1, Spin: spin, CloseTimeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	s.Handler = net.Blocking(func(c *net.Stream) error {
		dial := func(addr string) (stdnet.Conn, error) {
			up, err := c.Dial(addr, net.Dialer{})
			if err != nil {
				return nil, err // not a nil *Stream
			}
			return up, nil
		}
		// Spawn refuses only when c is ending, and with it f.
		spawn := func(f func()) { _, _ = c.Spawn(func() error { f(); return nil }) }
		return f(c, dial, spawn)
	})
	if config != nil {
		s.Handler = net.TLS(config, s.Handler)
	}
	if err := s.Start(addr); err != nil {
		control.Fail(err)
	}
	control.Serve(func() any {
		all := s.Stats()
		return stats{Stats: control.Stats{Enters: &all.Ring.Enters, Heap: control.Heap()}, Net: all}
	}, s.Addrs()[0])
}

// stats adds all of the library's counters to what every server tells.
type stats struct {
	control.Stats
	Net net.Stats `json:"net"`
}
