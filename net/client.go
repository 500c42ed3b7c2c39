//go:build linux

package net

import (
	"context"
	"errors"
)

// Client has event loops without listeners, for programs that dial and do not
// serve. Set its fields before it is started and leave them alone afterwards. Its
// methods are safe for concurrent use.
//
// A program that also serves needs none: [Server.Dial] and [Conn.Dial] connect from
// the server's loops.
type Client struct {
	// Handler serves the connections of Dialers that have none.
	Handler Handler

	Options

	s Server
}

// Start starts the loops. On an error nothing is left open.
func (c *Client) Start() error {
	c.s.Handler, c.s.Options = c.Handler, c.Options
	return c.s.start(nil, nil)
}

// Dial begins to connect to addr, see [Server.Dial].
func (c *Client) Dial(addr string, d Dialer) error { return c.s.Dial(addr, d) }

// DialContext connects to addr, see [Server.DialContext].
func (c *Client) DialContext(ctx context.Context, addr string, d Dialer) error {
	return c.s.DialContext(ctx, addr, d)
}

// Shutdown ends the client in good order, see [Server.Shutdown].
func (c *Client) Shutdown(ctx context.Context) error { return c.s.Shutdown(ctx) }

// Close ends the client at once, see [Server.Close].
func (c *Client) Close() error { return c.s.Close() }

// Wait blocks until the client has ended; see [Server.Wait].
func (c *Client) Wait() error { return c.s.Wait() }

// Engine says what the loops run on, once the client is started.
func (c *Client) Engine() EngineInfo { return c.s.Engine() }

// Stats sums the counters of all loops, see [Server.Stats].
func (c *Client) Stats() Stats { return c.s.Stats() }

// LoopStats are the counters of each loop.
func (c *Client) LoopStats() []Stats { return c.s.LoopStats() }

// Dial begins to connect to addr, "host:port" or "unix:path", on the loops in turn.
// The outcome comes by callbacks, see [Dialer], unless Dial itself answers an error:
// then nothing was begun. To connect on the loop of a connection, use [Conn.Dial].
func (s *Server) Dial(addr string, d Dialer) error {
	l, h, err := s.dialer(d)
	if err != nil {
		return err
	}
	return l.mail.post(func() { l.dial(addr, d, h, nil) })
}

// DialContext is Dial, and returns when OnOpen has been called (nil) or when there
// is no connection, with what OnError was told. When ctx ends first the Dial is
// given up, and the error matches ctx's; a connection that has come about is not
// affected. Not from callbacks: it would wait for the loop that waits for it.
func (s *Server) DialContext(ctx context.Context, addr string, d Dialer) error {
	if ctx.Err() != nil {
		return &OpError{Op: "dial", Err: context.Cause(ctx)}
	}
	l, h, err := s.dialer(d)
	if err != nil {
		return err
	}
	outcome := make(chan error, 1)
	var g *Dialing // on the loop's goroutine
	if err := l.mail.post(func() { g = l.dial(addr, d, h, func(err error) { outcome <- err }) }); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	_ = l.mail.demand(letter{what: func() { l.cancelDial(g, cause) }}) // an error: the loop has ended, and g with it
	return <-outcome
}

// dialer chooses the loop and the handlers for a Dialer.
func (s *Server) dialer(d Dialer) (*loop, *handlers, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case serverNew:
		return nil, nil, errors.New("ringnet: Dial before Start: there is no loop yet")
	case serverClosing:
		return nil, nil, ErrServerClosed
	}
	h := s.loops[0].h
	if d.Handler != nil {
		h = newHandlers(d.Handler)
	}
	if h == nil {
		return nil, nil, errors.New("ringnet: Dial without a Handler: set Dialer.Handler, or that of the Client")
	}
	l := s.loops[s.nextLoop%len(s.loops)]
	s.nextLoop++
	return l, h, nil
}
