package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress is one line on standard error that says what goes on. On a terminal it
// is overwritten, elsewhere every message is a line of its own.
type progress struct {
	terminal bool
	total    int
	done     int
	each     time.Duration // what a step is thought to take before one is done
	began    time.Time
}

func newProgress() *progress {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return &progress{terminal: err == nil}
}

// steps says that the measuring begins, in total steps, each of which takes about so
// long; 0: nobody knows.
func (p *progress) steps(total int, each time.Duration) {
	p.total, p.each, p.began = total, each, time.Now()
}

// say shows what is being done now.
func (p *progress) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if p.total > 0 {
		s = fmt.Sprintf("[%d/%d%s] %s", p.done+1, p.total, p.remaining(), s)
	}
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", s)
	} else {
		fmt.Fprintln(os.Stderr, s)
	}
}

// step says that one of the steps is done.
func (p *progress) step() { p.done++ }

func (p *progress) remaining() string {
	each := p.each
	if p.done > 0 {
		each = time.Since(p.began) / time.Duration(p.done)
	}
	if each == 0 {
		return ""
	}
	left := each * time.Duration(p.total-p.done)
	return fmt.Sprintf(", %v left", left.Round(time.Second))
}

// clear takes the line away.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
