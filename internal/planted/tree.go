//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tree is a copy of the repository's working tree. One bug at a time is in it.
type tree struct{ dir string }

// copyTree copies what git knows or would add, as it is in the working tree.
func copyTree(ctx context.Context, dir string) (*tree, error) {
	root, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return nil, fmt.Errorf("which files to copy is asked of git, in the repository: %w", explain(err))
	}
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = strings.TrimSpace(string(root))
	files, err := list.Output()
	if err != nil {
		return nil, explain(err)
	}
	for name := range strings.SplitSeq(string(files), "\x00") {
		info, err := os.Lstat(filepath.Join(list.Dir, name))
		if name == "" || errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // deleted and not committed, or nothing that Go builds
		} else if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(filepath.Join(list.Dir, name))
		if err != nil {
			return nil, err
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			return nil, err
		}
	}
	return &tree{dir}, nil
}

// plant puts b into the tree, runs its tests, and takes it out again. No error
// means that they caught it.
func (t *tree) plant(ctx context.Context, b bug) (r result, err error) {
	name := filepath.Join(t.dir, b.file)
	text, err := os.ReadFile(name)
	if err != nil {
		return r, err
	}
	planted, err := b.in(string(text))
	if err != nil {
		return r, err
	}
	if err := os.WriteFile(name, []byte(planted), 0o666); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(name, text, 0o666)) }()
	if _, err = t.tool(ctx, "build", "-trimpath", "./"+filepath.Dir(b.file)); err == nil {
		err = t.build(ctx, []test{b.test})
	}
	if err != nil {
		return r, fmt.Errorf("does not build, which no test has to catch: %w", err)
	}
	r = t.run(ctx, b.test)
	return r, r.caught()
}

// in is text with the bug in it.
func (b bug) in(text string) (string, error) {
	if n := strings.Count(text, b.old); n != 1 {
		return "", fmt.Errorf("its place is %d times in %s, and must be there once: plant it anew", n, b.file)
	}
	return strings.Replace(text, b.old, b.new, 1), nil
}

// build builds the tests' packages. It is not for the tests to find what a compiler
// finds.
func (t *tree) build(ctx context.Context, tests []test) error {
	built := map[string]bool{}
	for _, ts := range tests {
		if built[ts.pkg] {
			continue
		}
		built[ts.pkg] = true
		// Trimmed of its path, a package is the same in every copy, and those that
		// a bug does not touch come out of the cache.
		if _, err := t.tool(ctx, "test", "-trimpath", "-ldflags=-s -w", "-c", "-o", t.binary(ts), "./"+ts.pkg); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) binary(ts test) string {
	return filepath.Join(t.dir, strings.ReplaceAll(ts.pkg, "/", "-")+".test")
}

// tool runs the go command.
func (t *tree) tool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	return out, explain(err)
}

// explain adds to a command's error what it said.
func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

const (
	// patience is how long tests may take if they do not say: several times what
	// all their subtests need.
	patience = 30 * time.Second
	// perEvent is how long the tests of net wait for any one event.
	perEvent = "RINGNET_TEST_PATIENCE=4s"
)

// run runs a test that was built.
func (t *tree) run(ctx context.Context, ts test) result {
	limit := ts.limit
	if limit == 0 {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second) // it ends itself before
	defer cancel()
	// In this form of -v the verdict on a subtest comes when it is over, and not only
	// when all are.
	args := []string{"-test.v=test2json", "-test.failfast", "-test.count=1", "-test.run=" + ts.run, "-test.timeout=" + limit.String()}
	cmd := exec.CommandContext(ctx, t.binary(ts), append(args, ts.args...)...)
	cmd.Dir = filepath.Join(t.dir, ts.pkg)
	cmd.Env = append(os.Environ(), perEvent)
	// Some tests have children, which go with them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	cmd.WaitDelay = time.Second
	w := &watcher{kill: kill}
	cmd.Stdout, cmd.Stderr = w, w
	r := result{err: cmd.Run()}
	if w.result.failed == "" && ctx.Err() != nil {
		r.err = context.Cause(ctx)
	}
	r.failed, r.ran, r.skipped, r.output = w.result.failed, w.result.ran, w.result.skipped, w.output.String()
	return r
}
