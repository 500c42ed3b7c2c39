package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/files"
)

// fileSet is the files that are asked for: n of one size.
type fileSet struct {
	size, n int
	cold    string // where they are, if they are to be cold
}

// fileSet is that of the plan.
func (p *plan) fileSet() (*fileSet, error) {
	s := &fileSet{size: p.sizes[0], n: p.files, cold: p.cold}
	if s.cold == "" {
		return s, nil
	}
	f, err := os.Open(s.path(0))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return s, mayGoCold(f)
}

func (s *fileSet) path(i int) string { return filepath.Join(s.cold, files.Name(s.size, i)) }

// drop has the kernel forget the i-th file, if it is to be cold. There may be more files
// than a process may have open, so none stays so.
func (s *fileSet) drop(i int) error {
	if s.cold == "" {
		return nil
	}
	f, err := os.Open(s.path(i))
	if err != nil {
		return err
	}
	defer f.Close()
	return drop(f, control.Request{N: uint64(s.size)})
}

// request asks for the i-th file, as wrk does. All are equally long.
func (s *fileSet) request(addr address, i int) []byte {
	return fmt.Appendf(nil, "GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n", files.Name(s.size, i), addr)
}

// askForFiles makes connections ask for files by HTTP, each for its own, one after the
// other, as far as there are so many. It checks every answer: its head, and every byte of
// its body.
func (l *load) askForFiles() error {
	set, err := l.plan.fileSet()
	if err != nil {
		return err
	}
	conns := len(l.conns)
	each := max(1, set.n/conns)
	// file is the one that a connection asks for n-th.
	file := func(c *conn, n uint32) int { return (int(c.index) + int(n)%each*conns) % set.n }
	var requests []byte
	for i := range l.conns {
		c := &l.conns[i]
		for n := range each {
			requests = append(requests, set.request(l.plan.addr, file(c, uint32(n)))...)
		}
		c.sendPos, c.recvPos = 0, uint32(files.Start(file(c, 0)))
		for n := range l.plan.pipeline {
			if err := set.drop(file(c, uint32(n))); err != nil {
				return err
			}
		}
	}
	own := len(requests) / conns
	l.out, l.asks = &looped{b: requests, period: uint32(own), stride: own}, own/each
	heads := make([]head, conns)
	l.take = func(c *conn, b []byte) error {
		h := &heads[c.index]
		for len(b) > 0 {
			if !h.whole {
				n, err := h.take(b)
				if err == nil && h.whole {
					err = h.check(set.size)
				}
				if err != nil {
					return &payloadError{fmt.Errorf("connection %d, answer %d: %w", c.index, c.receives, err)}
				}
				b = b[n:]
				continue
			}
			n, before := len(b), c.receives
			if c.inFlight() > 0 {
				n = min(n, c.left)
			}
			if err := l.received(c, b[:n]); err != nil {
				return err
			}
			if b = b[n:]; c.receives != before {
				h.reset()
				c.recvPos = uint32(files.Start(file(c, c.receives)))
				// What that has begun has not been sent yet.
				if err := set.drop(file(c, c.sends-1)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return nil
}

// head is the head of an answer, as far as it has come.
type head struct {
	b     []byte
	whole bool
}

// headMax is how long a head may be.
const headMax = 8 << 10

var headEnd = []byte("\r\n\r\n")

// take adds what belongs to the head, and returns how many bytes that is.
func (h *head) take(b []byte) (int, error) {
	before := len(h.b)
	h.b = append(h.b, b[:min(len(b), headMax+len(headEnd)-before)]...)
	end := bytes.Index(h.b[max(0, before-len(headEnd)):], headEnd)
	switch {
	case end >= 0:
		h.whole = true
		h.b = h.b[:max(0, before-len(headEnd))+end+len(headEnd)]
	case len(h.b) > headMax:
		return 0, fmt.Errorf("its head is longer than %d bytes: %.100q", headMax, h.b)
	}
	return len(h.b) - before, nil
}

// reset is for the next answer.
func (h *head) reset() { h.b, h.whole = h.b[:0], false }

// check wants a status of 200 and a body of size bytes.
func (h *head) check(size int) error {
	status, rest, _ := bytes.Cut(h.b, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("its status is %.100q", status)
	}
	found := false
	for line := range bytes.Lines(rest) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !bytes.EqualFold(name, []byte("Content-Length")) {
			continue
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err != nil || n != size || found {
			return fmt.Errorf("its Content-Length is %q, the file has %d bytes", bytes.TrimSpace(value), size)
		}
		found = true
	}
	if !found {
		return errors.New("it has no Content-Length")
	}
	return nil
}

// How much is asked for in a visit: there may be many files, and large ones.
const (
	visitBytes = 128 << 20
	visitMost  = 1024
)

// visit asks for every file, or for some of many, on connections of its own, as many as
// the plan has, one answer after the other and for at least so long. It compares every
// byte.
func (s *fileSet) visit(p plan, least time.Duration) (v visited, err error) {
	turns := max(1, min(max(p.conns, s.n), visitBytes/s.size, visitMost))
	pattern, err := newPattern()
	if err != nil {
		return v, err
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for i := range min(p.conns, turns) {
		fd, err := connect(p.addr, i)
		if err != nil {
			return v, err
		}
		fds = append(fds, fd)
		patience := unix.NsecToTimeval(int64(quietTime))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
			return v, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	buf := make([]byte, maxChunk)
	until := time.Now().Add(least)
	for turn := 0; turn < turns || time.Now().Before(until); turn++ {
		c, i := turn%len(fds), turn%turns*s.n/turns
		if _, err := unix.Write(fds[c], s.request(p.addr, i)); err != nil {
			return v, fmt.Errorf("connection %d: send: %w", c, err)
		}
		bytes, err := s.answer(fds[c], i, pattern, buf)
		if err != nil {
			return v, fmt.Errorf("connection %d, file %s: %w", c, files.Name(s.size, i), err)
		}
		v.add(visited{verified: uint64(bytes), least: bytes, most: bytes})
	}
	return v, nil
}

// answer receives the i-th file, and returns how long the answer is, with its head.
func (s *fileSet) answer(fd, i int, p pattern, buf []byte) (int, error) {
	var h head
	left, pos := s.size, uint32(files.Start(i))
	for !h.whole || left > 0 {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, fmt.Errorf("%w: nothing came for %v", errQuiet, quietTime)
		case err != nil:
			return 0, fmt.Errorf("receive: %w", err)
		case n == 0:
			return 0, errors.New("the server closed the connection before it had answered")
		}
		b := buf[:n]
		if !h.whole {
			n, err := h.take(b)
			if err == nil && h.whole {
				err = h.check(s.size)
			}
			if err != nil {
				return 0, &payloadError{err}
			}
			b = b[n:]
		}
		if len(b) > left {
			return 0, &payloadError{fmt.Errorf("%d bytes too many", len(b)-left)}
		}
		if err := p.mismatch(pos, b); err != nil {
			return 0, &payloadError{err}
		}
		pos = p.advance(pos, len(b))
		left -= len(b)
	}
	return len(h.b) + s.size, nil
}

// script makes wrk ask for one file after the other, and drop each before, if they
// are to be cold. It needs none for a single warm one.
func (s *fileSet) script() string {
	if s.n == 1 && s.cold == "" {
		return ""
	}
	return strings.NewReplacer("COUNT", strconv.Itoa(s.n), "SIZE", strconv.Itoa(s.size), "DIRECTORY", luaString(s.cold)).Replace(filesScript)
}

// luaString quotes a string for Lua.
func luaString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// filesScript calls the system by LuaJIT's ffi. 4 is POSIX_FADV_DONTNEED; descriptors
// are not kept, there may be more files than a process may have open.
const filesScript = `
local ffi = require("ffi")
ffi.cdef[[
int open(const char *path, int flags, ...);
int close(int fd);
int posix_fadvise(int fd, int64_t offset, int64_t bytes, int advice);
]]
local directory, requests, paths, turn = DIRECTORY, {}, {}, 0
init = function(args)
   for i = 0, COUNT - 1 do
      local name = string.format("SIZE-%05d.jpg", i)
      requests[i] = wrk.format("GET", "/" .. name)
      paths[i] = directory .. "/" .. name
   end
end
request = function()
   local i = turn
   turn = (turn + 1) % COUNT
   if directory ~= "" then
      local fd = ffi.C.open(paths[i], 0)
      if fd < 0 or ffi.C.posix_fadvise(fd, 0, 0, 4) ~= 0 then
         error("drop " .. paths[i] .. " from the page cache")
      end
      ffi.C.close(fd)
   end
   return requests[i]
end
`
