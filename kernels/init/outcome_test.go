//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestOutcomeCountsWhatHasNoSubtests(t *testing.T) {
	const said = "" +
		"\x16=== RUN   TestA\n" +
		"\x16=== RUN   TestA/one\n" +
		"    a_test.go:7: said before\n" +
		"    a_test.go:8: this kernel has no \ttoken\n" +
		"\x16=== RUN   TestA/two\n" +
		"half a line\x16--- PASS: TestA (1.25s)\n" +
		"\x16    --- SKIP: TestA/one (0.00s)\n" +
		"\x16    --- PASS: TestA/two (0.00s)\n" +
		"\x16=== RUN   TestB\n" +
		"--- FAIL: TestC (0.00s)\n" + // printed by the test
		"\x16=== RUN   TestB/sub\n" +
		"\x16=== NAME  TestB\n" +
		"    b_test.go:9: wrong\n" +
		"    b_test.go:9: stats: {...}\n" +
		"\x16--- FAIL: TestB (0.00s)\n" +
		"\x16    --- PASS: TestB/sub (0.00s)\n" +
		"\x16=== NAME  \n" +
		"\x16=== RUN   TestD\n" +
		"\x16=== RUN   TestD/sub\n" +
		"\x16=== NAME  TestD/sub\n" +
		"    d_test.go:1: bad\n" +
		"\x16--- FAIL: TestD (0.00s)\n" +
		"\x16    --- FAIL: TestD/sub (0.00s)\n" +
		"\x16=== RUN   TestD/no/test\n" +
		"\x16    --- PASS: TestD/no/test (0.00s)\n" +
		"\x16=== RUN   TestE\n" +
		"panic: on the way\n"
	const want = "" +
		"package\tp\texit status 2\t3\t3\t1\t3.0\n" +
		"skip\tTestA/one\tthis kernel has no token\n" +
		"fail\tTestB\twrong\n" +
		"fail\tTestD/sub\tbad\n" +
		"fail\tTestE\tdid not end\n"
	for _, size := range []int{1, 10, len(said)} {
		var copied, got bytes.Buffer
		o := newOutcome(&copied)
		for rest := said; rest != ""; {
			n := min(size, len(rest))
			if _, err := o.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		o.write(&got, "p", "exit status 2", 3*time.Second)
		if got.String() != want {
			t.Errorf("in pieces of %d:\n%s\nwant:\n%s", size, got.String(), want)
		}
		if copied.String() != strings.ReplaceAll(said, "\x16", "") {
			t.Errorf("in pieces of %d it was copied as %q", size, copied.String())
		}
	}
}
