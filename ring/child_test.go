//go:build linux

package ring

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// childVariable, in the environment, makes this test binary run one of children
// and nothing else.
const childVariable = "RINGNET_RING_TEST_CHILD"

// children run in a process of their own, because they change what a process
// cannot take back: its limits, its mounts, its user.
var children = map[string]func() error{
	"few descriptors": fewDescriptors,
	"sysctl texts":    sysctlTexts,
	"little memlock":  littleMemlock,
}

func runChild(name string) int {
	if err := children[name](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// inChild runs one of children and fails with what it prints.
func inChild(t *testing.T, name string, attr *syscall.SysProcAttr) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	cmd.SysProcAttr = attr
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("child %q: %v\n%s", name, err, out.Bytes())
	}
}

// needRoot skips a test that changes mounts, users or filters.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
