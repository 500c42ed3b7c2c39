//go:build linux

// Pack writes a folder as an initramfs: an archive in cpio's "newc" format, not
// compressed, since the guest that would have to inflate it is emulated.
package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: pack folder >initramfs")
	}
	w := &archive{w: bufio.NewWriter(os.Stdout)}
	if err := w.folder(os.DirFS(os.Args[1])); err != nil {
		log.Fatal(err)
	}
}

// archive is what has been written of one.
type archive struct {
	w *bufio.Writer
	n int64 // bytes
}

func (a *archive) folder(root fs.FS) error {
	// The kernel opens /dev/console for init before anything is mounted.
	if err := a.entry("dev", directory|0o755, 0, 0, nil, 0); err != nil {
		return err
	}
	if err := a.entry("dev/console", character|0o600, 5, 1, nil, 0); err != nil {
		return err
	}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			return a.entry(name, directory|0o755, 0, 0, nil, 0)
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return a.entry(name, regular|uint32(info.Mode().Perm()), 0, 0, f, info.Size())
	})
	if err != nil {
		return err
	}
	if err := a.entry("TRAILER!!!", 0, 0, 0, nil, 0); err != nil {
		return err
	}
	return a.w.Flush()
}

// The kinds of a file, as stat has them in its mode.
const (
	character = 0o020000
	directory = 0o040000
	regular   = 0o100000
)

// entry writes a file: a header of 13 numbers, the name, and what is in it, each
// padded to four bytes. See Documentation/driver-api/early-userspace/buffer-format.rst.
func (a *archive) entry(name string, mode uint32, major, minor int, content io.Reader, size int64) error {
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		0, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	a.n += int64(n)
	if err != nil {
		return err
	}
	if err := a.pad(); err != nil || content == nil {
		return err
	}
	copied, err := io.Copy(a.w, content)
	a.n += copied
	if err != nil {
		return err
	}
	if copied != size {
		return fmt.Errorf("%s: read %d of %d bytes", name, copied, size)
	}
	return a.pad()
}

func (a *archive) pad() error {
	n, err := a.w.Write(make([]byte, -a.n&3))
	a.n += int64(n)
	return err
}
