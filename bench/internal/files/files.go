// Package files is the files that benchmarks of file servers ask for: what they are
// called, and what is in them.
package files

import (
	"fmt"
	"os"
	"path/filepath"

	"example.com/ringnet/bench/internal/payload"
)

// Max is how many files of one size there can be.
const Max = 100_000

// Name is the i-th file of so many bytes. The names of a size are equally long. By its
// ending every server knows the type: net/http would have to look into the file else.
func Name(size, i int) string { return fmt.Sprintf("%d-%05d.jpg", size, i) }

// Start is where the i-th file begins in the stream of package payload, so that one
// is not taken for another.
func Start(i int) int { return i * 4099 % payload.Period }

// Write makes n files of so many bytes in a directory.
func Write(dir string, size, n int) error {
	const piece = 1 << 20
	stream := make([]byte, payload.Period+min(size, piece))
	payload.Fill(stream)
	for i := range n {
		if err := write(filepath.Join(dir, Name(size, i)), stream, Start(i), size); err != nil {
			return fmt.Errorf("write the files to be sent: %w: choose another directory with TMPDIR", err)
		}
	}
	return nil
}

func write(path string, stream []byte, at, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size > 0 {
		n, err := f.Write(stream[at:][:min(size, len(stream)-payload.Period)])
		if err != nil {
			return err
		}
		size -= n
		at = (at + n) % payload.Period
	}
	return f.Close()
}
