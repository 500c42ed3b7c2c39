//go:build linux

package conformance

import (
	"crypto/tls"
	"errors"
	stdnet "net"
	"time"

	"example.com/ringnet/net"
)

// bridge is one Stream for tests that use it on any goroutine: it runs each call on a
// fiber of its own, which is as a fiber would call it that is told what to do.
type bridge struct {
	s   *net.Stream
	ref net.Ref
}

// errGone is for calls after the connection has ended.
var errGone = &net.OpError{Op: "use", Err: net.ErrClosed}

// do runs f on a fiber and waits for it.
func (b *bridge) do(f func()) error {
	done := make(chan error, 1)
	err := b.ref.PostOr(func(c *net.Conn) {
		if c == nil {
			done <- errGone
			return
		}
		_, err := b.s.Spawn(func() error {
			f()
			done <- nil
			return nil
		})
		if err != nil {
			done <- err
		}
	})
	if err != nil {
		return errGone
	}
	return <-done
}

func (b *bridge) Read(p []byte) (n int, err error) {
	if gone := b.do(func() { n, err = b.s.Read(p) }); gone != nil {
		return 0, gone
	}
	return n, err
}

func (b *bridge) Write(p []byte) (n int, err error) {
	if gone := b.do(func() { n, err = b.s.Write(p) }); gone != nil {
		return 0, gone
	}
	return n, err
}

func (b *bridge) LocalAddr() (a stdnet.Addr) {
	if b.do(func() { a = b.s.LocalAddr() }) != nil {
		a = net.Addr{}
	}
	return a
}

// These may be called on any goroutine.

func (b *bridge) Close() error                       { return b.s.Close() }
func (b *bridge) RemoteAddr() stdnet.Addr            { return b.s.RemoteAddr() }
func (b *bridge) SetDeadline(t time.Time) error      { return b.s.SetDeadline(t) }
func (b *bridge) SetReadDeadline(t time.Time) error  { return b.s.SetReadDeadline(t) }
func (b *bridge) SetWriteDeadline(t time.Time) error { return b.s.SetWriteDeadline(t) }

// pipe is a connection between two Streams on the loops of a server of its own, with TLS
// if secure is not nil.
func pipe(o net.Options, addr string, secure *tls.Config) (a, b stdnet.Conn, stop func(), err error) {
	ends := make(chan *bridge, 2)
	srv := &net.Server{Options: o, Handler: net.BlockingAtOpen(func(s *net.Stream) error {
		ends <- &bridge{s, s.Conn().Ref()}
		return s.Sleep(1 << 62) // until it is closed
	})}
	if secure != nil {
		srv.Handler = net.TLS(secure, srv.Handler)
	}
	if err := srv.Start(addr); err != nil {
		return nil, nil, nil, err
	}
	if err := srv.Dial(srv.Addrs()[0].String(), net.Dialer{}); err != nil {
		return nil, nil, nil, errors.Join(err, srv.Close())
	}
	a, b = <-ends, <-ends
	return a, b, func() { _, _, _ = a.Close(), b.Close(), srv.Close() }, nil
}
