//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// accessLog writes a line for each request, in the combined format of other servers and
// with the time that the answer took, in seconds, behind it. A goroutine of its own
// writes, so that no loop waits for the disk; when that cannot keep up, lines are lost
// and counted. Safe for concurrent use.
type accessLog struct {
	out  *os.File
	wake chan struct{} // there is something to write, of which the writer may not know
	done chan struct{} // the writer has ended

	mu      sync.Mutex
	lines   []byte
	date    []byte // of the second that dateAt is
	dateAt  int64
	dropped int64
	err     error // of the last write
}

// logMax bounds what waits to be written.
const logMax = 8 << 20

func openLog(name string) (*accessLog, error) {
	l := &accessLog{out: os.Stdout, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if name != "-" {
		var err error
		if l.out, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err != nil {
			return nil, fmt.Errorf("-access-log: %w", err)
		}
	}
	go l.write()
	return l, nil
}

// add takes the line of c's request.
func (l *accessLog) add(c *conn, took time.Duration) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) > logMax {
		l.dropped++
		return
	}
	if at := now.Unix(); at != l.dateAt || l.date == nil {
		l.dateAt, l.date = at, now.AppendFormat(l.date[:0], "02/Jan/2006:15:04:05 -0700")
	}
	first := len(l.lines) == 0
	h := &c.r.h
	b := append(append(l.lines, c.peer...), " - - ["...)
	b = append(append(b, l.date...), "] \""...)
	b = append(escape(b, h.Method()), ' ')
	b = append(escape(b, h.RequestURI()), ' ')
	b = append(escape(b, h.Protocol()), "\" "...)
	b = append(strconv.AppendInt(b, int64(c.status), 10), ' ')
	b = append(strconv.AppendInt(b, c.sent, 10), " \""...)
	b = append(escapeOr(b, h.Referer()), "\" \""...)
	b = append(escapeOr(b, h.UserAgent()), "\" "...)
	l.lines = append(strconv.AppendFloat(b, took.Seconds(), 'f', 6, 64), '\n')
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// escape appends what a client has sent: nothing of it can end a line, or a string in it.
func escape(b, text []byte) []byte {
	const digits = "0123456789abcdef"
	for _, x := range text {
		if x < ' ' || x >= 0x7f || x == '"' || x == '\\' {
			b = append(b, '\\', 'x', digits[x>>4], digits[x&15])
		} else {
			b = append(b, x)
		}
	}
	return b
}

func escapeOr(b, text []byte) []byte {
	if len(text) == 0 {
		return append(b, '-')
	}
	return escape(b, text)
}

// write is the writer. What comes while it writes goes out with one write.
func (l *accessLog) write() {
	defer close(l.done)
	var spare []byte
	for range l.wake {
		for {
			l.mu.Lock()
			lines := l.lines
			l.lines = spare[:0]
			l.mu.Unlock()
			if spare = lines; len(lines) == 0 {
				break
			}
			if _, err := l.out.Write(lines); err != nil {
				l.mu.Lock()
				l.err = err
				l.mu.Unlock()
			}
		}
	}
}

// close writes what is left. Nobody may add to the log any more.
func (l *accessLog) close() {
	if l == nil {
		return
	}
	close(l.wake)
	<-l.done
	if l.err != nil {
		fmt.Fprintln(os.Stderr, "fileserve: -access-log:", l.err)
	}
	if l.out != os.Stdout {
		_ = l.out.Close()
	}
}

func (l *accessLog) lost() int64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}
