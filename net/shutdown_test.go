//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

// shutdown runs Shutdown with a context that a healthy server does not exhaust.
func (s *server) shutdown() error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	return s.Shutdown(ctx)
}

func TestShutdownWithIdleConnections(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoWrite(t))
		const conns = 50
		clients := make([]stdnet.Conn, conns)
		for i := range clients {
			clients[i] = srv.dial()
			switch {
			case i%3 == 0:
				wantEcho(t, clients[i], payload(uint64(i), 100))
			case i == 1 && !v.slow:
				wantEcho(t, clients[i], payload(uint64(i), 500000))
			}
		}
		until(t, "all connections to be open", func() bool { return srv.Stats().Connections == conns })
		if err := srv.shutdown(); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		for _, c := range clients {
			wantRest(t, c, nil)
			srv.wantCause(ErrServerClosed)
		}
		if c, err := connect(srv.addr()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after shutdown a connection gets %v", err)
			if err == nil {
				_ = c.Close()
			}
		}
	})
}

func TestShutdownOfAServerThatNobodyUsed(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, script{}, "127.0.0.1:0", "127.0.0.1:0")
		if err := srv.shutdown(); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
}

func TestShutdownLetsQueuedOutputGoOut(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		answer := payload(1, few(8<<20))
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if _, err := c.Write(answer); err != nil {
				t.Errorf("write: %v", err)
			}
			return len(b)
		}})
		var clients [3]stdnet.Conn
		for i := range clients {
			clients[i] = srv.dial()
			write(t, clients[i], []byte("x"))
			wantRead(t, clients[i], answer[:1])
		}
		done := make(chan error, 1)
		go func() { done <- srv.shutdown() }()
		for _, c := range clients {
			wantRest(t, c, answer[1:])
		}
		if err := await(t, done, "shutdown to return"); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		for range clients {
			srv.wantCause(ErrServerClosed)
		}
	})
}

func TestShutdownCutsWhatDoesNotEndInTime(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoWrite(t))
		c := srv.dial()
		stall(t, srv, c, make([]byte, 64<<20))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown with a peer that does not read: %v, want %v", err, context.DeadlineExceeded)
		}
		srv.wantCause(ErrServerClosed)
		if err := srv.shutdown(); err != nil {
			t.Errorf("second shutdown: %v", err)
		}
	}, "default", "loops", "no sync message", "no features", "no bulk", "small buffers no bulk", "queues of 1 and 2")
}

func TestShutdownWithAContextThatHasEnded(t *testing.T) {
	srv := serve(t, Options{Loops: 2, poison: true}, echoWrite(t))
	for range 10 {
		wantEcho(t, srv.dial(), []byte("hello"))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	// What is idle ends at once, so either outcome is right; it must only return.
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	for range 10 {
		srv.wantCause(ErrServerClosed)
	}
}

func TestOnShutdownLetsConnectionsEndThemselves(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		s := echoWrite(t)
		echo := s.data
		s.data = func(c *Conn, b []byte) int {
			if string(b) == "bye" {
				_, _ = c.Write([]byte("goodbye"))
				c.Close()
				return len(b)
			}
			return echo(c, b)
		}
		var told atomic.Int64
		s.shutdown = func(c *Conn) {
			told.Add(1)
			_, _ = c.Write([]byte("closing"))
		}
		srv := serve(t, v.Options, s)
		var clients [5]stdnet.Conn
		for i := range clients {
			clients[i] = srv.dial()
			wantEcho(t, clients[i], []byte("hello"))
		}
		done := make(chan error, 1)
		go func() { done <- srv.shutdown() }()
		for i, c := range clients {
			wantRead(t, c, []byte("closing"))
			n := 200000
			if v.slow {
				n = 2000
			}
			wantEcho(t, c, payload(uint64(i), n)) // still served
		}
		// New ones are not.
		if c, err := connect(srv.addr()); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Error("a new connection is served during shutdown")
			}
			_ = c.Close()
		}
		for i, c := range clients {
			select {
			case err := <-done:
				t.Fatalf("shutdown returned %v with %d connections open", err, len(clients)-i)
			default:
			}
			write(t, c, []byte("bye"))
			wantRest(t, c, []byte("goodbye"))
			srv.wantCause(nil)
		}
		if err := await(t, done, "shutdown to return"); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if n := told.Load(); n != int64(len(clients)) {
			t.Errorf("OnShutdown was called %d times for %d connections", n, len(clients))
		}
	})
}

func TestOnShutdownThatPanicsOrClosesOrDoesNothing(t *testing.T) {
	n := 0
	s := echoWrite(t)
	s.shutdown = func(c *Conn) {
		switch n++; n % 3 {
		case 0:
			panic(errTest)
		case 1:
			c.Close()
		}
	}
	srv := serve(t, Options{Loops: 1, poison: true}, s)
	for range 9 {
		wantEcho(t, srv.dial(), []byte("hello"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v, want %v", err, context.DeadlineExceeded)
	}
	panics, closed, cut := 0, 0, 0
	for range 9 {
		switch err := srv.cause(); {
		case errors.As(err, new(*PanicError)):
			panics++
		case err == nil:
			closed++
		case errors.Is(err, ErrServerClosed):
			cut++
		default:
			t.Errorf("OnClose was told %v", err)
		}
	}
	if panics != 3 || closed != 3 || cut != 3 {
		t.Errorf("%d panicked, %d closed, %d were cut: want 3 of each", panics, closed, cut)
	}
}

func TestCloseOfAServerDropsEverythingAtOnce(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				stall(t, srv, srv.dial(), make([]byte, 64<<20))
				for range 20 {
					srv.dial()
				}
				until(t, "all connections to be open", func() bool { return srv.Stats().Connections == 21 })
				if err := srv.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				for range 21 {
					srv.wantCause(ErrServerClosed)
				}
				if err := srv.Close(); err != nil {
					t.Errorf("second close: %v", err)
				}
				if err := srv.shutdown(); err != nil {
					t.Errorf("shutdown after close: %v", err)
				}
			})
		}
	}, "default", "loops", "no features", "no bulk", "small buffers no bulk", "queues of 1 and 2", "all small")
}

func TestShutdownWhileClientsComeAndGo(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, how := range []string{"Shutdown", "Close"} {
			t.Run(how, func(t *testing.T) {
				srv := serve(t, v.Options, echoLease(t))
				some, enough := int64(few(100)), make(chan struct{})
				var exchanges atomic.Int64
				ended := make(chan error, 1)
				go func() {
					ended <- crowd(8, func(i int) error {
						for n := 0; ; n++ {
							c, err := connect(srv.addr())
							if err == nil {
								err = exchange(c, payload(uint64(n), 1+n*997%9000))
								_ = c.Close()
							}
							if err != nil {
								if exchanges.Load() < some {
									return err
								}
								return nil // the server ended
							}
							if exchanges.Add(1) == some {
								close(enough)
							}
						}
					})
				}()
				await(t, enough, "some exchanges")
				end := srv.shutdown
				if how == "Close" {
					end = srv.Close
				}
				if err := end(); err != nil {
					t.Errorf("%s: %v", how, err)
				}
				if err := await(t, ended, "the clients to notice"); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// Whoever asks for stats while the loops end gets an answer, and it is the truth.
func TestStatsWhileTheServerEnds(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for range 5 {
			srv := serve(t, v.Options, echoWrite(t))
			c := srv.dial()
			wantEcho(t, c, []byte("hello"))
			stop := make(chan struct{})
			asked := make(chan Stats, 4)
			for range 4 {
				go func() {
					var st Stats
					for {
						select {
						case <-stop:
							asked <- st
							return
						default:
							if st = srv.Stats(); st.InFlight < 0 {
								t.Errorf("%d operations are in flight", st.InFlight)
								asked <- st
								return
							}
						}
					}
				}()
			}
			if err := srv.shutdown(); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			close(stop)
			for range 4 {
				await(t, asked, "an answer to Stats")
			}
			if st := srv.Stats(); st.Accepted != 1 || st.Closed != 1 || st.InFlight != 0 || st.BytesReceived != 5 {
				t.Errorf("after the end: stats %+v", st)
			}
			_ = c.Close()
			srv.stop()
		}
	}, "default", "loops", "no sync message", "no features")
}

func TestListenAndServeReturnsErrServerClosed(t *testing.T) {
	before := footprintNow(t)
	for _, how := range []string{"Shutdown", "Close"} {
		t.Run(how, func(t *testing.T) {
			srv := &Server{Handler: Events{}}
			returned := make(chan error, 1)
			go func() { returned <- srv.ListenAndServe("127.0.0.1:0") }()
			until(t, "the server to listen", func() bool { return len(srv.Addrs()) == 1 })
			var err error
			if how == "Close" {
				err = srv.Close()
			} else {
				err = srv.Shutdown(t.Context())
			}
			if err != nil {
				t.Errorf("%s: %v", how, err)
			}
			if err := await(t, returned, "ListenAndServe to return"); !errors.Is(err, ErrServerClosed) {
				t.Errorf("ListenAndServe returned %v, want %v", err, ErrServerClosed)
			}
			if err := srv.Wait(); !errors.Is(err, ErrServerClosed) {
				t.Errorf("Wait after the end returned %v, want %v", err, ErrServerClosed)
			}
			if err := srv.Start("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "serves once") {
				t.Errorf("second start: %v", err)
			}
		})
	}
	before.check(t)
}

func TestMethodsOfAServerThatWasNotStarted(t *testing.T) {
	srv := &Server{Handler: Events{}}
	for _, c := range []struct {
		name string
		call func() error
	}{
		{name: "Shutdown", call: func() error { return srv.Shutdown(t.Context()) }},
		{name: "Close", call: srv.Close},
		{name: "Wait", call: srv.Wait},
	} {
		if err := c.call(); err == nil || !strings.Contains(err.Error(), "not been started") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n := len(srv.Addrs()); n != 0 {
		t.Errorf("%d addresses", n)
	}
	if st := srv.Stats(); st != (Stats{}) {
		t.Errorf("stats: %+v", st)
	}
}

// Leases that a handler keeps beyond the end are told, and their memory can still
// be read: the loop cannot know when it is no longer wanted.
func TestLeasesKeptBeyondTheEnd(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			var kept []bufring.Lease
			keep := false
			srv := serve(t, m.Options, script{data: func(c *Conn, b []byte) int {
				_, _ = c.Write(b)
				if keep {
					lease, err := c.Detach()
					if err != nil {
						t.Errorf("detach: %v", err)
					}
					kept = append(kept, lease)
				}
				return len(b)
			}})
			c := srv.dial()
			if m.bulk {
				srv.toBulk(c)
			}
			srv.onLoop(0, func(*loop) { keep = true })
			for i := range uint64(3) {
				wantEcho(t, c, payload(i, 100))
			}
			srv.held = 3
			err := srv.shutdown()
			if err == nil || !strings.Contains(err.Error(), "still") {
				t.Errorf("shutdown with 3 leases out: %v", err)
			}
			if err := srv.Wait(); err == nil || errors.Is(err, ErrServerClosed) {
				t.Errorf("Wait with 3 leases out: %v", err)
			}
			for i, lease := range kept {
				if err := differ(lease.Bytes(), payload(uint64(i), 100)); err != nil {
					t.Errorf("lease %d after the end: %v", i, err)
				}
				lease.Release()
			}
			wantRest(t, c, nil)
			srv.wantCause(ErrServerClosed)
		})
	}
}

// A server can be ended from one of its own callbacks, if not waited for there.
func TestShutdownFromACallback(t *testing.T) {
	ended, servers := make(chan error, 1), make(chan *server, 1)
	srv := serve(t, Options{Loops: 2, poison: true}, script{data: func(c *Conn, b []byte) int {
		_, _ = c.Write([]byte("bye"))
		own := <-servers
		go func() { ended <- own.shutdown() }()
		return len(b)
	}})
	servers <- srv
	c := srv.dial()
	write(t, c, []byte("x"))
	wantRest(t, c, []byte("bye"))
	if err := await(t, ended, "shutdown to return"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestManyServersInOneProcess(t *testing.T) {
	const servers = 10
	var all [servers]*server
	for i := range all {
		all[i] = serve(t, Options{Loops: 1 + i%2, poison: true}, echoLease(t))
	}
	err := crowd(servers*3, func(i int) error {
		c, err := connect(all[i%servers].addr())
		if err != nil {
			return err
		}
		defer c.Close()
		return errors.Join(exchange(c, payload(uint64(i), 100000)), c.CloseWrite(), func() error {
			n, err := io.Copy(io.Discard, c)
			if n > 0 {
				err = fmt.Errorf("%d bytes after the echo", n)
			}
			return err
		}())
	})
	if err != nil {
		t.Fatal(err)
	}
	// One after the other: what a footprint finds open must be its own.
	for i := len(all) - 1; i >= 0; i-- {
		all[i].stop()
	}
}
