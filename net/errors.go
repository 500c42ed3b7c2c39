//go:build linux

package net

import (
	"errors"
	"fmt"
	stdnet "net"
)

// ErrServerClosed is the cause of connections that a shutdown closed, and what
// ListenAndServe returns after one.
var ErrServerClosed = errors.New("ringnet: server closed")

// ErrClosed is std's net.ErrClosed: the connection is closed, or closing.
var ErrClosed = stdnet.ErrClosed

// ErrBacklog says that a Write was refused because Options.MaxBuffered bytes of
// the connection wait to be sent; nothing of it was taken.
var ErrBacklog = errors.New("ringnet: too much output waits for the peer")

// ErrUnconsumed is the cause when a handler left more than Options.MaxUnconsumed
// bytes unconsumed, as when a peer sends a frame larger than is allowed.
var ErrUnconsumed = errors.New("ringnet: too many received bytes left unconsumed by the handler")

// ErrCloseTimeout is the cause when the peer of a closed connection took nothing of
// the remaining output for Options.CloseTimeout.
var ErrCloseTimeout = errors.New("ringnet: peer did not take the remaining output in time")

// ErrNoData says that Detach was called where there are no received bytes to take:
// outside OnData, or twice.
var ErrNoData = errors.New("ringnet: no received bytes to detach")

// OpError is a failed operation on a connection or a listener.
type OpError struct {
	Op   string // accept, dial, listen, read, write
	Addr Addr   // the peer's address; the listener's for accept and listen; the zero Addr if unknown
	Err  error  // as a rule a syscall.Errno
}

// Error implements error.
func (e *OpError) Error() string {
	if !e.Addr.IsValid() {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %v: %v", e.Op, e.Addr, e.Err)
}

// Unwrap gives the inner error.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports that the time for it ran out, as in std's net.Error.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is Timeout. It makes an OpError a net.Error of std's.
func (e *OpError) Temporary() bool { return e.Timeout() }

// PanicError is the cause of a connection whose handler panicked.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // where
}

// Error implements error.
func (e *PanicError) Error() string { return fmt.Sprintf("ringnet: handler panicked: %v", e.Value) }
