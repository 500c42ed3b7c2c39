package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage())
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, args := os.Args[1], os.Args[2:]
	if name == "-h" || name == "-help" || name == "--help" || name == "help" {
		fmt.Print(usage())
		return
	}
	var err error
	if i := slices.IndexFunc(benchmarks, func(b *benchmark) bool { return b.name == name }); i >= 0 {
		err = benchmarks[i].run(ctx, args, os.Stdout)
	} else if name == "idle" {
		err = idle(ctx, args, os.Stdout)
	} else if name == pathsBenchmark.name {
		err = paths(ctx, args, os.Stdout)
	} else if name == filesBenchmark.name {
		err = serveFiles(ctx, args, os.Stdout)
	} else {
		fmt.Fprintf(os.Stderr, "bench: %q is no benchmark\n%s", name, usage())
		os.Exit(2)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
