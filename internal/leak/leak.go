//go:build linux

// Package leak finds descriptors that tests leave open. Only tests import it.
package leak

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Main runs a package's tests and returns the code to exit with, which is not 0
// when a descriptor was left open. For TestMain.
func Main(m *testing.M) int {
	// The first pipe starts Go's own poller, whose descriptors stay.
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
	before, err := Descriptors()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	after, err := Descriptors()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for fd, to := range after {
		if before[fd] != to {
			fmt.Fprintf(os.Stderr, "descriptor left open: %s -> %s\n", fd, to)
			code = 1
		}
	}
	return code
}

// Descriptors lists what this process has open: number and target. It needs a
// descriptor itself, and fails where there is none.
func Descriptors() (map[string]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	open := make(map[string]string, len(entries))
	for _, e := range entries {
		// One of them was the directory itself, which is closed by now.
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open[e.Name()] = to
		}
	}
	return open, nil
}

// Count is the number of open descriptors.
func Count(t testing.TB) int {
	t.Helper()
	open, err := Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
