//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	stdnet "net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// unixVariants are the set-ups that what is particular to Unix sockets is tested
// with.
var unixVariants = []variant{
	{name: "uring", Options: Options{Loops: 1, poison: true}},
	{name: "loops", Options: Options{Loops: 3, poison: true}},
	{name: "epoll", Options: Options{Loops: 1, Engine: ring.Epoll, poison: true}},
	{name: "epoll loops", Options: Options{Loops: 3, Engine: ring.Epoll, poison: true}},
	{name: "no multishot receive on Unix", Options: Options{Loops: 1, Mask: ring.UnixRecvMultishot, poison: true}},
	{name: "small buffers", Options: Options{Loops: 1, RecvBufs: 4, RecvBufBytes: 64, poison: true}},
}

func overUnix(t *testing.T, test func(t *testing.T, o Options)) {
	for _, v := range unixVariants {
		t.Run(v.name, func(t *testing.T) { test(t, v.Options) })
	}
}

func dialUnix(t testing.TB, path string) *stdnet.UnixConn {
	t.Helper()
	c, err := stdnet.DialTimeout("unix", path, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*stdnet.UnixConn)
}

func TestUnixListener(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		for _, path := range []string{filepath.Join(t.TempDir(), "s"), "@ringnet " + t.Name()} {
			t.Run(path[:1], func(t *testing.T) {
				type seen struct{ local, remote Addr }
				ends := make(chan seen, 100)
				loops := make(chan int, 100)
				s := echoWrite(t)
				s.open = func(c *Conn) { ends <- seen{c.LocalAddr(), c.RemoteAddr()}; loops <- c.Loop() }
				srv := serve(t, o, s, "unix:"+path)
				if got := srv.Addrs()[0]; got != UnixAddr(path) || got.String() != "unix:"+path {
					t.Errorf("the server's address is %v", got)
				}
				for i := range 6 {
					c := dialUnix(t, path)
					wantEcho(t, c, payload(uint64(i), 1+i*40_000))
					if got := await(t, ends, "OnOpen"); got.local != UnixAddr(path) || got.remote != UnixAddr("") {
						t.Errorf("the ends are %v", got)
					}
					if got := await(t, loops, "OnOpen"); got != i%o.Loops {
						t.Errorf("connection %d lives on loop %d, want them in turn", i, got)
					}
					_ = c.Close()
				}
				name := "@ringnet peer of " + t.Name()
				c, err := (&stdnet.Dialer{LocalAddr: &stdnet.UnixAddr{Name: name, Net: "unix"}}).Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
				if got := await(t, ends, "OnOpen"); got.remote != UnixAddr(name) {
					t.Errorf("the peer is %v, want %v", got.remote, name)
				}
				srv.stop()
				if _, err := os.Lstat(path); err == nil {
					t.Error("the socket file is left behind")
				}
			})
		}
	})
}

func TestUnixAndTCPTogether(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		path := filepath.Join(t.TempDir(), "s")
		srv := serve(t, o, echoLease(t), "127.0.0.1:0", "unix:"+path, "unix:"+path+"2")
		for range 4 {
			wantEcho(t, srv.dial(), payload(1, 3000))
			wantEcho(t, dialUnix(t, path), payload(2, 3000))
			wantEcho(t, dialUnix(t, path+"2"), payload(3, 3000))
		}
	})
}

func TestUnixSocketFiles(t *testing.T) {
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	stale := func(kind int) func(path string) {
		return func(path string) {
			fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(fd)
		}
	}
	var listening []stdnet.Listener
	t.Cleanup(func() {
		for _, ln := range listening {
			_ = ln.Close()
		}
	})
	cases := []struct {
		name string
		make func(path string)
		err  error
		text string
	}{
		{name: "nothing", make: func(string) {}},
		{name: "stale", make: stale(unix.SOCK_STREAM)},
		{name: "stale datagram", make: stale(unix.SOCK_DGRAM)},
		{name: "in use", make: func(path string) {
			ln, err := stdnet.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			listening = append(listening, ln)
		}, err: unix.EADDRINUSE, text: "another socket listens there"},
		{name: "file", make: func(path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, err: unix.EADDRINUSE, text: "no socket"},
		{name: "folder", make: func(path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, err: unix.EADDRINUSE, text: "no socket"},
		{name: "link to a stale one", make: func(path string) {
			stale(unix.SOCK_STREAM)(path + ".target")
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		}, err: unix.EADDRINUSE, text: "no socket"},
		{name: "none/such/folder", make: func(string) {}, err: unix.ENOENT, text: "make it first"},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			path := at(cs.name)
			cs.make(path)
			before, _ := os.Lstat(path)
			if cs.err != nil {
				err := startFails(t, &Server{Handler: Events{}, Options: Options{Loops: 2}}, "127.0.0.1:0", "unix:"+path)
				if !errors.Is(err, cs.err) || !strings.Contains(err.Error(), cs.text) || !strings.Contains(err.Error(), path) {
					t.Errorf("start: %v", err)
				}
				if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
					t.Error("what was there is gone")
				}
				return
			}
			srv := serve(t, Options{Loops: 2, poison: true}, echoWrite(t), "unix:"+path)
			c := dialUnix(t, path)
			wantEcho(t, c, payload(1, 100))
			// It is taken now.
			if err := startFails(t, &Server{Handler: Events{}}, "unix:"+path); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("a second server: %v", err)
			}
			wantEcho(t, c, payload(1, 100))
			_ = c.Close()
			srv.stop()
			if _, err := os.Lstat(path); err == nil {
				t.Error("the file is left behind")
			}
		})
	}
	if b, err := os.ReadFile(at("file")); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// A server that starts must not leave its socket behind when something else fails.
func TestUnixSocketFileOfAServerThatDoesNotStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	err := startFails(t, &Server{Handler: Events{}, Options: Options{Loops: 2}}, "unix:"+path, "192.0.2.1:0")
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("start: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file is left behind")
	}
}

func TestUnixSocketFileOfAnotherIsNotRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := &Server{Handler: Events{}, Options: Options{Loops: 1}}
	if err := first.Start("unix:" + path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := &Server{Handler: Events{}, Options: Options{Loops: 1}}
	if err := second.Start("unix:" + path); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	_ = dialUnix(t, path).Close()
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestUnixMode(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o660, 0o777} {
		path := filepath.Join(t.TempDir(), "s")
		serve(t, Options{Loops: 1, UnixMode: mode}, echoWrite(t), "unix:"+path)
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %v: %v, %v", mode, info, err)
		}
	}
	err := startFails(t, &Server{Handler: Events{}, Options: Options{UnixMode: os.ModeSetuid | 0o700}}, "unix:/nowhere")
	if err == nil || !strings.Contains(err.Error(), "UnixMode") {
		t.Error(err)
	}
}

// Servers that start at the same moment on a stale file: one has it.
func TestUnixSocketFileIsTakenOverOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	var mu sync.Mutex
	var started []*Server
	err = crowd(6, func(int) error {
		srv := &Server{Handler: Events{}, Options: Options{Loops: 1}}
		switch err := srv.Start("unix:" + path); {
		case err == nil:
			mu.Lock()
			defer mu.Unlock()
			started = append(started, srv)
		case !errors.Is(err, unix.EADDRINUSE):
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(started) != 1 {
		t.Errorf("%d servers have the socket, want one", len(started))
	}
	for _, srv := range started {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPeerCredentials(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		path := filepath.Join(t.TempDir(), "s")
		got := make(chan any, 10)
		look := func(c *Conn) {
			if cr, err := c.PeerCredentials(); err != nil {
				got <- err
			} else {
				got <- cr
			}
		}
		srv := serve(t, o, script{open: look, close: func(c *Conn, _ error) { look(c) }}, "unix:"+path, "127.0.0.1:0")
		want := Credentials{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
		c := dialUnix(t, path)
		if cr := await(t, got, "OnOpen"); cr != any(want) {
			t.Errorf("credentials are %v, want %v", cr, want)
		}
		_ = c.Close()
		if cr := await(t, got, "OnClose"); cr != any(want) {
			t.Errorf("in OnClose credentials are %v, want %v", cr, want)
		}
		dialTo(t, srv.Addrs()[1])
		if err, _ := await(t, got, "OnOpen").(error); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("on TCP: %v", err)
		}
	})
}

func TestOptionsOfTCPOnUnixSockets(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		path := filepath.Join(t.TempDir(), "s")
		done := make(chan struct{})
		serve(t, o, script{open: func(c *Conn) {
			defer close(done)
			for name, err := range map[string]error{
				"SetNoDelay": c.SetNoDelay(true), "SetKeepAlive": c.SetKeepAlive(time.Second, 0, 0), "SetLinger": c.SetLinger(0),
				"SetOption": c.SetOption(unix.IPPROTO_TCP, unix.TCP_CORK, 1),
			} {
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("%s answers %v", name, err)
				}
			}
			if err := c.SetReadBuffer(30000); err != nil {
				t.Error(err)
			}
			if err := c.SetWriteBuffer(30000); err != nil {
				t.Error(err)
			}
		}}, "unix:"+path)
		dialUnix(t, path)
		await(t, done, "OnOpen")
	})
}

// A receive of a Unix socket stops behind bytes that came with descriptors, and
// before urgent ones: short does not mean that it is empty.
func TestUnixDescriptorsAndUrgentBytesAmongTheData(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		for _, bulk := range []bool{false, true} {
			t.Run(fmt.Sprint("bulk ", bulk), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "s")
				srv := serve(t, o, echoWrite(t), "unix:"+path)
				c := dialUnix(t, path)
				wantEcho(t, c, payload(1, 10))
				if bulk {
					srv.toBulk(c)
				}
				raw, err := c.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				for round := range 20 {
					release := srv.hold(0) // so that all of it is there when the loop looks
					var sent bytes.Buffer
					for i := range 5 {
						p := payload(uint64(round*10+i), 700+i)
						rights := unix.UnixRights(0)
						if i%2 == 1 {
							rights = nil
						}
						if n, _, err := c.WriteMsgUnix(p, rights, nil); err != nil || n != len(p) {
							t.Fatalf("send %d: %d, %v", i, n, err)
						}
						sent.Write(p)
						if i == 3 && round%2 == 1 {
							var errno error
							_ = raw.Control(func(fd uintptr) { errno = unix.Sendto(int(fd), []byte{'!'}, unix.MSG_OOB, nil) })
							if errno != nil && errno != unix.EOPNOTSUPP {
								t.Fatal(errno)
							}
						}
					}
					release()
					wantRead(t, c, sent.Bytes())
				}
			})
		}
	})
}

func TestUnixPeersEnd(t *testing.T) {
	overUnix(t, func(t *testing.T, o Options) {
		path := filepath.Join(t.TempDir(), "s")
		srv := serve(t, o, echoWrite(t), "unix:"+path)
		for i := range few(40) {
			c := dialUnix(t, path)
			p := payload(uint64(i), 1+i*i*500)
			go func() {
				_, _ = c.Write(p) // and the end at once, behind it
				_ = c.CloseWrite()
			}()
			wantRest(t, c, p)
			_ = c.Close()
			if err := srv.cause(); err == nil {
				t.Error("the cause is nil")
			}
		}
	})
}

// Connections that were accepted and are on their way to another loop when the
// server ends.
func TestUnixServerEndsAmongConnects(t *testing.T) {
	for _, o := range []Options{{Loops: 3, poison: true}, {Loops: 3, Engine: ring.Epoll, poison: true}} {
		for range few(10) {
			path := filepath.Join(t.TempDir(), "s")
			srv := serve(t, o, echoWrite(t), "unix:"+path)
			stop := make(chan struct{})
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if c, err := stdnet.Dial("unix", path); err == nil {
							_, _ = c.Write([]byte("x"))
							_ = c.Close()
						}
					}
				})
			}
			until(t, "some connections", func() bool { return srv.Stats().Accepted > 20 })
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			close(stop)
			all.Wait()
			srv.stop()
		}
	}
}
