package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/ringnet/bench/internal/control"
)

// process is a program that was started, a server or the load generator, and the
// lines that go between it and us.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string // of its standard output; closed at the end of it
	errors tail        // of its standard error
	ended  chan struct{}
	err    error // how it ended; valid once ended is closed

	foreign bool  // it does not know package control
	pids    []int // of it and its children, once they are known
}

// launch starts a program on a core.
func launch(core int, path string, args ...string) (*process, error) {
	p := newProcess(path, args)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	// A pipe of our own: Wait would close one of exec's while lines are in it.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = w
	err = start(p.cmd, core)
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go func() {
		defer r.Close()
		defer close(p.lines)
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.lines <- s.Text()
		}
	}()
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func newProcess(path string, args []string) *process {
	p := &process{cmd: exec.Command(path, args...), lines: make(chan string, 64), ended: make(chan struct{})}
	p.cmd.Stderr = &p.errors
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// line waits for the next line of output.
func (p *process) line(timeout time.Duration) (string, error) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case s, ok := <-p.lines:
		if !ok {
			<-p.ended
			return "", p.failure()
		}
		return s, nil
	case <-t.C:
		return "", fmt.Errorf("no answer for %v%s", timeout, p.errors.suffix())
	}
}

// failure says how the process ended and what it complained of.
func (p *process) failure() error {
	err := p.err
	if err == nil {
		err = errors.New("it ended too early")
	}
	return fmt.Errorf("%w%s", err, p.errors.suffix())
}

// ask sends a word and returns the answer, one line of JSON.
func (p *process) ask(word string) (json.RawMessage, error) {
	if p.foreign {
		return json.RawMessage("{}"), nil
	}
	if _, err := io.WriteString(p.in, word+"\n"); err != nil {
		return nil, fmt.Errorf("ask for %s: %w%s", word, err, p.errors.suffix())
	}
	s, err := p.line(10 * time.Second)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", word, err)
	}
	if !json.Valid([]byte(s)) {
		return nil, fmt.Errorf("ask for %s: the answer is not JSON: %q", word, s)
	}
	return json.RawMessage(s), nil
}

// stop ends the process: by the end of its input, then SIGTERM, then SIGKILL.
func (p *process) stop() {
	if p.foreign {
		p.stopForeign()
		return
	}
	_ = p.in.Close()
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Kill} {
		select {
		case <-p.ended:
			return
		case <-time.After(2 * time.Second):
			_ = p.cmd.Process.Signal(signal)
		}
	}
	<-p.ended
}

// exitStatus is that of an ended process, -1 if a signal ended it.
func (p *process) exitStatus() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// startServer starts a server and waits until it listens. It returns the addresses
// that the server tells: one, or two where it serves content as well.
func startServer(core int, path string, args ...string) (p *process, addrs []string, err error) {
	if p, err = launch(core, path, args...); err != nil {
		return nil, nil, err
	}
	s, err := p.line(10 * time.Second)
	if err != nil {
		p.stop()
		return nil, nil, fmt.Errorf("start: %w", err)
	}
	words := strings.Fields(s)
	if len(words) < 2 || words[0] != control.Ready {
		p.stop()
		return nil, nil, fmt.Errorf("start: it says %q and not its address", s)
	}
	return p, words[1:], nil
}

// tail keeps the last kilobytes of what is written to it. Safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4096

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if extra := len(t.b) - tailBytes; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(b), nil
}

// suffix is what was written, to be appended to an error.
func (t *tail) suffix() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := bytes.TrimSpace(t.b)
	if len(b) == 0 {
		return ""
	}
	return ": " + string(b)
}
