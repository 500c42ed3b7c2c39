//go:build linux

package net

import (
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// Files go out in pieces, each the way that costs least for it; `go run ./bench
// file` lays the ways side by side.
//
//	                      ┌ the peer keeps up, or is on this machine ──► send(2) from
//	in the page cache? ───┤                                              the file's mapping
//	  │ no                └ it lags behind ──► sendfile(2)
//	  │ cannot tell ──► preadv2(2) without waiting ──► send(2) from a buffer
//	  ▼                       │ not there
//	read on the ring ◄────────┘ ──► send(2) from the buffer when it has come
//
// Copying large pieces from the mapping has the highest throughput while the peer
// keeps up, and on loopback takes less time of the processor also where it does not
// (0.99 of sendfile(2)'s for 64 connections, against 1.14 with sendfile in it). Over
// a network device sendfile(2) copies nothing, and there the peer is the limit. Neither
// of the two ever waits for a disk, since mincore(2) said that the pages are there.
//
// Our own code never reads the mapping. The kernel does, and answers EFAULT where
// the file has become shorter; within its last page it would send zeros instead, so
// the size is looked at after each piece, and the end of a transfer never goes this
// way: nobody gets a whole answer with zeros in it.

const (
	// filePiece is the most that goes out of a file with one call. Large calls are
	// what the mapping's throughput comes from: with 2 MiB it is twice that of
	// sendfile(2) on loopback, with 256 KiB 1.3 times. One takes some 400 µs, so
	// beside requests pieces are small: with 32 KiB the p99 of 64 busy connections
	// beside cold files is 1.6 to 1.7 times that without, with 128 KiB 3 times.
	filePiece      = 2 << 20
	filePieceSmall = 32 << 10
	// fileBufBytes is the size of the buffers that files are read into.
	fileBufBytes = 128 << 10
	// busyBeside is from how many connections on that have received within a
	// millisecond there are requests beside the files.
	busyBeside = 4
	// mappedSendMax is up to which size files are sent from their mapping: pages
	// that were sent stay in the process's resident set as long as it is mapped.
	mappedSendMax = 64 << 20
	// tailBytes are at the end of a transfer those that never come from the
	// mapping: at least what shares a page with them.
	tailBytes = 4096
	// fileLag is how many pieces go by sendfile(2) after one that the socket did
	// not take whole.
	fileLag = 8
	// fileRun is how many pieces one file may send before others have their turn.
	fileRun = 8
	// filesMax is how many files may wait on one connection before it is no
	// longer read from, as over Options.HighWater: requests for files are short.
	filesMax, filesLow = 16, 4
)

// transfer is a range of a file on its way. It is the owner of its segment's
// memory. What was read and not sent is the segment's mem: from off on.
type transfer struct {
	file    *File
	off     int64
	end     int64
	lease   bufring.Lease // a chunk: being read into, or holding mem
	lag     int8
	run     int8 // pieces in a row
	spliced bool // the next piece goes by sendfile(2), if it is in the page cache
	reading bool // the kernel reads into the lease
	done    func(error)
}

// FileError is the cause of a connection that a file could not be sent on. The peer
// sees it reset (the stream end early, on a Unix socket).
type FileError struct {
	Name   string
	Offset int64
	Err    error // io.ErrUnexpectedEOF: the file has become shorter
}

// Error implements error.
func (e *FileError) Error() string {
	return fmt.Sprintf("send file %s at %d: %v", e.Name, e.Offset, e.Err)
}

// Unwrap gives the inner error.
func (e *FileError) Unwrap() error { return e.Err }

// SendFile sends n bytes of f from offset off on, after what was written before;
// a negative n: up to the end that the file has now. It returns at once, and never
// waits for a disk on the loop. done, if it is not nil, is called once on the loop's
// goroutine, when the last byte was handed to the kernel (nil) or when that will not
// happen any more; f may be closed before.
//
// A file that cannot be read, or has become shorter than the range, ends the
// connection with a *[FileError]: what was promised to the peer can no longer be
// kept. Bytes of files do not count in Buffered.
//
// An error means that nothing was taken: ErrClosed after Close or CloseWrite, or a
// range that is not in the file.
func (c *Conn) SendFile(f *File, off, n int64, done func(error)) error {
	if err := c.mayWrite(0); err != nil {
		return err
	}
	return c.l.sendFile(c, f, off, n, done)
}

func (l *loop) sendFile(c *Conn, f *File, off, n int64, done func(error)) error {
	if f == nil || !f.use() {
		return fmt.Errorf("ringnet: SendFile: the file is closed: %w", ErrClosed)
	}
	size, errno := l.r.FileBytes(f.fd)
	if n < 0 {
		n = size - off
	}
	if errno != 0 || off < 0 || n < 0 || off > size || n > size-off {
		f.drop()
		if errno != 0 {
			return &FileError{Name: f.name(), Err: errno}
		}
		return fmt.Errorf("ringnet: SendFile: %d bytes from %d on are not in %s, which has %d", n, off, f.name(), size)
	}
	l.mark(c)
	l.stats.Files++
	if n == 0 {
		f.drop()
		if done != nil {
			l.owe(c, done, nil)
		}
		return nil
	}
	if n <= eagerBytes && c.state&layered == 0 && l.sendSmallFile(c, f, off, int(n), done) {
		f.drop()
		return nil
	}
	l.enqueueUnsealed(c, segment{file: &transfer{file: f, off: off, end: off + n, done: done}, unready: true})
	c.rarely().files++
	l.checkHigh(c)
	return nil
}

// sendSmallFile has a small file that is in the page cache go out with what was
// written before it.
func (l *loop) sendSmallFile(c *Conn, f *File, off int64, n int, done func(error)) bool {
	lease := l.copyBuffer(n)
	mem := lease.Bytes()[:min(n, lease.Len())]
	if got, errno := l.r.ReadFile(f.fd, mem, off); errno != 0 || got < n {
		l.put(lease)
		return false
	}
	s := segment{mem: mem, lease: lease.Slice(0, n), copied: done == nil}
	if done != nil {
		s.owner = doneFunc(done)
	}
	l.stats.FileBytesRead += uint64(n)
	l.enqueue(c, s)
	l.checkHigh(c)
	return true
}

// name is for messages.
func (f *File) name() string {
	if f.f == nil {
		return "file"
	}
	return f.f.Name()
}

// sendFileLater has the loop send from the file at the head of c's output in this
// turn's share for files, or a later one's.
func (l *loop) sendFileLater(c *Conn) {
	if !c.rarely().sending {
		c.rare.sending = true
		l.sending = append(l.sending, c)
	}
}

// sendFiles is the share that files have of a turn: about one piece, so that a
// request beside large transfers waits no longer than one takes.
func (l *loop) sendFiles() {
	if len(l.sending)+len(l.chunkless) == 0 {
		return
	}
	l.piece = filePiece
	if max(l.gather.busy, l.gather.count) >= busyBeside {
		l.piece = filePieceSmall
	}
	for budget := l.piece; budget > 0 && len(l.sending) > 0; {
		c := l.sending[0]
		l.sending = append(l.sending[:0], l.sending[1:]...)
		c.rare.sending = false
		l.guard(func() { budget -= l.sendPiece(c) })
	}
	if len(l.chunkless) > 0 && l.chunks.Free() > 0 {
		l.sending, l.chunkless = append(l.sending, l.chunkless...), l.chunkless[:0]
	}
}

// sendPiece sends one piece of the file at the head of c's output, and returns how
// much of the turn that was.
func (l *loop) sendPiece(c *Conn) int {
	s := c.out.head
	if c.state&(dead|full|finished|sendArmed) != 0 || s == nil || s.file == nil || s.file.reading {
		return 0
	}
	t := s.file
	if t.off == t.end {
		l.endTransfer(c)
		return 0
	}
	if c.state&layered != 0 {
		return l.sealPiece(c, s)
	}
	var n, want int
	var errno syscall.Errno
	spliced := false
	t.spliced = t.lag > 0 && (!l.routeOf(c).self || t.end > mappedSendMax)
	if pages := l.pages(s); pages != nil {
		want, spliced = len(pages), t.spliced
		n, errno = l.sendPages(c, t, pages)
	} else {
		if len(s.mem) == 0 && !l.fill(c, s) {
			return filePieceSmall // a read for which the disk is asked takes as long
		}
		want = len(s.mem)
		if n, errno = l.r.Send(int(c.fd), s.mem, t.more(want)); errno == 0 {
			s.mem = s.mem[n:]
		}
	}
	switch {
	case errno == unix.EINTR:
		n = 0
	case errno == unix.EAGAIN:
		n = 0
		t.lag = fileLag
		l.awaitRoom(c)
	case errno == unix.EFAULT || errno == 0 && n == 0:
		l.failFile(c, t, io.ErrUnexpectedEOF)
		return want
	case errno != 0:
		l.fail(c, "write", errno)
		return want
	}
	t.off += int64(n)
	if n > 0 {
		l.outputMoves(c)
	}
	l.stats.BytesSent += uint64(n)
	l.stats.FileBytesSent += uint64(n)
	if n > 0 && n < want {
		t.lag = fileLag
		l.stats.ShortSends++
		if !spliced {
			l.awaitRoom(c)
		}
		// sendfile(2) also stops in its middle, for a signal (and the Go runtime
		// sends many). That leaves no trace in the socket, which would then never
		// tell of room: only EAGAIN says that it is full.
	} else if n > 0 && t.lag > 0 {
		t.lag--
	}
	// While it waits for its peer a transfer keeps what it has read only as long as
	// there are many buffers; else it reads again, so that peers who take their
	// time hold nobody up.
	if c.state&full != 0 && l.chunks.Free() < (l.chunks.Count()+1)/2 {
		s.mem = nil
	}
	if len(s.mem) == 0 {
		l.dropChunk(t)
	}
	if t.off == t.end {
		l.endTransfer(c)
	} else if c.state&full == 0 {
		l.sendFileLater(c)
		if t.run++; t.run < fileRun {
			// Once more, so that its socket fills up: a peer that finds its window
			// full of data does more of the work of moving it.
			copy(l.sending[1:], l.sending[:len(l.sending)-1])
			l.sending[0] = c
		} else {
			t.run = 0
		}
	}
	return n
}

// more says whether the kernel should wait for more to fill a packet with.
func (t *transfer) more(n int) int {
	if t.off+int64(n) < t.end {
		return unix.MSG_MORE
	}
	return 0
}

func (l *loop) dropChunk(t *transfer) {
	if t.lease.Valid() {
		l.chunks.Put(t.lease)
		t.lease = bufring.Lease{}
	}
}

// pages is what of the file's mapping can go out next: it is in the page cache, and
// nothing was read into a buffer already.
func (l *loop) pages(s *segment) []byte {
	t := s.file
	if len(s.mem) > 0 {
		return nil
	}
	all := t.file.mapping()
	end := min(t.end, t.off+int64(l.piece), int64(len(all)))
	if !t.spliced {
		if t.end > mappedSendMax {
			return nil
		}
		end = min(end, t.end-tailBytes)
	}
	if end <= t.off {
		return nil
	}
	if b := all[t.off:end]; l.r.Resident(b) {
		return b
	}
	return nil
}

// sendPages sends resident pages.
func (l *loop) sendPages(c *Conn, t *transfer, pages []byte) (int, syscall.Errno) {
	if t.spliced {
		n, errno := l.r.SendFile(int(c.fd), t.file.fd, t.off, len(pages))
		if errno == 0 && n < len(pages) && l.shrunk(t, len(pages)) {
			return 0, unix.EFAULT // short because of that, and not for want of room
		}
		return n, errno
	}
	n, errno := l.r.Send(int(c.fd), pages, unix.MSG_MORE)
	if errno != 0 {
		return n, errno
	}
	l.stats.FileBytesMapped += uint64(n)
	if l.shrunk(t, len(pages)) {
		return 0, unix.EFAULT // some of what was sent may have been zeros
	}
	return n, 0
}

// shrunk reports that the file no longer has the next n bytes.
func (l *loop) shrunk(t *transfer, n int) bool {
	size, errno := l.r.FileBytes(t.file.fd)
	return errno != 0 || size < t.off+int64(n)
}

// fill has the next piece in the segment's mem. It reports false when that is not
// so, and somebody will come back to c or has ended it.
func (l *loop) fill(c *Conn, s *segment) bool {
	t := s.file
	if !t.lease.Valid() {
		lease, err := l.chunks.Lease()
		if err != nil {
			c.rarely().sending = true
			l.chunkless = append(l.chunkless, c)
			return false
		}
		t.lease = lease
	}
	b := t.lease.Bytes()
	b = b[:min(int64(len(b)), int64(l.piece), t.end-t.off)]
	switch n, errno := l.r.ReadFile(t.file.fd, b, t.off); {
	case errno == 0 && n > 0:
		s.mem = b[:n]
		l.stats.FileBytesRead += uint64(n)
		return true
	case errno == 0:
		l.failFile(c, t, io.ErrUnexpectedEOF)
		return false
	}
	// It waits for a disk, or the file system cannot tell: the ring does that. It is
	// not asked for more than there is: what comes short of its buffer is read on by
	// a worker thread of the kernel, which finds the end of the file.
	size, errno := l.r.FileBytes(t.file.fd)
	if errno != 0 || size <= t.off {
		l.failFile(c, t, io.ErrUnexpectedEOF)
		return false
	}
	b = b[:min(int64(len(b)), size-t.off)]
	e := l.entry()
	if e == nil {
		l.dropChunk(t)
		l.sendFileLater(c)
		return false
	}
	e.PrepareRead(t.file.fd, b, t.off)
	e.SetUserData(userData(kindRead, c.gen, c.slot))
	t.reading = true
	c.rarely().pinned++
	l.inFlight++
	l.stats.ColdReads++
	return false
}

// onRead takes the completion of a read.
func (l *loop) onRead(c *Conn, cqe *ring.Completion) {
	l.inFlight--
	c.rare.pinned--
	s := c.out.head
	for s.file == nil {
		s = s.next // the session has had something to say meanwhile
	}
	t := s.file
	t.reading = false
	switch errno := syscall.Errno(max(0, -cqe.Res)); {
	case c.state&dead != 0:
	case cqe.Res > 0:
		s.mem = t.lease.Bytes()[:cqe.Res]
		l.stats.FileBytesRead += uint64(cqe.Res)
	case cqe.Res == 0:
		l.failFile(c, t, io.ErrUnexpectedEOF)
	case errno == unix.EINTR || errno == unix.EAGAIN || errno == unix.ECANCELED:
	default:
		l.failFile(c, t, errno)
	}
	if c.stream != nil {
		c.stream.outputMoved()
	}
	l.settle(c)
}

func (l *loop) failFile(c *Conn, t *transfer, err error) {
	l.stats.FileErrors++
	// A reset, and not the end of the stream, which the peer might take for that of
	// what it was sent. A Unix socket knows none: its peer sees the end.
	_ = l.r.Disconnect(int(c.fd))
	l.abort(c, &FileError{Name: t.file.name(), Offset: t.off, Err: err})
}

// endTransfer takes a file that has gone out off the queue.
func (l *loop) endTransfer(c *Conn) {
	l.dequeue(c, nil)
	l.checkLow(c)
	l.mark(c)
}

// released implements owner.
func (t *transfer) released(l *loop, c *Conn, err error) {
	l.dropChunk(t)
	t.file.drop()
	c.rare.files--
	if t.done != nil {
		l.owe(c, t.done, err)
	}
}
