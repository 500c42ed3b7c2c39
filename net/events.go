//go:build linux

package net

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// What a server tells Options.Logger: Info when it starts and ends, Warn about what
// its operator should mend, Error about panics, Debug about single connections.
// Nothing is told for each request, and nothing above Debug for each connection.

// logStarted tells what serves now, and on what.
func logStarted(o *Options, addrs []Addr, info EngineInfo) {
	names := make([]string, len(addrs))
	for i, a := range addrs {
		names[i] = a.String()
	}
	o.Logger.Info("ringnet: serving", "addrs", strings.Join(names, " "), "loops", o.Loops,
		"engine", info.Kind, "kernel", info.Kernel, "reason", info.Reason, "features", info.Features)
}

// logEnded tells what loops that have ended have done.
func logEnded(logger *slog.Logger, loops []*loop, err error) {
	var sum Stats
	for _, l := range loops {
		sum.add(&l.final)
	}
	attrs := []any{"accepted", sum.Accepted, "received", sum.BytesReceived, "sent", sum.BytesSent,
		"uptime", (sum.Uptime / time.Duration(max(1, sum.Loops))).Round(time.Millisecond), "load", sum.Load()}
	if err != nil {
		logger.Error("ringnet: ended, and left something behind", append(attrs, "err", err)...)
		return
	}
	logger.Info("ringnet: ended", attrs...)
}

// complainEvery is how often a shortage that lasts, or comes back, is told of.
const complainEvery = time.Minute

// logStarved tells that connections wait for receive buffers.
func (l *loop) logStarved() {
	now := l.clock()
	if now < l.starvedComplainAt {
		return
	}
	l.starvedComplainAt = plus(now, complainEvery)
	l.o.Logger.Warn("ringnet: all receive buffers are in use", "loop", l.index, "buffers", l.group.Count(), "leased", l.group.Leased(),
		"connections", l.table.used, "mend", "set Options.RecvBufs higher, or release what was detached sooner; connections wait for buffers meanwhile")
}

// logConn tells, at level Debug, what becomes of one connection.
func (l *loop) logConn(c *Conn, what string, args ...any) {
	if l.o.Logger.Enabled(context.Background(), slog.LevelDebug) {
		l.o.Logger.Debug("ringnet: "+what, append([]any{"loop", l.index, "peer", c.remote}, args...)...)
	}
}
