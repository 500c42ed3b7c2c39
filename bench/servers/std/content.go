package main

import (
	"io"
	"net"
	"os"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
)

// content is what requests ask for: a file, or the stream in memory.
type content struct {
	file   string
	stream []byte
}

// pieceBytes is how much of the stream is written at a time.
const pieceBytes = 256 << 10

func newContent(file string) *content {
	c := &content{file: file}
	if file == "" {
		c.stream = make([]byte, payload.Period+pieceBytes)
		payload.Fill(c.stream)
	}
	return c
}

// serve answers the requests of one connection.
func (c *content) serve(conn net.Conn) {
	send := c.fromMemory
	if c.file != "" {
		f, err := os.Open(c.file)
		if err != nil {
			control.Fail(err)
		}
		defer f.Close()
		send = func(w io.Writer, r control.Request) error { return fromFile(w, f, r) }
	}
	b := make([]byte, control.RequestBytes)
	for {
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		if err := send(conn, control.ParseRequest(b)); err != nil {
			return
		}
	}
}

// fromFile copies a part of a file to a connection, which is sendfile(2) there.
func fromFile(w io.Writer, f *os.File, r control.Request) error {
	if _, err := f.Seek(int64(r.Offset), io.SeekStart); err != nil {
		return err
	}
	_, err := io.CopyN(w, f, int64(r.N))
	return err
}

func (c *content) fromMemory(w io.Writer, r control.Request) error {
	for r.N > 0 {
		n := min(r.N, pieceBytes)
		if _, err := w.Write(c.stream[r.Offset%payload.Period:][:n]); err != nil {
			return err
		}
		r.Offset, r.N = r.Offset+n, r.N-n
	}
	return nil
}
