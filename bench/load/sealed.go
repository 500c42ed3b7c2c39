package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/certificate"
)

// sealing carries the messages of connections through unmodified crypto/tls, whose
// other side is memory: the direct driver moves what crypto/tls has written, and
// hands it what has come.
type sealing struct {
	l     *load
	conns []sealed
	plain []byte // what has been opened, one record at a time
}

// sealed is one connection's TLS.
type sealed struct {
	tls   *tls.Conn
	wire  wire
	chunk int // bytes of messages in what wire is to send
}

// recordBytes is the most that one record of TLS carries.
const recordBytes = 16 << 10

// seal makes all connections, which are connected and block, TLS connections.
func (l *load) seal() error {
	config, err := clientConfig(&l.plan)
	if err != nil {
		return err
	}
	s := &sealing{l: l, conns: make([]sealed, len(l.conns)), plain: make([]byte, recordBytes)}
	for i := range l.conns {
		c := &s.conns[i]
		c.wire.fd = int(l.conns[i].fd)
		c.tls = tls.Client(&c.wire, config)
		if err := c.tls.Handshake(); err != nil {
			return fmt.Errorf("connection %d: handshake: %w", i, err)
		}
		c.wire.fd = -1
	}
	l.out, l.take = s, s.open
	return nil
}

// clientConfig trusts the servers' certificate and nothing else.
func clientConfig(p *plan) (*tls.Config, error) {
	roots, err := certificate.Roots(p.tls)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{RootCAs: roots, ServerName: certificate.Name, MinVersion: tls.VersionTLS13}
	if p.resume {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return c, nil
}

// next seals what is due, and returns what of that is to be sent.
func (s *sealing) next(c *conn) []byte {
	e := &s.conns[c.index]
	if e.chunk == 0 {
		b := s.l.pattern.at(c.sendPos, min(c.due, maxChunk))
		// Writing to memory fails only after a failure to read, which ends the run.
		e.chunk, _ = e.tls.Write(b)
	}
	return e.wire.out[e.wire.done:]
}

func (s *sealing) sent(c *conn, n int) {
	e := &s.conns[c.index]
	if e.wire.done += n; e.wire.done < len(e.wire.out) {
		return
	}
	e.wire.out, e.wire.done = e.wire.out[:0], 0
	c.due -= e.chunk
	c.sendPos = s.l.pattern.advance(c.sendPos, e.chunk)
	e.chunk = 0
}

// open takes what has come out of the records that are complete.
func (s *sealing) open(c *conn, b []byte) error {
	e := &s.conns[c.index]
	e.wire.in = b
	for {
		n, err := e.tls.Read(s.plain)
		if n > 0 {
			if err := s.l.received(c, s.plain[:n]); err != nil {
				return err
			}
		}
		if err == errNothingYet {
			return nil
		}
		if err != nil {
			return fmt.Errorf("connection %d: TLS: %w", c.index, err)
		}
	}
}

// wire is the side of a TLS connection where the records are. With a descriptor it
// is the socket, which blocks; without one it is memory.
type wire struct {
	fd   int
	in   []byte // has come, and belongs to the driver
	out  []byte // to be sent
	done int    // of it, bytes that have been
}

// Read gives what has come. When that is nothing it says so by an error after which
// crypto/tls goes on.
func (w *wire) Read(b []byte) (int, error) {
	if w.fd < 0 {
		if len(w.in) == 0 {
			return 0, errNothingYet
		}
		n := copy(b, w.in)
		w.in = w.in[n:]
		return n, nil
	}
	for {
		n, err := unix.Read(w.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (w *wire) Write(b []byte) (int, error) {
	if w.fd < 0 {
		w.out = append(w.out, b...)
		return len(b), nil
	}
	done := 0
	for done < len(b) {
		n, err := unix.Write(w.fd, b[done:])
		if err != nil && err != unix.EINTR {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}

// The rest of a net.Conn, which crypto/tls asks nothing of here.
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// errNothingYet says that more has to come first. crypto/tls keeps what it has when
// an error is temporary.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has come yet" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }
