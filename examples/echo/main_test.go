//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/ringnet/internal/forbid"
	"example.com/ringnet/ring"
)

// limit is how long anything may take.
const limit = 20 * time.Second

// TestMain is the example itself where the environment asks for it.
func TestMain(m *testing.M) {
	forbid.Again()
	if os.Getenv("RINGNET_TEST_ECHO") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// example is the example in a process of its own.
type example struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	errors bytes.Buffer
}

func start(t *testing.T, args ...string) *example { return startWith(t, nil, args...) }

func startWith(t *testing.T, env []string, args ...string) *example {
	t.Helper()
	e := &example{t: t, cmd: exec.Command(os.Args[0], args...)}
	e.cmd.Env = append(append(os.Environ(), "RINGNET_TEST_ECHO=1"), env...)
	e.cmd.Stderr = &e.errors
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.out = bufio.NewReader(out)
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(limit, func() { _ = e.cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
	})
	return e
}

func (e *example) line() string {
	e.t.Helper()
	s, err := e.out.ReadString('\n')
	if err != nil {
		e.t.Fatalf("after %q: %v; errors: %s", s, err, e.errors.String())
	}
	return strings.TrimSuffix(s, "\n")
}

// serving reads where it listens.
func (e *example) serving(loops int) netip.AddrPort {
	e.t.Helper()
	said := e.line()
	where, ok := strings.CutPrefix(said, "echo on ")
	where, rest, _ := strings.Cut(where, ", ")
	addr, err := netip.ParseAddrPort(where)
	if !ok || err != nil || rest != fmt.Sprintf("%d loops", loops) {
		e.t.Fatalf("it says %q (%v)", said, err)
	}
	return addr
}

func TestEchoServesAndDrainsOnASignal(t *testing.T) {
	for _, how := range []struct {
		style string
		sig   syscall.Signal
	}{{"callback", syscall.SIGINT}, {"callback", syscall.SIGTERM}, {"blocking", syscall.SIGINT}, {"blocking", syscall.SIGTERM}} {
		sig := how.sig
		t.Run(how.style+" "+sig.String(), func(t *testing.T) {
			e := start(t, "-addr", "127.0.0.1:0", "-loops", "2", "-style", how.style)
			addr := e.serving(2)
			kind := "uring"
			if errors.Is(ring.Have(ring.BufferRings), ring.ErrNotSupported) {
				kind = "epoll"
			}
			if engine := e.line(); !strings.HasPrefix(engine, "engine: "+kind) || !strings.Contains(engine, "recv-multishot") {
				t.Errorf("it says %q: want the engine and its features", engine)
			}
			sent := 0
			for i := range 4 {
				c, err := stdnet.Dial("tcp", addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(limit))
				b := bytes.Repeat([]byte{byte('a' + i)}, 10000*(i+1))
				go func() { _, _ = c.Write(b) }()
				got := make([]byte, len(b))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, b) {
					t.Fatalf("echo of %d bytes: %v", len(b), err)
				}
				sent += len(b)
				if i == 3 { // the others stay open
					_ = c.Close()
				}
			}
			if err := e.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(e.out)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.cmd.Wait(); err != nil {
				t.Errorf("%v; errors: %s", err, e.errors.String())
			}
			for _, part := range []string{"connections: 4 accepted, 4 closed", fmt.Sprintf("bytes: %d received, %d sent", sent, sent), "enters: "} {
				if !strings.Contains(string(rest), part) {
					t.Errorf("the counters do not say %q:\n%s", part, rest)
				}
			}
		})
	}
}

func TestEchoServesOnEpollWhereUringIsForbidden(t *testing.T) {
	why, mend := "seccomp", "run the container with a profile that allows"
	if now, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); strings.TrimSpace(string(now)) == "2" {
		why, mend = "kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"
	}
	for _, c := range []struct {
		name   string
		engine string
		env    []string
		says   []string
	}{
		{name: "forbidden", engine: "auto", env: []string{forbid.Variable + "=1"}, says: []string{"engine: epoll", "io_uring cannot be had", why}},
		{name: "chosen", engine: "epoll", says: []string{"engine: epoll", "as chosen"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startWith(t, c.env, "-addr", "127.0.0.1:0", "-loops", "1", "-engine", c.engine)
			addr, engine := e.serving(1), e.line()
			for _, part := range c.says {
				if !strings.Contains(engine, part) {
					t.Errorf("it does not say %q: %s", part, engine)
				}
			}
			conn, err := stdnet.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(limit))
			got := make([]byte, 5)
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
				t.Errorf("echo: %q, %v", got, err)
			}
		})
	}
	e := startWith(t, []string{forbid.Variable + "=1"}, "-addr", "127.0.0.1:0", "-engine", "uring")
	if err := e.cmd.Wait(); err == nil || !strings.Contains(e.errors.String(), mend) {
		t.Errorf("an explicit uring that is forbidden: %v: %s", err, e.errors.String())
	}
}

func TestEchoThatCannotStartSaysWhy(t *testing.T) {
	ln, err := stdnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{name: "engine that is not there", args: []string{"-engine", "kqueue"}, says: []string{"kqueue", "auto", "uring", "epoll"}},
		{name: "style that is not there", args: []string{"-style", "coroutine"}, says: []string{"coroutine", "callback", "blocking"}},
		{name: "address that is taken", args: []string{"-addr", ln.Addr().String()}, says: []string{ln.Addr().String(), "address already in use", "another port"}},
		{name: "address that is none", args: []string{"-addr", "nowhere"}, says: []string{"nowhere"}},
		{name: "too many loops", args: []string{"-addr", "127.0.0.1:0", "-loops", "5000"}, says: []string{"Loops", "5000", "1024"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := start(t, c.args...)
			out, _ := io.ReadAll(e.out)
			err := e.cmd.Wait()
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
				t.Errorf("it ended with %v and printed %q", err, out)
			}
			for _, part := range c.says {
				if !strings.Contains(e.errors.String(), part) {
					t.Errorf("the error does not say %q: %s", part, e.errors.String())
				}
			}
		})
	}
}
