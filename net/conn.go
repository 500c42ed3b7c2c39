//go:build linux

package net

import (
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

// Conn is one connection. It belongs to its loop: its methods may be called only
// from callbacks of that loop. After OnClose they do nothing and answer ErrClosed.
type Conn struct {
	// What every request needs, in one line of the cache: with a thousand busy
	// connections each further line is a miss.
	l         *loop
	fd        int32
	slot      uint32
	gen       uint32
	state     state
	out       outQueue
	held      int32 // receive buffers of the group that are leased on its account
	cancels   uint8 // cancel entries in flight
	bulkScore uint8 // how much it looks like bulk, see bulk.go
	runs      uint8 // bulk: small direct receives in a row; else: sends, see makeDirect
	epoch     uint8 // when it last received, see gatherer

	// And what most do not.
	h        *handlers // whose connection it is
	stream   *Stream   // for blocking code; nil: it has none
	unsure   bool      // its armed receive may not tell of an end behind bytes, see untold
	accepted bool      // came by a listener, and so counts for Options.MaxConns
	timing   *timing   // nil: it has no timers and no timeouts
	rare     *rare     // nil: it has nothing of that
	context  any
	cause    error // why it is closing; the first cause stays
	remote   Addr
}

// rare is what few connections have.
type rare struct {
	anchor  *anchor  // of its Refs; nil if there are none
	kept    []byte   // received and not consumed; hasKept says that there is some
	route   *route   // what zero copy is worth to its peer; nil: not known
	pinned  uint32   // reads of files, and zero-copy sends whose memory is not free yet
	notices uint32   // the latter
	files   uint32   // transfers that wait
	cutOff  bool     // what is not acknowledged is dropped
	parting *parting // it is being handed over to std
	sending bool     // on one of the loop's lists of those with a file to send
	layer   *layer   // of a layered connection
}

var nothingRare rare

// seldom is c's rare part, to look at.
func (c *Conn) seldom() *rare {
	if c.rare == nil {
		return &nothingRare
	}
	return c.rare
}

// rarely is c's rare part, to change.
func (c *Conn) rarely() *rare {
	if c.rare == nil {
		c.rare = new(rare)
	}
	return c.rare
}

// state is a set of facts about a connection.
type state uint32

const (
	// Operations in flight. A connection ends when none is left.
	recvArmed state = 1 << iota
	pollArmed
	sendArmed
	roomArmed

	// What the peer or the handler asked for.
	sawEOF       // the peer has ended its direction
	closing      // Close: no reading, send what is left, then end
	dead         // end now: what is left unsent is dropped
	writeEnding  // CloseWrite: end our direction when what is left is sent
	writeEnded   // it is ended
	paused       // PauseRead
	overHigh     // output above the high-water mark: no reading
	overShare    // holds too many receive buffers: no reading
	bulk         // receives directly, into large buffers
	wantBulk     // will do so when its multishot receive has ended
	wantSmall    // the other way round
	readable     // bulk: bytes may wait in the socket
	hungUp       // bulk: poll saw the end of the stream
	full         // the socket takes nothing more until the room poll says so
	eofPending   // the peer has ended its direction behind bytes that are withheld
	cancelling   // its receive or poll is being cancelled
	leaving      // its room poll is being cancelled
	shut         // shutdown(2) of both directions is done
	finished     // OnClose is being called or has been
	isDirty      // on the loop's list of connections to settle
	isStarved    // on the loop's list of those that wait for a receive buffer
	isReady      // on the loop's list of those to receive from directly
	isCapped     // on the loop's list of those over their share
	hasKept      // bytes are kept
	direct       // its socket is in the ring's table, see makeDirect
	offerPending // kept bytes must be offered although nothing new came
	layered      // a session stands between its socket and its handler, see layer
	timed        // it has a timeout or a deadline: what moves is noted in timing
)

const (
	inFlight  = recvArmed | pollArmed | sendArmed | roomArmed
	noReading = sawEOF | closing | dead | paused | overHigh | overShare
)

// Context is what SetContext stored.
func (c *Conn) Context() any { return c.context }

// SetContext stores what the handler wants to know about this connection.
func (c *Conn) SetContext(v any) { c.context = v }

// Write takes a copy of b and sends it after what was written before. It takes
// all of b or, with an error, nothing: ErrClosed after Close or CloseWrite,
// ErrBacklog over Options.MaxBuffered. What one callback writes goes out together.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.mayHold(len(b)); err != nil {
		return 0, err
	}
	if len(b) > 0 {
		c.l.write(c, b)
	}
	return len(b), nil
}

// Send sends a lease's bytes after what was written before, without a copy, and
// then releases it. It owns the lease, also when it returns an error (those of
// Write).
func (c *Conn) Send(lease bufring.Lease) error {
	if err := c.mayHold(lease.Len()); err != nil {
		lease.Release()
		return err
	}
	c.l.send(c, lease)
	return nil
}

func (c *Conn) mayWrite(n int) error {
	if c.state&(closing|dead|writeEnding|writeEnded|finished) != 0 {
		return ErrClosed
	}
	if waiting := c.out.bytes; waiting > 0 && waiting+n > c.l.o.MaxBuffered {
		return ErrBacklog
	}
	return nil
}

// mayHold is mayWrite for what then counts as held by the loop. A piece that is too
// large by itself is let through while there is nothing else.
func (c *Conn) mayHold(n int) error {
	if err := c.mayWrite(n); err != nil {
		return err
	}
	if held := c.l.held; held > 0 && held+n > c.l.o.MaxLoopBytes {
		return ErrBacklog
	}
	return nil
}

// Buffered is the number of bytes written and not yet taken by the kernel.
func (c *Conn) Buffered() int { return c.out.bytes }

// Detach takes the bytes that OnData was lent along, as a lease: to keep, to hand
// to another goroutine, or to Send. All of them count as consumed, whatever OnData
// returns. ErrNoData outside OnData, or when called twice.
//
// A leased buffer is missing to all connections of the loop until it is released;
// one that holds many is not read from until some are back.
func (c *Conn) Detach() (bufring.Lease, error) { return c.l.detach(c) }

// Close ends the connection once what was written has gone out. Nothing more is
// read from it, and OnClose follows.
func (c *Conn) Close() { c.l.close(c, nil) }

// Abort ends the connection at once, dropping what has not gone out. err becomes
// the cause that OnClose is told.
func (c *Conn) Abort(err error) { c.l.abort(c, err) }

// CloseWrite ends our direction once what was written has gone out: the peer sees
// the end of the stream and may go on sending. ErrClosed if it is ended already.
func (c *Conn) CloseWrite() error {
	if c.state&(closing|dead|writeEnding|writeEnded|finished) != 0 {
		return ErrClosed
	}
	c.state |= writeEnding
	if c.state&layered != 0 {
		c.l.sayEnd(c)
	}
	c.l.mark(c)
	return nil
}

// PauseRead stops reading, which makes the peer wait. Bytes that the kernel had
// handed over already are kept for ResumeRead.
func (c *Conn) PauseRead() {
	c.state |= paused
	c.l.mark(c)
}

// ResumeRead undoes PauseRead. Bytes that were left unconsumed or came meanwhile
// are offered again, without waiting for more, unless the stream has ended; called
// within OnData, those that OnData is looking at are not.
func (c *Conn) ResumeRead() {
	if c.state&paused != 0 {
		c.state &^= paused
		if c.state&(hasKept|layered) != 0 && c.state&sawEOF == 0 && c.l.offering != c {
			c.state |= offerPending
		}
		c.l.readWanted(c)
		c.l.mark(c)
	}
}

// LocalAddr is our address. It asks the kernel each time; the zero Addr after
// OnClose.
func (c *Conn) LocalAddr() Addr {
	if c.state&finished != 0 && c.l.finishing != c {
		return Addr{}
	}
	if c.remote.isUnix() {
		path, err := c.l.r.LocalPath(int(c.fd))
		if err != nil {
			return Addr{}
		}
		return UnixAddr(path)
	}
	addr, err := c.l.r.LocalAddr(int(c.fd))
	if err != nil {
		return Addr{}
	}
	return TCPAddr(addr)
}

// RemoteAddr is the peer's address, also after the connection has ended. It is the
// zero Addr if the peer had gone before we could ask.
func (c *Conn) RemoteAddr() Addr { return c.remote }

// Loop is the number of the loop that the connection lives on.
func (c *Conn) Loop() int { return c.l.index }

// SetNoDelay turns Nagle's algorithm off (the default) or on. Only on TCP; on Unix
// sockets this and the other options of TCP answer an error that matches
// errors.ErrUnsupported.
func (c *Conn) SetNoDelay(on bool) error {
	if err := c.checkTCP("TCP_NODELAY"); err != nil {
		return err
	}
	return c.SetOption(unix.IPPROTO_TCP, unix.TCP_NODELAY, boolint(on))
}

// SetKeepAlive makes the kernel probe a silent peer: after idle, then each
// interval, and after count unanswered probes the connection is reset. Zero values
// leave the kernel's setting; idle and interval are rounded up to seconds. A
// negative idle turns keep-alive off. Only on TCP.
func (c *Conn) SetKeepAlive(idle, interval time.Duration, count int) error {
	if err := c.checkTCP("SO_KEEPALIVE"); err != nil {
		return err
	}
	return setKeepAlive(c.SetOption, idle, interval, count)
}

// setKeepAlive is SetKeepAlive for any socket, given how to set its options.
func setKeepAlive(set func(level, name, value int) error, idle, interval time.Duration, count int) error {
	if err := set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, boolint(idle >= 0)); err != nil || idle < 0 {
		return err
	}
	for _, opt := range []struct{ name, value int }{
		{unix.TCP_KEEPIDLE, wholeSeconds(idle)},
		{unix.TCP_KEEPINTVL, wholeSeconds(interval)},
		{unix.TCP_KEEPCNT, count},
	} {
		if opt.value <= 0 {
			continue
		}
		if err := set(unix.IPPROTO_TCP, opt.name, opt.value); err != nil {
			return err
		}
	}
	return nil
}

// SetReadBuffer sets the size of the kernel's receive buffer, in bytes.
func (c *Conn) SetReadBuffer(bytes int) error {
	return c.SetOption(unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// SetWriteBuffer sets the size of the kernel's send buffer, in bytes.
func (c *Conn) SetWriteBuffer(bytes int) error {
	return c.SetOption(unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}

// SetLinger says what the kernel does on close with bytes that the peer has not
// acknowledged: 0 drops them and resets the connection, a negative value (the
// default) goes on sending in the background. Only on TCP.
func (c *Conn) SetLinger(seconds int) error {
	if err := c.checkTCP("SO_LINGER"); err != nil {
		return err
	}
	return c.l.r.SetLinger(int(c.fd), seconds)
}

// SetOption sets an integer socket option; see socket(7), ip(7), tcp(7), unix(7).
func (c *Conn) SetOption(level, name, value int) error {
	if c.state&finished != 0 {
		return ErrClosed
	}
	return c.l.r.SetInt(int(c.fd), level, name, value)
}

// Option reads an integer socket option.
func (c *Conn) Option(level, name int) (int, error) {
	if c.state&finished != 0 {
		return 0, ErrClosed
	}
	return c.l.r.GetInt(int(c.fd), level, name)
}

func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func boolint(b bool) int {
	if b {
		return 1
	}
	return 0
}
