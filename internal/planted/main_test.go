//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Planting them all takes minutes (.ci/run does it). That each could be planted, and
// that there are the tests that have to catch it, is looked at here, so that whoever
// changes the place learns of it at once.
func TestEveryBugHasItsPlaceAndItsTests(t *testing.T) {
	const root = "../.."
	names := map[string]bool{}
	functions := map[string][]string{} // of tests, by package
	for _, b := range bugs {
		if names[b.name] || !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(b.name) {
			t.Errorf("%q is a name given twice, or hard to type", b.name)
		}
		names[b.name] = true
		if b.what == "" || b.old == b.new {
			t.Errorf("%s: it says nothing, or does nothing", b.name)
		}
		text, err := os.ReadFile(filepath.Join(root, b.file))
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		if _, err := b.in(string(text)); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		if functions[b.test.pkg] == nil {
			functions[b.test.pkg] = testsOf(t, filepath.Join(root, b.test.pkg))
		}
		top, _, _ := strings.Cut(b.test.run, "/")
		re, err := regexp.Compile(top)
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		found := false
		for _, f := range functions[b.test.pkg] {
			found = found || re.MatchString(f)
		}
		if !found {
			t.Errorf("%s: package %s has no test %s", b.name, b.test.pkg, top)
		}
	}
}

// testsOf are the names of a package's tests.
func testsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// What comes out of a run of tests is read from what they print.
func TestResultsAreReadFromTheTestsOutput(t *testing.T) {
	exited := errors.New("exit status 1")
	cases := []struct {
		name    string
		printed string
		err     error

		failed string
		sound  string // part of the error; "": none
		caught string
	}{
		{name: "all pass", printed: "=== RUN   TestA\n=== RUN   TestA/one\n    --- PASS: TestA/one (0.00s)\n--- PASS: TestA (0.00s)\nPASS\n",
			caught: "NOT CAUGHT"},
		{name: "none is run", printed: "testing: warning: no tests to run\nPASS\n", sound: "no such test", caught: "NOT CAUGHT"},
		{name: "a test is skipped", printed: "=== RUN   TestA\n--- SKIP: TestA (0.00s)\nPASS\n", sound: "TestA is skipped", caught: "NOT CAUGHT"},
		{name: "a subtest is skipped", printed: "=== RUN   TestA\n    --- SKIP: TestA/one (0.00s)\n--- PASS: TestA (0.00s)\nPASS\n", caught: "NOT CAUGHT"},
		{name: "an assertion fails", printed: "=== RUN   TestA\n    a_test.go:1: wrong\n--- FAIL: TestA (0.00s)\nFAIL\n", err: exited,
			failed: "TestA", sound: "TestA fails"},
		{name: "a subtest fails", printed: "=== RUN   TestA/one\n    --- FAIL: TestA/one (0.10s)\n--- FAIL: TestA (0.00s)\nFAIL\n", err: exited,
			failed: "TestA/one", sound: "TestA/one fails"},
		{name: "a panic of another goroutine", printed: "=== RUN   TestA\n=== RUN   TestA/one\npanic: oh\n\ngoroutine 7 [running]:\n", err: exited,
			failed: "TestA/one (panic)", sound: "TestA/one (panic) fails"},
		{name: "a timeout", printed: "=== RUN   TestA\npanic: test timed out after 1s\n\trunning tests:\n\t\tTestA (1s)\n", err: exited,
			failed: "TestA (timeout)", sound: "TestA (timeout) fails"},
		{name: "a crash of the runtime", printed: "=== RUN   TestA\nfatal error: all goroutines are asleep - deadlock!\n", err: exited,
			failed: "TestA (panic)", sound: "TestA (panic) fails"},
		{name: "a failure of no test", printed: "panic: in TestMain\n", err: exited, sound: "exit status 1", caught: "no test's failure"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := &watcher{kill: func() error { return nil }}
			for i := range len(c.printed) { // in pieces, and with the frames of test2json
				piece := c.printed[i : i+1]
				if piece == "=" || piece == "-" {
					piece = string([]byte{frame}) + piece
				}
				if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
					t.Fatalf("wrote %d of %d: %v", n, len(piece), err)
				}
			}
			r := w.result
			r.err = c.err
			if r.failed != c.failed {
				t.Errorf("failed %q, want %q", r.failed, c.failed)
			}
			for _, is := range []struct {
				what string
				err  error
				want string
			}{{"sound", r.sound(), c.sound}, {"caught", r.caught(), c.caught}} {
				if (is.err == nil) != (is.want == "") || is.err != nil && !strings.Contains(is.err.Error(), is.want) {
					t.Errorf("%s: %v, want %q", is.what, is.err, is.want)
				}
			}
		})
	}
}

// A bug that is not caught, one that does not build, and one whose place has changed
// are errors, and the copy is as it was afterwards.
func TestPlantingSaysWhatIsWrong(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("no go command: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	const source = "package a\n\nfunc One() int { return 1 }\n\nfunc Two() int { return 2 }\n"
	for name, text := range map[string]string{
		"go.mod":        "module a\n\ngo 1.26.0\n",
		"a/a.go":        source,
		"a/a_test.go":   "package a\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif One() != 1 {\n\t\tt.Error(One())\n\t}\n}\n",
		"a/testdata/.x": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	one := test{pkg: "a", run: "^TestOne$"}
	cases := []struct {
		name string
		bug
		says string // "": it is caught
	}{
		{name: "caught", bug: bug{file: "a/a.go", old: "return 1", new: "return 3", test: one}},
		{name: "not caught", bug: bug{file: "a/a.go", old: "return 2", new: "return 3", test: one}, says: "NOT CAUGHT"},
		{name: "does not build", bug: bug{file: "a/a.go", old: "return 1", new: "return x", test: one}, says: "does not build"},
		{name: "not there", bug: bug{file: "a/a.go", old: "return 7", new: "return 3", test: one}, says: "0 times in a/a.go"},
		{name: "there twice", bug: bug{file: "a/a.go", old: "int { return", new: "", test: one}, says: "2 times in a/a.go"},
		{name: "no such file", bug: bug{file: "a/b.go", old: "x", new: "y", test: one}, says: "no such file"},
	}
	tr := &tree{dir}
	for _, c := range cases {
		r, err := tr.plant(ctx, c.bug)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q\n%s", c.name, err, c.says, r.output)
		}
		if c.says == "" && r.failed != "TestOne" {
			t.Errorf("%s: by %q", c.name, r.failed)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "a/a.go")); err != nil || string(text) != source {
			t.Errorf("%s: afterwards the copy is %q, %v", c.name, text, err)
		}
	}
}
