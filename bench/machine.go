package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// about says where and how rows were measured.
type about struct {
	Benchmark  string
	Command    []string
	Date       time.Time
	Commit     string `json:",omitempty"`
	Dirty      bool   // the working tree differs from the commit
	Kernel     string
	CPU        string
	CPUs       int
	GoVersion  string
	Cores      cores
	Congestion string   `json:",omitempty"` // TCP's congestion control
	Programs   []string `json:",omitempty"` // that are not ours, with their versions
}

func describe(ctx context.Context, benchmark string, args []string, module string, c cores) about {
	a := about{Benchmark: benchmark, Command: append([]string{"bench", benchmark}, args...), Date: time.Now().UTC().Truncate(time.Second),
		CPUs: runtime.NumCPU(), GoVersion: runtime.Version(), Cores: c, CPU: cpuModel(),
		Congestion: firstLine("/proc/sys/net/ipv4/tcp_congestion_control")}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		a.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	git := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = module
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	a.Commit = git("rev-parse", "HEAD")
	// Rows of earlier runs do not make the code another one.
	a.Dirty = git("status", "--porcelain", "--", ":/", ":(exclude)results") != ""
	return a
}

// version is the first line of what a program says of itself, asked by -v.
func version(ctx context.Context, path string) string {
	// nginx writes it to standard error, and wrk fails after it.
	out, _ := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line = strings.TrimPrefix(line, "nginx version: ")
	line, _, _ = strings.Cut(line, " Copyright")
	return strings.TrimSpace(line)
}

// cpuModel is the processor's name, as far as /proc/cpuinfo has one.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); ok && (name == "model name" || name == "Model") {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}
