//go:build linux

// Package sim is an engine that is no kernel at all: a seeded, deterministic
// io_uring with a network, peers and a clock of its own. One seed is one world.
//
// It takes the same entries and posts the same completions as the kernel, and
// does with them everything that the kernel may do but rarely does: short
// results, last completions that carry data, ENOBUFS although there are buffers,
// cancels that come too late, completions that overflow, enters that take nothing.
// Which of these happen, and how often, is drawn from the seed ([DrawFaults]).
//
// Nothing in it is concurrent. All of a world happens inside the calls of the one
// goroutine that owns the ring: time passes in Wait, a little in every other call,
// and nowhere else. So the same seed gives the same world, event by event.
//
// It is also an accountant: what no program may do with io_uring (close a
// descriptor that operations work on, have two sends under way on a stream, hand
// a buffer over twice) is no fault but a violation, and [Engine.Violations] tells.
package sim
