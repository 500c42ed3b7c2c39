package main

import (
	"bufio"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/result"
)

// hold opens connections in equal steps and echoes one message on each as it
// opens, or in a silent plan on the last one of each step: a server that answers
// there has accepted those before. After each step it says so on out and waits for a
// line on stdin. It ends, and the process with all connections, at the last line or
// at the end of stdin.
func hold(p plan, stdin io.Reader, out io.Writer) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	pattern, err := newPattern()
	if err != nil {
		return err
	}
	in := bufio.NewReader(stdin)
	size := p.sizes[0]
	got := make([]byte, min(size, maxChunk))
	open := 0
	for step := 1; step <= p.steps; step++ {
		for end := p.conns * step / p.steps; open < end; open++ {
			fd, err := connect(p.addr, open)
			if err != nil {
				return err
			}
			if p.silent && open < end-1 {
				continue
			}
			if err := echoOnce(fd, pattern, open, size, got); err != nil {
				return err
			}
		}
		fmt.Fprintln(out, result.Holding)
		if _, err := in.ReadString('\n'); err != nil {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("wait for the word to go on: %w", err)
		}
	}
	return nil
}

// echoOnce sends one message and compares the answer. It blocks, piece by piece.
func echoOnce(fd int, p pattern, index, size int, got []byte) error {
	pos := p.start(index)
	for done := 0; done < size; {
		n := min(size-done, len(got))
		if _, err := unix.Write(fd, p.at(pos, n)); err != nil {
			return fmt.Errorf("connection %d: send: %w", index, err)
		}
		if err := expect(fd, p, index, pos, n, got); err != nil {
			return err
		}
		pos = p.advance(pos, n)
		done += n
	}
	return nil
}

// expect receives n bytes of the pattern from pos on, by way of buf. It blocks.
func expect(fd int, p pattern, index int, pos uint32, n int, buf []byte) error {
	for n > 0 {
		got, err := unix.Read(fd, buf[:min(n, len(buf))])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("connection %d: receive: %w", index, err)
		case got == 0:
			return fmt.Errorf("connection %d: the server closed it before it answered", index)
		}
		if err := p.mismatch(pos, buf[:got]); err != nil {
			return &payloadError{fmt.Errorf("connection %d: %w", index, err)}
		}
		pos = p.advance(pos, got)
		n -= got
	}
	return nil
}
