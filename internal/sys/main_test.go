//go:build linux && (amd64 || arm64)

package sys

import (
	"os"
	"testing"

	"example.com/ringnet/internal/leak"
)

// TestMain fails the package when a test leaves a descriptor open.
func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
