//go:build linux

package net

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"time"

	"example.com/ringnet/ring"
)

// Options is how a server is set up. The zero value is right for most.
type Options struct {
	// Engine chooses what stands behind the loops' queues. Default ring.Auto.
	Engine ring.EngineKind

	// Mask switches kernel features off that the loops could use, as if they
	// were missing.
	Mask ring.Features

	// Loops is the number of event loops. Default one for each of CPUs, else
	// GOMAXPROCS; range 1 to 1,024.
	Loops int

	// CPUs pins the loops' threads: loop i to processor CPUs[i], and from the
	// beginning again when there are more loops. Each must be one that this process
	// may use. Default: the kernel moves the threads as it likes.
	CPUs []int

	// Placement says which loop gets a connection. Default Reuseport.
	Placement Placement

	// Backlog is how many connections may wait to be accepted, per listener, that
	// is, with Reuseport per loop. The kernel cuts it to net.core.somaxconn.
	// Inherited listeners keep theirs. Default 4,096.
	Backlog int

	// MaxConns is how many accepted connections may be open at once, on all loops
	// together; never one more. Others wait in the backlog, and are accepted when
	// one ends, the loops in the order in which they found no room. With a limit
	// each connection is accepted by a call of its own. Default 0: no limit but that
	// of open files, at which accepting pauses likewise.
	//
	// It has nothing to do with the 4,096 places for direct descriptors that each
	// loop has. These only make sends cheaper; connections beyond go without.
	MaxConns int

	// EntryCount and CompletionCount are the sizes of each loop's queues; see
	// ring.Config. Defaults 1,024 and 8,192.
	EntryCount, CompletionCount int

	// RecvBufBytes and RecvBufs are the size and number of each loop's receive
	// buffers, which all its connections share. When handlers hold all of them,
	// connections wait. Defaults 4 KiB and 4,096; ranges 16 to 1 MiB, 1 to
	// 32,768.
	RecvBufBytes, RecvBufs int

	// BulkBufBytes and BulkBufs are the size and number of each loop's large
	// buffers, for connections that send in bulk and for large writes. When none
	// is free the Go heap serves. Defaults 256 KiB and 128; ranges 4 KiB to 16
	// MiB, 1 to 32,768. An echo of 1 MiB on 16 connections takes 0.74 of the CPU
	// that it takes with 128 KiB, since the peer is woken less often, and one of
	// 64 KiB as much; 512 KiB gain nothing more.
	BulkBufBytes, BulkBufs int

	// FileBufs is how many buffers of 128 KiB each loop reads files into that
	// cannot be sent from the page cache. Any number of transfers share them.
	// Default 32, range 1 to 32,768.
	FileBufs int

	// NoBulk keeps every connection on the receive buffers.
	NoBulk bool

	// HighWater and LowWater steer a connection by its output that is not sent
	// yet, in bytes: above HighWater nothing more is read from it, down at
	// LowWater reading goes on and OnWritable is called. Defaults 256 KiB and 64
	// KiB, or a quarter of a smaller HighWater.
	//
	// What the kernel had received by then still goes to the handler, and what it
	// writes in answer comes on top: some dozens of receive buffers, or 512 KiB from
	// a connection that sends in bulk. Before Linux 6.8 a receive goes on for as
	// long as there are bytes and buffers: it can be all of RecvBufs, which is what
	// bounds it there.
	HighWater, LowWater int

	// MaxBuffered is the most output that may wait on one connection, in bytes;
	// a Write that would exceed it is refused whole (ErrBacklog), unless nothing
	// waits. Default 16 MiB, or a larger HighWater.
	MaxBuffered int

	// MaxUnconsumed is the most received bytes that a handler may leave
	// unconsumed on one connection; more closes it (ErrUnconsumed). Default 1 MiB,
	// at most 512 MiB.
	MaxUnconsumed int

	// ZeroCopyFrom is from how many bytes on leases, memory and static content are
	// sent without a copy, where the kernel says that it does not copy after all
	// (it does on loopback, and then plain sends are used). Since Linux 6.2; only with
	// io_uring. Default 16 KiB, as below some 10 KB pinning costs more than copying
	// (msg_zerocopy.rst); negative: never.
	ZeroCopyFrom int

	// PacketBytes is the largest datagram that UDP sockets take whole, and PacketBufs
	// the number of each loop's buffers for them, which all its sockets share.
	// Defaults 2,048 and 4,096, with GRO 65,535 and 256; ranges 16 to 65,535, 1 to
	// 32,768. The memory is reserved with a loop's first UDP socket.
	PacketBytes, PacketBufs int

	// PacketInfo has each datagram tell which address it was sent to and by which
	// interface it came ([Packet.To]), and answers leave from that address. For
	// sockets that are bound to all addresses of a machine with several.
	PacketInfo bool

	// GRO lets the kernel put datagrams of one sender and size together
	// ([Packet.Segment]), which spares work where senders have much to say. Since
	// Linux 5.0 (UDP_GRO); before that nothing is put together.
	GRO bool

	// NoSegments has every datagram leave by itself. By default neighbours of one
	// size to one address are handed to the kernel as segments (UDP_SEGMENT, since
	// Linux 4.18), which come out on the wire as they were written.
	NoSegments bool

	// MaxPosted and MaxPostedBytes bound what may wait in a loop's mailbox: what
	// other goroutines want of its connections by a Ref, counted in calls, and in
	// the bytes that these hold. Over them the call is refused (ErrBusy), unless
	// nothing waits. As much again may be with the loop, taken and not worked
	// off. Defaults 65,536 and 16 MiB; ranges 1 to 16 Mi, 1 to 1 TiB.
	MaxPosted, MaxPostedBytes int

	// OffloadWorkers is how much offloaded work may run at once, on as many
	// goroutines, for the whole server; more is refused (ErrNoWorker). They are
	// made when they are needed and end when they are not. Default 256, range 1 to
	// 1,048,576.
	OffloadWorkers int

	// MaxLoopBytes bounds what one loop holds for all its connections: output that
	// is not sent, and received bytes that are not consumed. From half of it on,
	// connections with more output than the average are not read from until it has
	// gone out (as if HighWater were lower), and if unconsumed bytes alone are more
	// than half, the connection that has most is closed (ErrUnconsumed). A Write that
	// would exceed it is refused (ErrBacklog), unless the loop holds nothing. Default
	// 1 GiB, or 4 times a larger MaxBuffered; range 64 KiB to 4 TiB.
	MaxLoopBytes int

	// CloseTimeout is for how long the peer of a closed connection may take nothing
	// of what is left to be sent before it is dropped; of UDP sockets, how long all
	// of that may take.
	// Default 30 s; negative: for ever.
	CloseTimeout time.Duration

	// ReadTimeout, WriteTimeout and IdleTimeout are what connections begin with;
	// see [Conn.SetReadTimeout], [Conn.SetWriteTimeout] and [Conn.SetIdleTimeout].
	// Default 0: none.
	ReadTimeout, WriteTimeout, IdleTimeout time.Duration

	// KeepAlive is after how long a silence the kernel asks a TCP peer whether it
	// is still there, KeepAliveInterval how long it then waits between questions,
	// and KeepAliveCount how many may stay unanswered before the connection is
	// reset; see [Conn.SetKeepAlive]. Default 0: off, and for the other two what the
	// kernel is set to (75 s and 9). At most 32,767 s and 127 questions.
	KeepAlive, KeepAliveInterval time.Duration
	KeepAliveCount               int

	// StallAfter is from when on a turn of a loop, as a rule a callback in it, is
	// taken for a stall: a warning with the loop's stack goes to Logger, and
	// Stats.Stalls counts it. Default 100 ms, at least 1 ms; negative: never.
	StallAfter time.Duration

	// Spin is how long a loop may look for completions in shared memory before it
	// sleeps. It does so only while requests have lately come that fast, since it
	// then costs less than sleeping. Default 100 µs, at most 1 ms; negative: never.
	Spin time.Duration

	// Delay leaves Nagle's algorithm on. It is off by default (TCP_NODELAY).
	Delay bool

	// UnixMode is the mode of the files of Unix listeners: who may write to the file
	// may connect. Default 0: 0777 less the process's umask. At most 0777.
	UnixMode os.FileMode

	// DialTimeout is how long a Dial may take, unless its Dialer says otherwise: to
	// look a name up and to try all of its addresses. Default 30 s; negative: as
	// long as the kernel tries, some two minutes for each address.
	DialTimeout time.Duration

	// Logger takes the events of the server. Default slog.Default().
	Logger *slog.Logger

	// over makes a loop's ring in place of ring.New. For the package's tests.
	over func(loop int, c ring.Config) (*ring.Ring, error)

	// lookup looks up the addresses of a host in place of std's resolver. For the
	// package's tests.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// poison overwrites released buffers. For the package's tests.
	poison bool
}

// keepAliveMost is the most that the kernel takes (MAX_TCP_KEEPIDLE).
const keepAliveMost = 32767 * time.Second

// check fills the defaults in and refuses what is out of range.
func (o Options) check() (Options, error) {
	low := 64 << 10
	if o.HighWater > 0 {
		low = min(low, max(1, o.HighWater/4))
	}
	loops := runtime.GOMAXPROCS(0)
	if len(o.CPUs) > 0 {
		loops = len(o.CPUs)
	}
	packetBytes, packetBufs := 2048, 4096
	if o.GRO {
		packetBytes, packetBufs = 65535, 256
	}
	defaults := []struct {
		name     string
		value    *int
		def      int
		min, max int
	}{
		{"Loops", &o.Loops, min(loops, 1024), 1, 1024},
		{"Backlog", &o.Backlog, 4096, 1, 1 << 20},
		{"EntryCount", &o.EntryCount, 1024, 1, 32768},
		{"CompletionCount", &o.CompletionCount, max(8192, min(8*o.EntryCount, 65536)), 2, 65536},
		{"RecvBufBytes", &o.RecvBufBytes, 4096, 16, 1 << 20},
		{"RecvBufs", &o.RecvBufs, 4096, 1, 32768},
		{"BulkBufBytes", &o.BulkBufBytes, 256 << 10, 4096, 16 << 20},
		{"BulkBufs", &o.BulkBufs, 128, 1, 32768},
		{"FileBufs", &o.FileBufs, 32, 1, 32768},
		{"HighWater", &o.HighWater, 256 << 10, 1, 1 << 40},
		{"LowWater", &o.LowWater, low, 1, 1 << 40},
		{"MaxBuffered", &o.MaxBuffered, max(16<<20, o.HighWater), 1, 1 << 40},
		{"KeepAliveCount", &o.KeepAliveCount, 0, 0, 127},
		{"PacketBytes", &o.PacketBytes, packetBytes, 16, 65535},
		{"PacketBufs", &o.PacketBufs, packetBufs, 1, 32768},
		{"MaxUnconsumed", &o.MaxUnconsumed, 1 << 20, 1, 1 << 29},
		{"MaxPosted", &o.MaxPosted, 64 << 10, 1, 1 << 24},
		{"MaxPostedBytes", &o.MaxPostedBytes, 16 << 20, 1, 1 << 40},
		{"OffloadWorkers", &o.OffloadWorkers, 256, 1, 1 << 20},
	}
	for _, d := range defaults {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < d.min || *d.value > d.max {
			return o, fmt.Errorf("ringnet: option %s is %d: it must be from %d to %d", d.name, *d.value, d.min, d.max)
		}
	}
	if o.LowWater > o.HighWater {
		return o, fmt.Errorf("ringnet: option LowWater is %d: it must not be above HighWater (%d)", o.LowWater, o.HighWater)
	}
	if o.MaxBuffered < o.HighWater {
		return o, fmt.Errorf("ringnet: option MaxBuffered is %d: it must not be below HighWater (%d)", o.MaxBuffered, o.HighWater)
	}
	if o.MaxLoopBytes == 0 {
		o.MaxLoopBytes = max(1<<30, 4*o.MaxBuffered)
	}
	if o.MaxLoopBytes < 64<<10 || o.MaxLoopBytes > 1<<42 {
		return o, fmt.Errorf("ringnet: option MaxLoopBytes is %d: it must be from %d to %d", o.MaxLoopBytes, 64<<10, 1<<42)
	}
	if o.MaxConns < 0 {
		return o, fmt.Errorf("ringnet: option MaxConns is %d: it must be positive, or 0 for no limit", o.MaxConns)
	}
	if o.Placement > LeastConnections {
		return o, fmt.Errorf("ringnet: option Placement is %d: it must be Reuseport, RoundRobin or LeastConnections", o.Placement)
	}
	if o.CompletionCount < o.EntryCount {
		return o, fmt.Errorf("ringnet: option CompletionCount is %d: it must not be below EntryCount (%d)", o.CompletionCount, o.EntryCount)
	}
	if o.ZeroCopyFrom == 0 {
		o.ZeroCopyFrom = 16 << 10
	}
	if o.CloseTimeout == 0 {
		o.CloseTimeout = 30 * time.Second
	}
	if o.Spin == 0 {
		o.Spin = 100 * time.Microsecond
	}
	if o.Spin > time.Millisecond {
		return o, fmt.Errorf("ringnet: option Spin is %v: it must be at most 1ms, since a loop that spins does nothing else", o.Spin)
	}
	if o.UnixMode&^os.ModePerm != 0 {
		return o, fmt.Errorf("ringnet: option UnixMode is %v: only the permission bits can be set, at most 0777", o.UnixMode)
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 30 * time.Second
	}
	for _, d := range []struct {
		name       string
		value, max time.Duration
	}{
		{"ReadTimeout", o.ReadTimeout, never},
		{"WriteTimeout", o.WriteTimeout, never},
		{"IdleTimeout", o.IdleTimeout, never},
		{"KeepAlive", o.KeepAlive, keepAliveMost},
		{"KeepAliveInterval", o.KeepAliveInterval, keepAliveMost},
	} {
		if d.value < 0 {
			return o, fmt.Errorf("ringnet: option %s is %v: it must not be negative; 0 turns it off", d.name, d.value)
		}
		if d.value > d.max {
			return o, fmt.Errorf("ringnet: option %s is %v: it must be at most %v", d.name, d.value, d.max)
		}
	}
	if o.StallAfter == 0 {
		o.StallAfter = 100 * time.Millisecond
	}
	if o.StallAfter > 0 && o.StallAfter < time.Millisecond {
		return o, fmt.Errorf("ringnet: option StallAfter is %v: it must be at least 1ms, or negative for never", o.StallAfter)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, nil
}
