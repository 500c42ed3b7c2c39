//go:build linux

package main

import (
	"bufio"
	"bytes"
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
)

// limit is how long anything may take.
const limit = 20 * time.Second

// TestMain is the example itself where the environment asks for it.
func TestMain(m *testing.M) {
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

func start(t *testing.T, args ...string) *example {
	t.Helper()
	e := &example{t: t, cmd: exec.Command(os.Args[0], args...)}
	e.cmd.Env = append(os.Environ(), "RINGNET_TEST_ECHO=1")
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
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			e := start(t, "-addr", "127.0.0.1:0", "-loops", "2")
			addr := e.serving(2)
			if engine := e.line(); !strings.HasPrefix(engine, "engine: uring") || !strings.Contains(engine, "recv-multishot") {
				t.Errorf("it says %q: want the engine and the kernel's features", engine)
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
		{name: "engine that is not there", args: []string{"-engine", "kqueue"}, says: []string{"kqueue", "auto", "uring"}},
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
