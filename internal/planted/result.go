//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// result is what came out of a run of tests.
type result struct {
	failed  string // the first test that failed, and how if not by an assertion
	ran     int    // tests that passed, without subtests
	skipped []string
	output  string
	err     error
}

// sound says why this is not the result that a tree without a bug should give.
func (r result) sound() error {
	switch {
	case r.failed != "":
		return fmt.Errorf("%s fails", r.failed)
	case r.err != nil:
		return r.err
	case len(r.skipped) > 0:
		return fmt.Errorf("%s is skipped here, and would catch nothing", strings.Join(r.skipped, ", "))
	case r.ran == 0:
		return errors.New("there is no such test")
	}
	return nil
}

// caught says why this does not show that a test caught a bug.
func (r result) caught() error {
	switch {
	case r.failed != "":
		return nil
	case r.err != nil:
		return fmt.Errorf("the tests ended with no test's failure: %w", r.err)
	}
	return errors.New("NOT CAUGHT: the tests pass")
}

var (
	verdictLine = regexp.MustCompile(`^(\s*)--- (PASS|FAIL|SKIP): (\S+)`)
	runLine     = regexp.MustCompile(`^=== (?:RUN|NAME|CONT)\s+(\S+)`)
	crashLine   = regexp.MustCompile(`^(?:panic|fatal error|SIG[A-Z]+): (.*)`)
)

// watcher reads what tests print while they run, and ends them when one has failed:
// with a bug in the tree, the rest is not of interest.
type watcher struct {
	result
	output  bytes.Buffer
	line    []byte // not complete
	current string // the test that runs
	kill    func() error
}

// frame stands before the lines of package testing (test2json).
const frame = 0x16

// maxOutput is how much is kept of what tests print.
const maxOutput = 1 << 16

func (w *watcher) Write(p []byte) (int, error) {
	n := len(p)
	p = bytes.ReplaceAll(p, []byte{frame}, nil)
	w.output.Write(p[:min(len(p), max(0, maxOutput-w.output.Len()))])
	w.line = append(w.line, p...)
	for {
		line, rest, ok := bytes.Cut(w.line, []byte("\n"))
		if !ok {
			return n, nil
		}
		w.read(string(line))
		w.line = rest
	}
}

func (w *watcher) read(line string) {
	if w.failed != "" {
		return
	}
	if m := runLine.FindStringSubmatch(line); m != nil {
		w.current = m[1]
	} else if m := verdictLine.FindStringSubmatch(line); m != nil {
		switch {
		case m[2] == "FAIL":
			w.failed = m[3]
			_ = w.kill()
		case m[1] != "": // a subtest
		case m[2] == "PASS":
			w.ran++
		default:
			w.skipped = append(w.skipped, m[3])
		}
	} else if m := crashLine.FindStringSubmatch(line); m != nil && w.current != "" {
		how := "panic"
		if strings.HasPrefix(m[1], "test timed out") {
			how = "timeout"
		}
		w.failed = fmt.Sprintf("%s (%s)", w.current, how) // and ends by itself
	}
}
