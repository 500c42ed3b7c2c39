//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestMain fails the package when a test leaves a descriptor open.
func TestMain(m *testing.M) {
	// The first pipe starts Go's own poller, whose descriptors stay.
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
	before := descriptors()
	code := m.Run()
	for fd, to := range descriptors() {
		if before[fd] != to {
			fmt.Fprintf(os.Stderr, "descriptor left open: %s -> %s\n", fd, to)
			code = 1
		}
	}
	os.Exit(code)
}

// descriptors lists what this process has open.
func descriptors() map[string]string {
	open := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if to, err := os.Readlink(name); err == nil { // fails for the listing's own
			open[name] = to
		}
	}
	return open
}
