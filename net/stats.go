//go:build linux

package net

import (
	"time"

	"example.com/ringnet/ring"
)

// Stats is what a server, or one loop of it, has done since it was started. A
// loop counts with plain additions and hands a copy out when asked.
type Stats struct {
	Loops int // whose counters these are the sum of

	Connections uint64 // open now
	Accepted    uint64
	Closed      uint64 // OnClose was called, or they were handed over as they were accepted
	Dialled     uint64 // connections made by Dial
	DialErrors  uint64 // those that did not come about
	Dialling    int    // those that are being made, now

	BytesReceived uint64
	BytesSent     uint64

	Ring ring.Counters // enters, submissions, completions, overflows, …

	Arms           uint64 // receives and polls armed
	NoBuffers      uint64 // receives that found no buffer with the kernel (ENOBUFS)
	Starved        uint64 // times a connection was parked for want of a buffer
	ToBulk         uint64 // times a connection went over to direct receives
	ToSmall        uint64 // and back
	ToDirect       uint64 // busy connections put into the ring's table of direct descriptors
	DirectReceives uint64
	DirectSends    uint64
	ShortSends     uint64
	HighWater      uint64 // times a connection's output went over HighWater
	Heavy          uint64 // times a loop went over half of MaxLoopBytes
	Evicted        uint64 // connections ended since their loop held too much input
	HeapBuffers    uint64 // buffers that the heap had to give

	ZeroCopySends   uint64 // sends that were to copy nothing,
	ZeroCopyCopied  uint64 // for which the kernel says that it copied after all,
	ZeroCopyRefused uint64 // and that it had no memory to pin for, or never does there
	ZeroCopyBytes   uint64 // sent that way
	Files           uint64 // SendFile
	FileErrors      uint64 // files that could not be read, or became shorter
	FileBytesSent   uint64 // of files, except small ones that went out with what was before them
	FileBytesRead   uint64 // of files, copied into buffers
	FileBytesMapped uint64 // sent from a file's mapping; what is left went by sendfile(2)
	ColdReads       uint64 // reads that waited for a disk

	TLSHandshakes      uint64 // that have succeeded
	TLSHandshakeErrors uint64 // connections that ended before theirs had; OnOpen was never called

	Flushes      uint64 // submissions in the middle of a batch
	AcceptErrors uint64
	AtLimit      uint64 // times a loop found MaxConns reached, with connections waiting
	Dealt        uint64 // connections that a loop accepted for another one
	Dropped      uint64 // accepted connections closed unopened, by a shutdown

	HandedOver    uint64 // of those closed: given to std, and open there
	HandOversLost uint64 // of those closed: were to be given, and ended before or were taken by nobody

	Panics uint64 // handlers, and functions of timers, that panicked
	Stale  uint64 // completions for connections that had gone; should be 0

	Sockets          uint64 // UDP sockets that are open now
	SocketsOpened    uint64
	SocketsClosed    uint64 // OnSocketClose was called, if wanted
	PacketsReceived  uint64 // datagrams; with Options.GRO, buffers with one or more
	PacketsTruncated uint64 // of those, the ones that were larger than Options.PacketBytes
	PacketsSent      uint64
	PacketSends      uint64 // batches that they were sent in
	PacketWaits      uint64 // times the kernel took no more
	PacketErrors     uint64 // that were told to SocketErrorHandler, or would have been
	Segmented        uint64 // datagrams handed over as several segments
	Fibers           uint64 // that have not ended, now
	FibersStarted    uint64
	Posts            uint64 // letters of other goroutines that were worked off
	PostsDropped     uint64 // of these or their receivers: the connection had gone
	Refused          uint64 // of these or their receivers: too much output waited for the peer
	Wakeups          uint64 // times a poster had to wake a loop
	Offloads         uint64
	OffloadsDropped  uint64 // results that came when the connection had gone

	HeldBytes   int // output not sent and input not consumed, now; see MaxLoopBytes
	InFlight    int // operations whose last completion is outstanding, now
	LeasesOut   int // receive buffers that are leased, now
	CopiesOut   int // large buffers and buffers with copies of writes that are out, now
	SpinsFound  uint64
	SpinsMissed uint64

	TimersFired uint64 // functions of AfterFunc and LoopAfterFunc that were called
	Timeouts    uint64 // connections that a timeout or a deadline ended
	Turns       uint64
	Stalls      uint64 // turns that took longer than Options.StallAfter

	// How long turns take: that is what a completion may have to wait. Of several
	// loops it is the longest.
	LastTurn, LongestTurn time.Duration

	// Asleep is how long loops have slept since they were started, Uptime how long
	// that is ago; of several loops, the sum of all.
	Asleep, Uptime time.Duration

	// What waits now.
	TimersSet int // timers and timeouts in the wheel
	Parked    int // connections that wait for a receive buffer
	Posted    int // functions from other goroutines
	Prepared  int // entries that the kernel has not been given
	Ready     int // completions that have not been looked at
}

// CompletionsPerEnter is how many completions each call of io_uring_enter brought.
func (s Stats) CompletionsPerEnter() float64 {
	return ratio(float64(s.Ring.Completions), float64(s.Ring.Enters))
}

// EntriesPerEnter is how many operations each call of io_uring_enter took along.
func (s Stats) EntriesPerEnter() float64 {
	return ratio(float64(s.Ring.Submitted), float64(s.Ring.Enters))
}

// CompletionsPerTurn is how large batches are.
func (s Stats) CompletionsPerTurn() float64 {
	return ratio(float64(s.Ring.Completions), float64(s.Turns))
}

// Load is the share of the time in which the loops did not sleep, from 0 to 1. At 1
// none has any time left. Looking for completions (Options.Spin) counts as work.
func (s Stats) Load() float64 {
	if s.Uptime <= 0 {
		return 0
	}
	return max(0, 1-ratio(float64(s.Asleep), float64(s.Uptime)))
}

// MeanTurn is how long a turn takes on average, without sleeping.
func (s Stats) MeanTurn() time.Duration {
	return time.Duration(ratio(float64(s.Uptime-s.Asleep), float64(s.Turns)))
}

func ratio(of, by float64) float64 {
	if by == 0 {
		return 0
	}
	return of / by
}

// add sums two loops.
func (s *Stats) add(o *Stats) {
	s.Loops += o.Loops
	for _, f := range []struct {
		to   *uint64
		from uint64
	}{
		{&s.Connections, o.Connections}, {&s.Accepted, o.Accepted}, {&s.Closed, o.Closed}, {&s.Dialled, o.Dialled}, {&s.DialErrors, o.DialErrors},
		{&s.BytesReceived, o.BytesReceived}, {&s.BytesSent, o.BytesSent},
		{&s.Ring.Enters, o.Ring.Enters}, {&s.Ring.Waits, o.Ring.Waits}, {&s.Ring.Submitted, o.Ring.Submitted},
		{&s.Ring.Completions, o.Ring.Completions}, {&s.Ring.Overflows, o.Ring.Overflows},
		{&s.Ring.Interrupts, o.Ring.Interrupts}, {&s.Ring.Busy, o.Ring.Busy}, {&s.Ring.Glances, o.Ring.Glances},
		{&s.Arms, o.Arms}, {&s.NoBuffers, o.NoBuffers}, {&s.Starved, o.Starved}, {&s.ToBulk, o.ToBulk},
		{&s.ToDirect, o.ToDirect}, {&s.ToSmall, o.ToSmall}, {&s.DirectReceives, o.DirectReceives}, {&s.DirectSends, o.DirectSends},
		{&s.ShortSends, o.ShortSends}, {&s.HighWater, o.HighWater}, {&s.HeapBuffers, o.HeapBuffers},
		{&s.ZeroCopySends, o.ZeroCopySends}, {&s.ZeroCopyCopied, o.ZeroCopyCopied}, {&s.ZeroCopyRefused, o.ZeroCopyRefused},
		{&s.ZeroCopyBytes, o.ZeroCopyBytes}, {&s.Files, o.Files}, {&s.FileErrors, o.FileErrors}, {&s.FileBytesSent, o.FileBytesSent},
		{&s.FileBytesRead, o.FileBytesRead}, {&s.FileBytesMapped, o.FileBytesMapped}, {&s.ColdReads, o.ColdReads},
		{&s.Sockets, o.Sockets}, {&s.SocketsOpened, o.SocketsOpened}, {&s.SocketsClosed, o.SocketsClosed},
		{&s.PacketsReceived, o.PacketsReceived}, {&s.PacketsTruncated, o.PacketsTruncated}, {&s.PacketsSent, o.PacketsSent},
		{&s.PacketSends, o.PacketSends}, {&s.PacketWaits, o.PacketWaits}, {&s.PacketErrors, o.PacketErrors}, {&s.Segmented, o.Segmented},
		{&s.Posts, o.Posts}, {&s.PostsDropped, o.PostsDropped}, {&s.Refused, o.Refused}, {&s.Wakeups, o.Wakeups},
		{&s.Fibers, o.Fibers}, {&s.FibersStarted, o.FibersStarted}, {&s.Offloads, o.Offloads}, {&s.OffloadsDropped, o.OffloadsDropped},
		{&s.TLSHandshakes, o.TLSHandshakes}, {&s.TLSHandshakeErrors, o.TLSHandshakeErrors},
		{&s.Flushes, o.Flushes}, {&s.AcceptErrors, o.AcceptErrors}, {&s.Heavy, o.Heavy}, {&s.Evicted, o.Evicted},
		{&s.HandedOver, o.HandedOver}, {&s.HandOversLost, o.HandOversLost},
		{&s.AtLimit, o.AtLimit}, {&s.Dealt, o.Dealt}, {&s.Dropped, o.Dropped}, {&s.Panics, o.Panics}, {&s.Stale, o.Stale},
		{&s.SpinsFound, o.SpinsFound}, {&s.SpinsMissed, o.SpinsMissed},
		{&s.TimersFired, o.TimersFired}, {&s.Timeouts, o.Timeouts}, {&s.Turns, o.Turns}, {&s.Stalls, o.Stalls},
	} {
		*f.to += f.from
	}
	s.Dialling += o.Dialling
	s.HeldBytes += o.HeldBytes
	s.InFlight += o.InFlight
	s.LeasesOut += o.LeasesOut
	s.CopiesOut += o.CopiesOut
	s.LastTurn = max(s.LastTurn, o.LastTurn)
	s.LongestTurn = max(s.LongestTurn, o.LongestTurn)
	s.Asleep += o.Asleep
	s.Uptime += o.Uptime
	s.TimersSet += o.TimersSet
	s.Parked += o.Parked
	s.Posted += o.Posted
	s.Prepared += o.Prepared
	s.Ready += o.Ready
}

// snapshot copies a loop's counters. On the loop's goroutine.
func (l *loop) snapshot() Stats {
	s := l.stats
	s.Loops = 1
	s.Connections = uint64(l.table.used)
	s.Ring = l.r.Counters()
	s.Dialling = l.dials.used
	s.Fibers = uint64(l.fibers)
	s.HeldBytes = l.held
	s.InFlight = l.inFlight
	s.Uptime = time.Duration(l.clock() - l.began)
	s.TimersSet = l.wheel.count
	s.Parked = len(l.starved)
	s.Posted = l.mail.length()
	s.Prepared = l.r.Pending()
	s.Ready = l.r.Ready() + l.count - l.next
	s.Wakeups = l.mail.woken.Load()
	// What was released, as opposed to put, is home when it is reclaimed.
	l.group.Reclaim()
	s.LeasesOut = l.group.Leased() + l.udp.leased()
	s.Sockets = uint64(l.udp.used)
	for _, p := range l.pools() {
		p.Reclaim()
		s.CopiesOut += p.Out()
	}
	return s
}
