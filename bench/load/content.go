package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
)

// askForContent makes connections send requests for content, all for the same, or
// with -cold each for its own part of a file, out of the page cache.
func (l *load) askForContent() error {
	size := uint64(l.plan.sizes[0])
	var file *os.File
	if l.plan.cold != "" {
		var err error
		if file, err = os.Open(l.plan.cold); err != nil {
			return err
		}
		if err := mayGoCold(file); err != nil {
			return err
		}
	}
	var requests []byte
	for i := range l.conns {
		c := &l.conns[i]
		r := control.Request{N: size}
		if file != nil {
			r.Offset = size * uint64(i)
		}
		requests = r.AppendTo(requests)
		c.sendPos, c.recvPos = 0, uint32(r.Offset%payload.Period)
		if err := drop(file, r); err != nil {
			return err
		}
	}
	l.out, l.asks = &looped{b: requests, period: control.RequestBytes, stride: control.RequestBytes}, control.RequestBytes
	l.take = func(c *conn, b []byte) error {
		for len(b) > 0 {
			n, before := len(b), c.receives
			if c.inFlight() > 0 {
				n = min(n, c.left)
			}
			if err := l.received(c, b[:n]); err != nil {
				return err
			}
			if b = b[n:]; c.receives != before {
				r := control.ParseRequest(requests[int(c.index)*control.RequestBytes:])
				c.recvPos = uint32(r.Offset % payload.Period)
				if err := drop(file, r); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return nil
}

// drop has the kernel forget what it holds of a part of a file.
func drop(f *os.File, r control.Request) error {
	if f == nil {
		return nil
	}
	if err := unix.Fadvise(int(f.Fd()), int64(r.Offset), int64(r.N), unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop a file from the page cache: %w", err)
	}
	return nil
}

// mayGoCold says whether a file's bytes can be anywhere but in memory.
func mayGoCold(f *os.File) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return fmt.Errorf("file system of %s: %w", f.Name(), err)
	}
	if s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s lies in memory and cannot be cold: choose a directory on a disk with TMPDIR", f.Name())
	}
	return nil
}
