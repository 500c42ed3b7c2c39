//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func thread() int { return unix.Gettid() }

// onData is a script that calls f when something comes.
func onData(f func(c *Conn)) script {
	return script{data: func(c *Conn, b []byte) int { f(c); return len(b) }}
}

func TestOffloadedWorkComesBackToTheLoop(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		failure := errors.New("the work fails")
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			n := int(b[0])
			loop := thread()
			err := Offload(c, func() (string, error) {
				if thread() == loop {
					t.Error("the work is done on the loop's thread")
				}
				if n%5 == 4 {
					return "half done", failure
				}
				return strings.Repeat("x", n), nil
			}, func(d *Conn, s string, err error) {
				if d != c || thread() != loop {
					t.Error("the result comes back to somewhere else")
				}
				if n%5 == 4 && (err != failure || s != "half done") || n%5 != 4 && (err != nil || len(s) != n) {
					t.Errorf("%d comes back as %q, %v", n, s, err)
				}
				_, _ = c.Write([]byte{byte(n)})
			})
			if err != nil {
				t.Errorf("offload: %v", err)
			}
			return len(b)
		}})
		if err := crowd(5, func(i int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			for n := range few(40) {
				if err := exchange(c, []byte{byte(n)}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if st := srv.Stats(); st.Offloads != uint64(5*few(40)) || st.OffloadsDropped != 0 {
			t.Errorf("%d offloads, %d dropped", st.Offloads, st.OffloadsDropped)
		}
	})
}

func TestOffloadOfAnyType(t *testing.T) {
	srv := serve(t, Options{Loops: 1}, onData(func(c *Conn) {
		if err := c.Offload(func() (any, error) { return 42, nil }, func(c *Conn, v any, err error) {
			_, _ = fmt.Fprint(c, v, err)
		}); err != nil {
			t.Error(err)
		}
	}))
	c := srv.dial()
	write(t, c, []byte("x"))
	wantRead(t, c, []byte("42 <nil>"))
}

// resource is a result that has to be released.
type resource struct {
	released func(how string)
}

func (r resource) Close() error { r.released("Close"); return nil }

// lender is one that has both ways; Release it is then.
type lender struct{ resource }

func (r lender) Release() { r.released("Release") }

// What comes back to a connection that has ended is released, exactly once,
// wherever the end finds it.
func TestResultsForConnectionsThatHaveEndedAreReleased(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, cs := range []struct {
			name string
			make func(f func(string)) (any, error)
			want string
		}{
			{name: "closer", make: func(f func(string)) (any, error) { return resource{f}, nil }, want: "Close"},
			{name: "lease", make: func(f func(string)) (any, error) { return lender{resource{f}}, nil }, want: "Release"},
			{name: "failed", make: func(f func(string)) (any, error) { return resource{f}, io.EOF }},
			{name: "nothing", make: func(func(string)) (any, error) { return nil, nil }},
			{name: "release panics", make: func(f func(string)) (any, error) {
				return resource{func(how string) { f(how); panic("in Close") }}, nil
			}, want: "Close"},
		} {
			t.Run(cs.name, func(t *testing.T) {
				begun, free := make(chan struct{}), make(chan struct{})
				how := make(chan string, 10)
				srv := serve(t, v.Options, onData(func(c *Conn) {
					if err := Offload(c, func() (any, error) {
						close(begun)
						<-free
						return cs.make(func(s string) { how <- s })
					}, func(*Conn, any, error) { t.Error("done is called for a connection that has ended") }); err != nil {
						t.Error(err)
					}
				}))
				c := srv.dial()
				write(t, c, []byte("x"))
				await(t, begun, "the work to begin")
				_ = c.SetLinger(0)
				_ = c.Close()
				srv.cause()
				close(free)
				if cs.want != "" {
					if got := await(t, how, "the release"); got != cs.want {
						t.Errorf("it is released by %s, want %s", got, cs.want)
					}
				}
				until(t, "the result to be dropped", func() bool { return srv.Stats().OffloadsDropped == 1 })
				if err := srv.shutdown(); err != nil {
					t.Error(err)
				}
				if len(how) != 0 {
					t.Errorf("it is released again, by %s", <-how)
				}
			})
		}
	}, "default", "epoll")
}

func TestPanicInOffloadedWorkEndsTheConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, cs := range []struct {
			name string
			work func() (int, error)
			want string
		}{
			{name: "panic", work: func() (int, error) { panic("in the work") }, want: "in the work"},
			{name: "goexit", work: func() (int, error) { runtime.Goexit(); return 0, nil }, want: "Goexit"},
		} {
			t.Run(cs.name, func(t *testing.T) {
				srv := serve(t, v.Options, onData(func(c *Conn) {
					if err := Offload(c, cs.work, func(*Conn, int, error) { t.Error("done is called") }); err != nil {
						t.Error(err)
					}
				}))
				c := srv.dial()
				write(t, c, []byte("x"))
				var p *PanicError
				if err := srv.cause(); !errors.As(err, &p) || !strings.Contains(fmt.Sprint(p.Value), cs.want) || len(p.Stack) == 0 {
					t.Errorf("OnClose was told %v", err)
				}
				_, _ = io.ReadAll(c)
				if st := srv.Stats(); st.Panics != 1 {
					t.Errorf("%d panics are counted", st.Panics)
				}
				// The workers are still good.
				d := srv.dial()
				write(t, d, []byte("x"))
				srv.cause()
			})
		}
	}, "default", "epoll")
}

func TestPanicInDoneEndsTheConnection(t *testing.T) {
	srv := serve(t, Options{Loops: 1}, onData(func(c *Conn) {
		_ = Offload(c, func() (int, error) { return 1, nil }, func(*Conn, int, error) { panic("in done") })
	}))
	c := srv.dial()
	write(t, c, []byte("x"))
	var p *PanicError
	if err := srv.cause(); !errors.As(err, &p) || p.Value != "in done" {
		t.Errorf("OnClose was told %v", err)
	}
	_, _ = io.ReadAll(c)
}

func TestOffloadSaysWhatIsWrong(t *testing.T) {
	free := make(chan struct{})
	work := func() (int, error) { <-free; return 7, nil }
	var results atomic.Int32
	done := func(c *Conn, v int, err error) {
		if v != 7 || err != nil {
			t.Errorf("the result is %d, %v", v, err)
		}
		results.Add(1)
	}
	answers := make(chan error, 10)
	srv := serve(t, Options{Loops: 1, OffloadWorkers: 3, MaxPosted: 4}, script{
		data: func(c *Conn, b []byte) int {
			if Offload(c, nil, done) == nil || Offload(c, work, nil) == nil {
				t.Error("a function that is nil is taken")
			}
			for range 4 {
				answers <- Offload(c, work, done)
			}
			c.Close()
			answers <- Offload(c, work, done)
			return len(b)
		},
		close: func(c *Conn, err error) { answers <- Offload(c, work, done) },
	})
	c := srv.dial()
	write(t, c, []byte("x"))
	for i, want := range []error{nil, nil, nil, ErrNoWorker, ErrClosed, ErrClosed} {
		if got := await(t, answers, "an answer"); !errors.Is(got, want) {
			t.Errorf("offload %d: %v, want %v", i, got, want)
		}
	}
	close(free)
	wantRest(t, c, nil)
	if err := srv.shutdown(); err != nil {
		t.Error(err)
	}
	if n := results.Load(); n != 0 {
		t.Errorf("%d results for a connection that has ended", n)
	}
}

// A mailbox that is full refuses posts, but never loses a result. There are as many
// of these as MaxPosted, and then no further work is taken.
func TestResultsComeBackThroughAFullMailbox(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const most = 5
		v.Loops, v.MaxPosted, v.OffloadWorkers = 1, most, 100
		free := make(chan struct{})
		begun := make(chan error, 100)
		var results atomic.Int32
		s, opened := refs(1, onData(func(c *Conn) {
			for {
				err := Offload(c, func() (int, error) { <-free; return 0, nil }, func(*Conn, int, error) { results.Add(1) })
				begun <- err
				if err != nil {
					return
				}
			}
		}))
		srv := serve(t, v.Options, s)
		c := srv.dial()
		ref := await(t, opened, "a connection to open")
		write(t, c, []byte("x"))
		for i := range most {
			if err := await(t, begun, "offload"); err != nil {
				t.Errorf("offload %d: %v", i, err)
			}
		}
		if err := await(t, begun, "offload"); !errors.Is(err, ErrBusy) {
			t.Errorf("one more: %v, want ErrBusy", err)
		}
		release := srv.hold(0)
		for ref.Post(func(*Conn) {}) == nil {
		}
		close(free)
		until(t, "all work to be done", func() bool {
			m := &srv.loops[0].mail
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.queue) == 2*most
		})
		release()
		until(t, "the results", func() bool { return results.Load() == most })
	}, "default", "epoll")
}

func TestShutdownWaitsForOffloadedWork(t *testing.T) {
	begun, free := make(chan struct{}), make(chan struct{})
	released := make(chan string, 1)
	srv := serve(t, Options{Loops: 2}, onData(func(c *Conn) {
		if err := Offload(c, func() (io.Closer, error) {
			close(begun)
			<-free
			return resource{func(s string) { released <- s }}, nil
		}, func(*Conn, io.Closer, error) { t.Error("done is called after the end") }); err != nil {
			t.Error(err)
		}
	}))
	c := srv.dial()
	write(t, c, []byte("x"))
	await(t, begun, "the work to begin")
	ended := make(chan error, 1)
	go func() { ended <- srv.shutdown() }()
	srv.wantCause(ErrServerClosed)
	if err := srv.Wait(); !errors.Is(err, ErrServerClosed) {
		t.Errorf("wait: %v", err)
	}
	if len(ended) > 0 {
		t.Error("Shutdown does not wait for the work")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "offload") {
		t.Errorf("a shutdown that has no time: %v", err)
	}
	close(free)
	await(t, released, "the release of the result")
	if err := await(t, ended, "shutdown"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	wantRest(t, c, nil)
}

// Close is at once.
func TestCloseDoesNotWaitForOffloadedWork(t *testing.T) {
	begun, free := make(chan struct{}), make(chan struct{})
	srv := serve(t, Options{Loops: 1}, onData(func(c *Conn) {
		_ = Offload(c, func() (int, error) { close(begun); <-free; return 0, nil }, func(*Conn, int, error) {})
	}))
	c := srv.dial()
	write(t, c, []byte("x"))
	await(t, begun, "the work to begin")
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	srv.wantCause(ErrServerClosed)
	_, _ = io.ReadAll(c)
	close(free)
}

// A handler that keeps its connections open on shutdown answers what is under way.
func TestShutdownHandlersCanAwaitTheirResults(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		begun, free := make(chan struct{}), make(chan struct{})
		s := onData(func(c *Conn) {
			if err := Offload(c, func() (string, error) { close(begun); <-free; return "done", nil }, func(c *Conn, s string, _ error) {
				_, _ = io.WriteString(c, s)
				c.Close()
			}); err != nil {
				t.Error(err)
			}
		})
		var asked sync.WaitGroup
		asked.Add(1)
		s.shutdown = func(*Conn) { asked.Done() }
		srv := serve(t, v.Options, s)
		c := srv.dial()
		write(t, c, []byte("x"))
		await(t, begun, "the work to begin")
		ended := make(chan error, 1)
		go func() { ended <- srv.shutdown() }()
		asked.Wait()
		close(free)
		wantRest(t, c, []byte("done"))
		if err := await(t, ended, "shutdown"); err != nil {
			t.Error(err)
		}
	}, "default", "epoll", "loops")
}
