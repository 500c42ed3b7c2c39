//go:build linux

package net

import (
	"crypto/tls"
	"errors"
	stdnet "net"
	"time"
)

// TLS secures the connections of a handler with std's crypto/tls: h is given plain
// bytes, and what it writes is encrypted. It may be any Handler, of callbacks or of
// [Blocking]. Accepted connections are TLS servers, with config's certificates; dialled
// ones are clients, for which ServerName is the host that was dialled, if config has
// none.
//
// config is used as it is, and must not be changed afterwards: certificates by SNI,
// ALPN (NextProtos), client certificates, session tickets, GetConfigForClient and the
// rest work as with std. Only renegotiation (of clients of TLS 1.2) is never done. Its
// functions are called on the loop's goroutine and must not block: what looks something
// up elsewhere (a certificate, say) has to have it at hand. The signature of a handshake
// is made there, too: some 30 µs of the loop's time with an ECDSA or Ed25519 key, and
// more than a millisecond with one of RSA.
//
// What is different for h:
//
//   - OnOpen comes after the handshake. A connection whose handshake fails is not seen by
//     h at all: it is counted (Stats.TLSHandshakeErrors) and told to OnHandshakeError, and
//     who has dialled it is told by Dialer.OnError. The peer is sent an alert.
//   - Close and CloseWrite send close_notify behind what was written; Abort does not. A
//     peer's close_notify is the end of its stream. If the stream ends without it, it may
//     have been cut: the connection is closed, with a cause that matches
//     io.ErrUnexpectedEOF.
//   - Buffered, the water marks, MaxBuffered, timeouts and BytesSent are those of the
//     socket, and so of encrypted bytes.
//   - Everything that is sent is read and copied once, to be encrypted: leases, memory and
//     Statics are free at once, and files are read in pieces as the peer takes them, also
//     there without ever waiting for a disk on the loop.
//
// To set more than the two, change the fields of what TLS returns before it is used.
func TLS(config *tls.Config, h Handler) *TLSHandler {
	return &TLSHandler{Config: config, Handler: h}
}

// TLSHandler is a [Handler] that secures the connections of another one; see [TLS]. It
// has to be used as it is, and not within a handler of one's own. Its fields must not be
// changed after its first use.
type TLSHandler struct {
	// Config is of crypto/tls. Required for accepted connections: with Certificates,
	// GetCertificate or GetConfigForClient. Nil for dialled ones: the zero Config.
	Config *tls.Config

	// Handler serves what is secured. Required.
	Handler Handler

	// HandshakeTimeout is how long a handshake may take; the connection is then ended,
	// with a cause that matches os.ErrDeadlineExceeded. Default 10 s; negative: for ever.
	// For dialled connections Dialer.Timeout includes the handshake.
	HandshakeTimeout time.Duration

	// OnHandshakeError, if not nil, is told why the handshake of an accepted connection
	// has failed, when that has ended: an *[OpError] with Op "TLS handshake" and the
	// peer's address, or what else ended it, as for OnClose. Anybody can cause many of
	// these. On the loop's goroutine.
	OnHandshakeError func(c *Conn, err error)
}

// secured is a handler that wants sessions.
type secured interface {
	inner() (Handler, securer)
}

func (t *TLSHandler) inner() (Handler, securer) { return t.Handler, tlsSessions{t} }

// over is h with TLS below it.
func (h *handlers) over(config *tls.Config) *handlers {
	secure := *h
	secure.secure = tlsSessions{&TLSHandler{Config: config}}
	return &secure
}

// check implements the look that Start takes at handlers.
func (t *TLSHandler) check() error {
	if t.Handler == nil {
		return errNoHandler
	}
	if _, nested := t.Handler.(secured); nested {
		return errNested
	}
	if c := t.Config; c == nil || len(c.Certificates) == 0 && c.GetCertificate == nil && c.GetConfigForClient == nil {
		return errors.New("ringnet: TLS: no certificate to serve with: set Certificates, GetCertificate or GetConfigForClient of the tls.Config (tls.LoadX509KeyPair reads one from files)")
	}
	return checkHandler(t.Handler)
}

// serves implements the message that Start has for handlers.
func (t *TLSHandler) serves(addr Addr) { tellServes(t.Handler, addr) }

var errNoHandler = errors.New("ringnet: TLS: the handler is nil: set what serves the connections")

var errNested = errors.New("ringnet: TLS in TLS: the handler given to TLS is itself one of TLS")

// errWithin is the cause where a TLSHandler was called by another handler.
var errWithin = errors.New("ringnet: a handler of TLS was called by another one: give it to the server or the Dialer as it is")

// OnOpen implements [Handler]. A TLSHandler itself is never called: loops look into it.
func (t *TLSHandler) OnOpen(c *Conn) { c.Abort(errWithin) }

// OnData implements [Handler], see OnOpen.
func (t *TLSHandler) OnData(c *Conn, b []byte) int { return len(b) }

// OnClose implements [Handler], see OnOpen.
func (t *TLSHandler) OnClose(*Conn, error) {}

// tlsSessions is the securer of a TLSHandler.
type tlsSessions struct{ t *TLSHandler }

func (s tlsSessions) session(raw stdnet.Conn, client bool, host string) session {
	config := s.t.Config
	if !client {
		return tls.Server(raw, config)
	}
	if config == nil {
		config = &tls.Config{}
	} else {
		config = config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	// A second handshake would have to wait where nothing may.
	config.Renegotiation = tls.RenegotiateNever
	return tls.Client(raw, config)
}

func (s tlsSessions) limit() time.Duration {
	if s.t.HandshakeTimeout == 0 {
		return 10 * time.Second
	}
	return max(0, s.t.HandshakeTimeout)
}

func (s tlsSessions) refused(c *Conn, err error) {
	if s.t.OnHandshakeError != nil {
		s.t.OnHandshakeError(c, err)
	}
}

// ConnectionState is what was agreed upon with the peer of a connection that [TLS]
// secures: the protocol chosen by ALPN, the server's name, the peer's certificates. It
// is the zero value (HandshakeComplete is false) for one that is not secured. Valid from
// OnOpen on, and after the end as well.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if c.state&layered == 0 {
		return tls.ConnectionState{}
	}
	return c.rare.layer.s.ConnectionState()
}

// ConnectionState is that of the connection underneath, see [Conn.ConnectionState]. The
// zero value off the loop.
func (s *Stream) ConnectionState() tls.ConnectionState {
	if !s.here() {
		return tls.ConnectionState{}
	}
	return s.c.ConnectionState()
}
