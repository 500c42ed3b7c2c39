//go:build linux

// Package goroutine tells goroutines apart, and has the processor look ahead to one.
//
// Package net uses it for two things. One is to find out, at the price of a load, that a
// stream is used on another goroutine than the one that its loop runs on, before
// anything of the loop is touched. Go offers no other way that costs less than a
// system call. The function in assembly reads the register, or the place in the
// thread's own storage, in which a goroutine finds itself. The other is to ask for the
// memory that a switch to a fiber will touch, a few completions ahead.
package goroutine

// ID tells the calling goroutine from all others that are alive. It says nothing
// else: numbers are used again, and there is nothing to do with one but to compare it.
// Never 0. Safe for concurrent use.
func ID() uintptr
