//go:build linux

package net

// Handler is what a server does with its connections. One Handler serves all of
// them, on all loops: what belongs to one connection goes into [Conn.SetContext].
// A panic in a callback closes that connection with a *[PanicError] as cause.
type Handler interface {
	// OnOpen is called once, before anything else.
	OnOpen(c *Conn)

	// OnData lends b, the bytes that have come, and returns how many of them it
	// has dealt with. The rest is kept, and offered again in front of the next
	// bytes that come, in one piece. b is valid until OnData returns; to keep it,
	// copy it or call c.Detach.
	OnData(c *Conn, b []byte) int

	// OnClose is called exactly once for each connection that was opened, on
	// every path, when no operation of it is left and before its descriptor can
	// be used again. err is the cause: nil when this side closed it, io.EOF when
	// the peer ended the stream, [ErrServerClosed] on shutdown, *[OpError] for a
	// failed operation (connection reset, broken pipe), *[PanicError] for a
	// panic, [ErrUnconsumed] or [ErrCloseTimeout].
	OnClose(c *Conn, err error)
}

// EOFHandler may be implemented by a Handler that goes on sending after the peer
// has ended its direction. Without it the connection is closed then, once all
// that was written has gone out.
type EOFHandler interface {
	// OnEOF is called once, after the last OnData. The connection stays open for
	// Write until Close or CloseWrite.
	OnEOF(c *Conn)
}

// WritableHandler may be implemented by a Handler that writes on its own accord
// and not in answer to data.
type WritableHandler interface {
	// OnWritable is called when the bytes not yet sent, having been above
	// Options.HighWater, are down to Options.LowWater.
	OnWritable(c *Conn)
}

// WakeHandler may be implemented by a Handler whose connections other goroutines
// have news for. Without it, Ref.Wake does nothing.
type WakeHandler interface {
	// OnWake is called after [Ref.Wake]: once for all the calls that came before
	// it runs.
	OnWake(c *Conn)
}

// RefusedHandler may be implemented by a Handler that wants to know of messages
// that a connection did not take. Without it they are only counted
// (Stats.Refused).
type RefusedHandler interface {
	// OnRefused is called when bytes that were to be sent by a [Ref] or a
	// broadcast would have been too much (Options.MaxBuffered). None of them has
	// been sent, and the connection goes on. Who cannot do without them closes
	// the connection here: c.Abort(ErrBacklog).
	OnRefused(c *Conn, bytes int)
}

// ShutdownHandler may be implemented by a Handler that wants to take leave. With
// it, a connection stays open on Shutdown until the handler closes it or the
// context of Shutdown ends; without it, it is closed when its output has gone out.
type ShutdownHandler interface {
	OnShutdown(c *Conn)
}

// Events has empty methods for all of [Handler], to embed in a handler that needs
// only some. Its OnData takes the bytes and does nothing.
type Events struct{}

// OnOpen implements Handler.
func (Events) OnOpen(*Conn) {}

// OnData implements Handler.
func (Events) OnData(_ *Conn, b []byte) int { return len(b) }

// OnClose implements Handler.
func (Events) OnClose(*Conn, error) {}

// handlers is a Handler with its optional parts looked up once.
type handlers struct {
	Handler
	eof      EOFHandler
	writable WritableHandler
	shutdown ShutdownHandler
	wake     WakeHandler
	refused  RefusedHandler
	blocking bool              // its connections have Streams
	std      *HandOverListener // it is that
	secure   securer           // nil: it is given what comes by the socket
	wrong    error             // it cannot serve
}

func newHandlers(h Handler) *handlers {
	if s, ok := h.(secured); ok {
		h, sec := s.inner()
		hs := newHandlers(h)
		if hs.secure != nil {
			hs.wrong = errNested
		} else if h == nil {
			hs.wrong = errNoHandler
		}
		hs.secure, hs.std = sec, nil // nothing is handed over before it is secured
		return hs
	}
	hs := &handlers{Handler: h}
	hs.eof, _ = h.(EOFHandler)
	hs.writable, _ = h.(WritableHandler)
	hs.shutdown, _ = h.(ShutdownHandler)
	hs.wake, _ = h.(WakeHandler)
	hs.refused, _ = h.(RefusedHandler)
	_, hs.blocking = h.(interface{ servesStreams() })
	hs.std, _ = h.(*HandOverListener)
	return hs
}
