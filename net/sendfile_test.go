//go:build linux

package net

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// fileOf writes a file and opens it for sending.
func fileOf(t testing.TB, content []byte) (*File, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return f, name
}

// evict has the page cache forget a file, and reports whether it did.
func evict(t testing.TB, name string) bool {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// The last byte, since the kernel begins to read where it has answered EAGAIN.
	_, err = unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, st.Size()-1, unix.RWF_NOWAIT)
	return errors.Is(err, unix.EAGAIN)
}

// tellsOfWaiting reports that a file's file system knows whether a read would wait for
// a disk, as tmpfs does not.
func tellsOfWaiting(f *os.File) bool {
	_, err := unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, 0, unix.RWF_NOWAIT)
	return !errors.Is(err, unix.EOPNOTSUPP)
}

func TestSendFileIsByteExact(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		sizes := []int{0, 1, 4095, 4096, 5000, 16384, 16385, 131072, 1<<20 + 7, 5<<20 + 1}
		content := payload(7, sizes[len(sizes)-1])
		f, _ := fileOf(t, content)
		for _, n := range sizes {
			for _, off := range []int{0, 1, 4096, len(content) - n} {
				if off+n > len(content) {
					continue
				}
				t.Run(fmt.Sprintf("%d from %d", n, off), func(t *testing.T) {
					head, tail := []byte("here it comes: "), payload(9, 3000)
					var calls atomic.Int32
					srv := serve(t, v.Options, script{open: func(c *Conn) {
						_, _ = c.Write(head)
						err := c.SendFile(f, int64(off), int64(n), func(err error) {
							calls.Add(1)
							if err != nil {
								t.Errorf("done: %v", err)
							}
						})
						if err != nil {
							t.Errorf("SendFile: %v", err)
						}
						_, _ = c.Write(tail)
						c.Close()
					}})
					c := srv.dial()
					defer c.Close()
					wantRest(t, c, bytes.Join([][]byte{head, content[off : off+n], tail}, nil))
					srv.wantCause(nil)
					if calls.Load() != 1 {
						t.Errorf("done was called %d times, want once", calls.Load())
					}
				})
			}
		}
	}, "default", "poisoned", "epoll", "no features", "queues of 1 and 2", "one large buffer", "low water marks")
}

// It was once mapped only as far as the first transfer went.
func TestFileIsMappedAsAWholeWhateverIsSentFirst(t *testing.T) {
	const first, size = 40_000, 1 << 20
	content := payload(31, size)
	f, _ := fileOf(t, content)
	srv := serve(t, Options{Loops: 1}, script{data: func(c *Conn, b []byte) int {
		for range b {
			if err := c.SendFile(f, 0, first, nil); err != nil {
				t.Errorf("SendFile: %v", err)
			}
			if err := c.SendFile(f, first, -1, nil); err != nil {
				t.Errorf("SendFile: %v", err)
			}
		}
		return len(b)
	}})
	c := srv.dial()
	defer c.Close()
	write(t, c, []byte{1})
	wantRead(t, c, content)
	if n := srv.Stats().FileBytesMapped; n < size/2 {
		t.Errorf("%d of %d bytes were sent from the file's mapping", n, size)
	}
}

// Many transfers of the same file at once, on two buffers, to peers of which some
// do not read for a while.
func TestManyFilesOnFewBuffers(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		content := payload(11, 600_000)
		f, name := fileOf(t, content)
		o := v.Options
		o.FileBufs = 2
		srv := serve(t, o, script{open: func(c *Conn) {
			for range 3 {
				if err := c.SendFile(f, 0, -1, nil); err != nil {
					t.Errorf("SendFile: %v", err)
				}
			}
			c.Close()
		}})
		var stalled []peerConn
		for range 5 {
			stalled = append(stalled, srv.dial())
		}
		evict(t, name)
		want := bytes.Repeat(content, 3)
		err := crowd(few(24), func(int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			got, err := io.ReadAll(c)
			return errors.Join(err, differ(got, want))
		})
		if err != nil {
			t.Errorf("%v\nstats: %+v", err, srv.Stats())
		}
		for _, c := range stalled {
			wantRest(t, c, want)
			_ = c.Close()
		}
	}, "default", "epoll", "no features", "queues of 1 and 2")
}

// What is not in the page cache is read on the ring.
func TestColdFile(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		content := payload(13, 3<<20)
		f, name := fileOf(t, content)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			if err := c.SendFile(f, 0, -1, nil); err != nil {
				t.Errorf("SendFile: %v", err)
			}
			return len(b)
		}})
		if !evict(t, name) {
			t.Skip("this file system does not forget files, or cannot tell")
		}
		c := srv.dial()
		defer c.Close()
		write(t, c, []byte{1})
		wantRead(t, c, content)
		if st := srv.Stats(); st.ColdReads == 0 {
			t.Errorf("no read waited for the disk: %+v", st)
		}
	}, "default", "epoll", "no features", "queues of 1 and 2")
}

func TestFileThatShrinksResetsItsConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, to := range []int64{0, 5000, 1<<20 - 1, 3 << 20} {
			t.Run(fmt.Sprint(to), func(t *testing.T) {
				content := payload(17, 4<<20)
				f, name := fileOf(t, content)
				done := make(chan error, 1)
				srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
					// So that it has to wait for the peer.
					_ = c.SetWriteBuffer(64 << 10)
					if err := c.SendFile(f, 0, -1, func(err error) { done <- err }); err != nil {
						t.Errorf("SendFile: %v", err)
					}
					if err := os.Truncate(name, to); err != nil {
						t.Error(err)
					}
					return len(b)
				}})
				c := srv.dial()
				defer c.Close()
				write(t, c, []byte{1})
				got, err := io.ReadAll(c)
				if !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("after %d bytes the peer sees %v, want a reset", len(got), err)
				}
				cause := srv.cause()
				var file *FileError
				if !errors.As(cause, &file) || !errors.Is(cause, io.ErrUnexpectedEOF) || file.Name != name {
					t.Errorf("cause: %v, want a *FileError about %s", cause, name)
				}
				if err := await(t, done, "done"); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("done: %v", err)
				}
				if n := srv.Stats().FileErrors; n != 1 {
					t.Errorf("%d file errors, want 1", n)
				}
			})
		}
	}, "default", "epoll", "no features")
}

// Requests for files are short, answers long: a peer that asks for many is not
// read from until some have gone out.
func TestManyRequestsForFilesOnOneConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		content := payload(19, 100_000)
		f, _ := fileOf(t, content)
		most := 0
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			for range b {
				if err := c.SendFile(f, 0, -1, nil); err != nil {
					t.Errorf("SendFile: %v", err)
				}
			}
			most = max(most, int(c.seldom().files))
			return len(b)
		}})
		c := srv.dial()
		defer c.Close()
		requests := few(200)
		go func() {
			for range requests {
				_, _ = c.Write([]byte{1})
			}
		}()
		for range requests {
			wantRead(t, c, content)
		}
		srv.onLoop(0, func(*loop) {
			if most > filesMax+4096 {
				t.Errorf("%d files waited", most)
			}
		})
	}, "default", "epoll")
}

func TestFileMayBeClosedWhileItIsSent(t *testing.T) {
	content := payload(23, 5<<20)
	var f *File
	ready := make(chan struct{})
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		<-ready
		if err := c.SendFile(f, 0, -1, nil); err != nil {
			t.Errorf("SendFile: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := c.SendFile(f, 0, -1, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("SendFile of a closed file: %v", err)
		}
		c.Close()
	}})
	f, _ = fileOf(t, content) // after what is open was counted
	close(ready)
	c := srv.dial()
	defer c.Close()
	wantRest(t, c, content)
}

func TestPeerThatLeavesInTheMiddleOfAFile(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		f, _ := fileOf(t, payload(29, 8<<20))
		done := make(chan error, 1)
		srv := serve(t, v.Options, script{open: func(c *Conn) {
			if err := c.SendFile(f, 0, -1, func(err error) { done <- err }); err != nil {
				t.Errorf("SendFile: %v", err)
			}
		}})
		c := srv.dial()
		if _, err := io.ReadFull(c, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := await(t, done, "done"); err == nil {
			t.Error("done: no error")
		}
		if srv.cause() == nil {
			t.Error("no cause")
		}
	}, "default", "epoll", "no features")
}

// A file that is opened with O_NONBLOCK, as OpenFile does for the sake of fifos, was
// read on the loop's thread also where that waits for a server.
func TestFilesAreNotReadOnTheLoopWhereThatWaits(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		f, err := os.CreateTemp(dir, "ringnet-test-")
		if err != nil {
			t.Skip(err) // there need not be a /dev/shm
		}
		_ = f.Close()
		t.Cleanup(func() { _ = os.Remove(f.Name()) })
		var st unix.Statfs_t
		if err := unix.Statfs(f.Name(), &st); err != nil {
			t.Fatal(err)
		}
		want := st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC
		for name, open := range map[string]func(string) (*File, error){
			"OpenFile": OpenFile,
			"NewFile": func(name string) (*File, error) {
				f, err := os.Open(name)
				if err != nil {
					return nil, err
				}
				return NewFile(f)
			},
		} {
			file, err := open(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			flags, err := unix.FcntlInt(uintptr(file.fd), unix.F_GETFL, 0)
			if got := flags&unix.O_NONBLOCK != 0; err != nil || got != want {
				t.Errorf("%s in %s, a file system of type %x: O_NONBLOCK %v (%v), want %v", name, dir, st.Type, got, err, want)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFilesThatCannotBeSent(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenFile(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := OpenFile(dir); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(fifo); err == nil || !strings.Contains(err.Error(), "fifo") {
		t.Errorf("a fifo: %v", err)
	}
	if _, err := OpenFile("/dev/null"); err == nil || !strings.Contains(err.Error(), "device") {
		t.Errorf("a device: %v", err)
	}
	if _, err := NewFile(nil); err == nil {
		t.Error("nil: no error")
	}
	f, _ := fileOf(t, payload(1, 1000))
	asked := make(chan struct{})
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		defer close(asked)
		never := func(error) { t.Error("done is called although nothing was taken") }
		for _, r := range [][2]int64{{-1, 5}, {0, 1001}, {1000, 1}, {1001, -1}, {1 << 62, 1 << 62}} {
			if err := c.SendFile(f, r[0], r[1], never); err == nil || !strings.Contains(err.Error(), "1000") {
				t.Errorf("%d bytes from %d on of 1000: %v", r[1], r[0], err)
			}
		}
		if err := c.SendFile(nil, 0, 1, never); !errors.Is(err, ErrClosed) {
			t.Errorf("no file: %v", err)
		}
		if err := c.SendFile(f, 1000, -1, nil); err != nil {
			t.Errorf("nothing, at the end: %v", err)
		}
		c.Close()
		if err := c.SendFile(f, 0, 1, never); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}})
	c := srv.dial()
	defer c.Close()
	<-asked
	wantRest(t, c, nil)
}

func TestMemoryIsSentAndToldFree(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		sizes := []int{1, 100, 5000, 16384, 70_000, 1 << 20}
		var want []byte
		told := make(chan int, 1000)
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			for i, n := range sizes {
				mem := payload(uint64(31+i), n)
				err := c.SendMemory(mem, func(err error) {
					if err != nil {
						t.Errorf("done: %v", err)
					}
					clear(mem)
					told <- i
				})
				if err != nil {
					t.Errorf("SendMemory: %v", err)
				}
			}
			if err := c.SendMemory(nil, func(err error) { told <- -1 }); err != nil {
				t.Errorf("SendMemory of nothing: %v", err)
			}
			return len(b)
		}})
		for i, n := range sizes {
			want = append(want, payload(uint64(31+i), n)...)
		}
		c := srv.dial()
		defer c.Close()
		for range 3 {
			write(t, c, []byte{1})
			wantRead(t, c, want)
			for range len(sizes) + 1 {
				await(t, told, "done")
			}
		}
	})
}

func TestStaticContent(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		content := payload(37, 300_000)
		s, err := NewStatic(content)
		if err != nil {
			t.Fatal(err)
		}
		srv := serve(t, v.Options, script{data: func(c *Conn, b []byte) int {
			for range b {
				_, _ = c.Write([]byte("head"))
				if err := c.SendStatic(s, 0, -1); err != nil {
					t.Errorf("SendStatic: %v", err)
				}
				if err := c.SendStatic(s, 1000, 5000); err != nil {
					t.Errorf("SendStatic: %v", err)
				}
			}
			return len(b)
		}, eof: func(c *Conn) { c.Close() }})
		want := bytes.Join([][]byte{[]byte("head"), content, content[1000:6000]}, nil)
		err = crowd(4, func(int) error {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			defer c.Close()
			for range 5 {
				if _, err := c.Write([]byte{1}); err != nil {
					return err
				}
				got := make([]byte, len(want))
				if _, err := io.ReadFull(c, got); err != nil {
					return err
				}
				if err := differ(got, want); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}, "default", "poisoned", "epoll", "loops", "no features", "queues of 1 and 2")
}

func TestStaticThatCannotBeSent(t *testing.T) {
	if _, err := NewStatic(nil); err == nil {
		t.Error("a Static of nothing: no error")
	}
	s, err := NewStatic(payload(1, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != 1000 {
		t.Errorf("Len: %d", s.Len())
	}
	asked := make(chan struct{})
	srv := serve(t, Options{Loops: 1}, script{open: func(c *Conn) {
		defer close(asked)
		for _, r := range [][2]int{{-1, 5}, {0, 1001}, {1001, -1}, {1000, 1}} {
			if err := c.SendStatic(s, r[0], r[1]); err == nil || !strings.Contains(err.Error(), "1000") {
				t.Errorf("%d from %d on of 1000: %v", r[1], r[0], err)
			}
		}
		if err := c.SendStatic(nil, 0, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("no Static: %v", err)
		}
		if err := c.SendStatic(s, 0, -1); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil { // while it waits to be sent
			t.Error(err)
		}
		if err := s.Close(); err == nil {
			t.Error("a second Close: no error")
		}
		if err := c.SendStatic(s, 0, -1); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed Static: %v", err)
		}
		c.Close()
	}})
	c := srv.dial()
	defer c.Close()
	wantRest(t, c, payload(1, 1000))
	<-asked
}

// On loopback the kernel copies, says so, and is believed.
func TestZeroCopyTurnsItselfOffWhereTheKernelCopies(t *testing.T) {
	needUring(t)
	if ring.Have(ring.UsageReport) != nil {
		t.Skip("this kernel does not report")
	}
	content := payload(41, 64<<10)
	s, err := NewStatic(content)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv := serve(t, Options{Loops: 1}, script{data: func(c *Conn, b []byte) int {
		if err := c.SendStatic(s, 0, -1); err != nil {
			t.Error(err)
		}
		return len(b)
	}})
	c := srv.dial()
	defer c.Close()
	const requests = 200
	for range requests {
		write(t, c, []byte{1})
		wantRead(t, c, content)
	}
	st := srv.Stats()
	if st.ZeroCopySends == 0 || st.ZeroCopyCopied == 0 {
		t.Errorf("%d zero-copy sends, %d copied: want some", st.ZeroCopySends, st.ZeroCopyCopied)
	}
	if st.ZeroCopySends > 8 {
		t.Errorf("%d of %d sends were zero-copy sends: want it off after a few", st.ZeroCopySends, requests)
	}
	if len(srv.loops[0].statics.index) != 1 {
		t.Errorf("%d Statics are registered, want 1", len(srv.loops[0].statics.index))
	}
}

func TestNoZeroCopyWhereItIsMaskedOrSwitchedOff(t *testing.T) {
	for name, o := range map[string]Options{
		"masked":       {Loops: 1, Mask: ring.SendZC},
		"no report":    {Loops: 1, Mask: ring.UsageReport},
		"switched off": {Loops: 1, ZeroCopyFrom: -1},
		"epoll":        {Loops: 1, Engine: ring.Epoll},
	} {
		t.Run(name, func(t *testing.T) {
			content := payload(43, 200_000)
			srv := serve(t, o, script{open: func(c *Conn) {
				if err := c.SendMemory(content, nil); err != nil {
					t.Error(err)
				}
				c.Close()
			}})
			c := srv.dial()
			defer c.Close()
			wantRest(t, c, content)
			if n := srv.Stats().ZeroCopySends; n != 0 {
				t.Errorf("%d zero-copy sends", n)
			}
		})
	}
}
