//go:build linux

// Package bufring keeps account of who holds each buffer that the kernel fills.
//
// A buffer is in one place at any time:
//
//	free ──Refill──► kernel ──Take──► leased ──Put, Release──► free
//	  └───────────Lease────────────────▲
//
// A [Pool] is buffers of one size in memory outside the Go heap, handed out as
// leases. A [Group] is a pool whose buffers the kernel takes by itself, through a
// buffer ring registered with a ring.Ring: a receive then needs no buffer of its
// own while it waits, so memory follows the active connections and not all.
//
// A [Lease] is the only way to a buffer's bytes. Releasing it consumes it; a
// second release panics. Everything else belongs to the goroutine of the pool.
package bufring
