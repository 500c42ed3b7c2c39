//go:build linux

// Planted shows that the tests of this repository find bugs. It plants one after
// the other into a copy of the tree, and demands that tests named for it fail.
//
//	go run ./internal/planted             all bugs
//	go run ./internal/planted -list       what they are
//	go run ./internal/planted -only NAME  one of them, with the tests' output
//
// A bug is the exact text of a place in a file, and what would be wrong there
// instead (bugs.go). When the place has changed, so that the text is not found just
// once, that is an error: plant the bug anew, or something in its stead. Nor may a
// planted tree fail to build, and without a bug every test named must pass.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	only := flag.String("only", "", "plant just the bug of this `name`, and show what its tests print")
	list := flag.Bool("list", false, "say what bugs there are, and plant none")
	workers := flag.Int("parallel", min(2, runtime.NumCPU()), "how many bugs to plant at a time, each in a copy of its own")
	flag.Parse()
	if flag.NArg() > 0 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	chosen := bugs
	if *only != "" {
		chosen = nil
		for _, b := range bugs {
			if b.name == *only {
				chosen = append(chosen, b)
			}
		}
		if chosen == nil {
			fmt.Fprintf(os.Stderr, "planted: there is no bug %q: see -list\n", *only)
			os.Exit(2)
		}
	}
	if *list {
		for _, b := range chosen {
			fmt.Printf("%s\n    %s\n    in %s; for %s\n", b.name, b.what, b.file, b.test)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, chosen, *workers, *only != ""); err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		stop()
		os.Exit(1)
	}
}

// run plants the bugs, some at a time, and reports on each. The error says how many
// went wrong.
func run(ctx context.Context, bugs []bug, workers int, verbose bool) (err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "planted-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var trees []*tree
	for i := range min(workers, len(bugs)) {
		t, err := copyTree(ctx, fmt.Sprintf("%s/%d", dir, i))
		if err != nil {
			return err
		}
		trees = append(trees, t)
	}

	// Every test must pass as things are: else its failure would show nothing.
	var tests []test
	seen := map[string]bool{}
	for _, b := range bugs {
		if !seen[b.test.String()] {
			seen[b.test.String()] = true
			tests = append(tests, b.test)
		}
	}
	if err := trees[0].build(ctx, tests); err != nil {
		return fmt.Errorf("the tree does not build as it is: %w", err)
	}
	var sound []error
	inTurn(trees, tests, func(t *tree, ts test) {
		r := trees[0].run(ctx, ts)
		if err := r.sound(); err != nil {
			report.Lock()
			sound = append(sound, fmt.Errorf("without a bug, %v: %w\n%s", ts, err, r.output))
			report.Unlock()
		}
	})
	if err := errors.Join(append(sound, ctx.Err())...); err != nil {
		return err
	}
	fmt.Printf("without a bug, all %d pass: %.1f s\n\n", len(tests), time.Since(start).Seconds())

	width := 0
	for _, b := range bugs {
		width = max(width, len(b.name))
	}
	fmt.Printf("%-*s  %7s  %s\n", width, "bug", "seconds", "caught by")
	wrong := 0
	plant := func(t *tree, b bug) {
		begun := time.Now()
		r, err := t.plant(ctx, b)
		report.Lock()
		defer report.Unlock()
		what := r.failed
		if err != nil {
			wrong++
			what = "ERROR: " + err.Error()
		}
		fmt.Printf("%-*s  %7.1f  %s\n", width, b.name, time.Since(begun).Seconds(), what)
		if verbose || err != nil {
			fmt.Print(indent(r.output))
		}
	}
	var alone, together []bug
	for _, b := range bugs {
		if b.alone {
			alone = append(alone, b)
		} else {
			together = append(together, b)
		}
	}
	inTurn(trees[:1], alone, plant)
	inTurn(trees, together, plant)
	if err := ctx.Err(); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d bugs were not caught", wrong, len(bugs))
	}
	fmt.Printf("\nall %d bugs are caught: %.0f s\n", len(bugs), time.Since(start).Seconds())
	return nil
}

// report guards what is printed and counted.
var report sync.Mutex

// inTurn calls f for each of what, on as many goroutines as there are trees, each
// with one of its own.
func inTurn[T any](trees []*tree, what []T, f func(*tree, T)) {
	next := make(chan T)
	var working sync.WaitGroup
	for _, t := range trees {
		working.Go(func() {
			for w := range next {
				f(t, w)
			}
		})
	}
	for _, w := range what {
		next <- w
	}
	close(next)
	working.Wait()
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "    | " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    | ") + "\n"
}
