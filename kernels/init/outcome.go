//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// outcome is what a test binary says came of its tests. It is written the binary's
// output, of -test.v=test2json: there a SYN stands before what the testing package
// says itself, so that a test which prints half a line, or a line that looks like
// one of those, does no harm.
type outcome struct {
	copy  io.Writer // gets all of it, without the SYNs
	rest  []byte    // the last line, which is not complete
	tests []*result // in the order in which they began
	by    map[string]*result
	last  *result // what is logged is of this one
}

// result is one test, with subtests and without.
type result struct {
	name   string
	end    string // PASS, FAIL or SKIP; "" until then
	first  string // what it logged first: of a failure, the cause rather than the circumstances
	said   string // what it logged last: of a skip, the reason
	began  bool   // false of a name that is only part of others
	parent bool
}

func newOutcome(copy io.Writer) *outcome {
	return &outcome{copy: copy, by: map[string]*result{}}
}

const syn = '\x16'

func (o *outcome) Write(p []byte) (int, error) {
	if _, err := o.copy.Write(bytes.ReplaceAll(p, []byte{syn}, nil)); err != nil {
		return 0, err
	}
	o.rest = append(o.rest, p...)
	for {
		i := bytes.IndexByte(o.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		o.line(string(o.rest[:i]))
		o.rest = o.rest[i+1:]
	}
}

var (
	began  = regexp.MustCompile(`\x16=== (?:RUN|NAME|CONT) +(.*)$`)
	ended  = regexp.MustCompile(`\x16 *--- (PASS|FAIL|SKIP): (.*) \([0-9.]+s\)$`)
	logged = regexp.MustCompile(`^ +[^ :]+\.go:[0-9]+: (.*)$`)
)

func (o *outcome) line(s string) {
	if m := began.FindStringSubmatch(s); m != nil {
		o.last = o.test(m[1])
		o.last.began = true
	} else if m := ended.FindStringSubmatch(s); m != nil {
		o.test(m[2]).end = m[1]
	} else if m := logged.FindStringSubmatch(s); m != nil && o.last != nil {
		if o.last.said = m[1]; o.last.first == "" {
			o.last.first = m[1]
		}
	}
}

// test finds a test, or begins it.
func (o *outcome) test(name string) *result {
	r := o.by[name]
	if r != nil {
		return r
	}
	r = &result{name: name}
	if name != "" { // "=== NAME" without one is the binary itself
		o.tests = append(o.tests, r)
	}
	o.by[name] = r
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		o.test(name[:i]).parent = true
	}
	return r
}

// write writes the lines of a package. Tests that have subtests do not count
// themselves, unless they fail with none of those.
func (o *outcome) write(w io.Writer, name, ended string, took time.Duration) {
	var passed, failed, skipped int
	var lines strings.Builder
	for _, r := range o.tests {
		switch {
		case r.end == "FAIL" && !o.failsBelow(r):
			failed++
			fmt.Fprintf(&lines, "fail\t%s\t%s\n", r.name, word(r.first))
		case r.end == "" && r.began:
			failed++
			fmt.Fprintf(&lines, "fail\t%s\tdid not end\n", r.name)
		case r.end == "PASS" && !r.parent:
			passed++
		case r.end == "SKIP":
			skipped++
			fmt.Fprintf(&lines, "skip\t%s\t%s\n", r.name, word(r.said))
		}
	}
	fmt.Fprintf(w, "package\t%s\t%s\t%d\t%d\t%d\t%.1f\n%s", name, word(ended), passed, failed, skipped, took.Seconds(), lines.String())
}

func (o *outcome) failsBelow(r *result) bool {
	for _, sub := range o.tests {
		if sub.began && sub.end != "PASS" && sub.end != "SKIP" && strings.HasPrefix(sub.name, r.name+"/") {
			return true
		}
	}
	return false
}

// word is s where a field must not be empty or have tabs.
func word(s string) string {
	if s = strings.Join(strings.Fields(s), " "); s == "" {
		return "?"
	}
	return s
}
