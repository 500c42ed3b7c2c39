package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/files"
	"example.com/ringnet/bench/internal/payload"
)

// errAbsent matches the error of a server that cannot be had on this machine for
// want of a tool or library. That is reported, and fails nothing.
var errAbsent = errors.New("not available here")

// binaries is where built programs are.
type binaries struct {
	module string // the directory of the bench module
	dir    string // of the programs
}

// newBinaries finds the module and makes a temporary directory, which remove
// deletes.
func newBinaries(ctx context.Context) (*binaries, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "example.com/ringnet/bench").Output()
	module := strings.TrimSpace(string(out))
	if err != nil || module == "" {
		return nil, fmt.Errorf("find the bench module: %w: run this inside the repository", cmdError(err))
	}
	dir, err := os.MkdirTemp("", "ringnet-bench-")
	if err != nil {
		return nil, err
	}
	return &binaries{module: module, dir: dir}, nil
}

func (b *binaries) remove() { _ = os.RemoveAll(b.dir) }

// socket is the path for Unix sockets, one after the other.
func (b *binaries) socket() string { return filepath.Join(b.dir, "socket") }

// certificate is the file that servers have theirs from, with its key.
func (b *binaries) certificate() string { return filepath.Join(b.dir, "certificate") }

// content is the file that servers send from.
func (b *binaries) content() string { return filepath.Join(b.dir, "content") }

// root is the directory of files that servers serve.
func (b *binaries) root() string { return filepath.Join(b.dir, "root") }

// fileSet is n files of one size.
type fileSet struct{ size, n int }

// writeFiles makes that directory.
func (b *binaries) writeFiles(sets []fileSet) error {
	if len(sets) == 0 {
		return nil
	}
	if err := os.Mkdir(b.root(), 0o755); err != nil {
		return err
	}
	for _, s := range sets {
		if err := files.Write(b.root(), s.size, s.n); err != nil {
			return err
		}
	}
	d, err := os.Open(b.root())
	if err != nil {
		return err
	}
	defer d.Close()
	// Pages that are not on the disk yet cannot be dropped from memory.
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("bring the files to the disk: %w", err)
	}
	return nil
}

// writeContent makes that file, n bytes long, unless n is 0.
func (b *binaries) writeContent(n int) error {
	if n == 0 {
		return nil
	}
	f, err := os.Create(b.content())
	if err != nil {
		return err
	}
	defer f.Close()
	part := make([]byte, 64*payload.Period)
	payload.Fill(part)
	for n > 0 {
		k, err := f.Write(part[:min(n, len(part))])
		if err != nil {
			return fmt.Errorf("write the file to be sent: %w: choose another directory with TMPDIR", err)
		}
		n -= k
	}
	// Pages that are not on the disk yet cannot be dropped from memory.
	return f.Sync()
}

func (b *binaries) load() string { return filepath.Join(b.dir, "load") }

// path is the program of a server. Servers that differ only by flags share one.
func (b *binaries) path(s server) string {
	if s.program != "" {
		path, _ := installed(s.program)
		return path
	}
	source := s.dir
	if s.c != "" {
		source = strings.TrimSuffix(s.c, ".c") + "-c"
	}
	return filepath.Join(b.dir, filepath.Base(source))
}

// buildLoad builds the load generator.
func (b *binaries) buildLoad(ctx context.Context) error {
	return b.run(ctx, "go", "build", "-o", b.load(), "./load")
}

// build builds one server, unless it is there already.
func (b *binaries) build(ctx context.Context, s server) error {
	if s.program != "" {
		if _, err := installed(s.program); err != nil {
			return fmt.Errorf("%w: %s is missing: %s", errAbsent, s.program, s.without)
		}
		return nil
	}
	path := b.path(s)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if s.c == "" {
		// In its directory: it may belong to another module.
		args := []string{"build", "-C", s.dir, "-o", path}
		if s.link != "" {
			args = append(args, "-ldflags="+s.link)
		}
		return b.run(ctx, "go", append(args, ".")...)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	if _, err := exec.LookPath(cc); err != nil {
		return fmt.Errorf("%w: no C compiler (%s): install gcc, or set CC", errAbsent, cc)
	}
	err := b.run(ctx, cc, append([]string{"-O2", "-o", path, s.c}, s.libs...)...)
	if err != nil && (strings.Contains(err.Error(), "liburing.h") || strings.Contains(err.Error(), "-luring")) {
		return fmt.Errorf("%w: liburing is missing: install liburing-dev", errAbsent)
	}
	return err
}

// installed finds a program, also where only root looks for one.
func installed(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	return path, err
}

func (b *binaries) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.module
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// cmdError puts into an error of exec.Cmd.Output what the command complained of.
func cmdError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
