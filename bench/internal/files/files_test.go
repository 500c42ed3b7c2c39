package files

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"example.com/ringnet/bench/internal/payload"
)

func TestEveryFileHasItsPartOfTheStream(t *testing.T) {
	for _, size := range []int{1, 1000, payload.Period, 3<<20 + 5} {
		dir := t.TempDir()
		if err := Write(dir, size, 3); err != nil {
			t.Fatal(err)
		}
		stream := make([]byte, payload.Period+size)
		payload.Fill(stream)
		for i := range 3 {
			got, err := os.ReadFile(filepath.Join(dir, Name(size, i)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, stream[Start(i):][:size]) {
				t.Errorf("file %d of %d bytes is not what it should be", i, size)
			}
		}
	}
	if len(Name(1024, 0)) != len(Name(1024, Max-1)) {
		t.Error("names differ in length")
	}
	if err := Write(filepath.Join(t.TempDir(), "nowhere"), 1, 1); err == nil {
		t.Error("a directory that is not there is written to")
	}
}
