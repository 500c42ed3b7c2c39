//go:build linux && (amd64 || arm64)

package sys

import (
	"bytes"
	"testing"
)

// mapped is memory of n bytes that goes with the test.
func mapped(t testing.TB, n int) []byte {
	t.Helper()
	mem, err := Map(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmap(mem); err != nil {
			t.Error(err)
		}
	})
	return mem
}

func TestMapGivesZeroedMemoryOnAPageBoundary(t *testing.T) {
	for _, n := range []int{1, PageBytes - 1, PageBytes, PageBytes + 1, 1 << 20} {
		mem := mapped(t, n)
		if len(mem) != n {
			t.Errorf("Map(%d) gave %d bytes", n, len(mem))
		}
		if at := Address(mem); at%uint64(PageBytes) != 0 {
			t.Errorf("Map(%d) is at %#x, not on a page boundary", n, at)
		}
		if i := bytes.IndexFunc(mem, func(r rune) bool { return r != 0 }); i >= 0 {
			t.Errorf("Map(%d): byte %d is not zero", n, i)
		}
		mem[0], mem[n-1] = 1, 2 // writable from end to end
	}
}

func TestMapRefusesSizesThatMakeNoSense(t *testing.T) {
	for _, n := range []int{0, -1, 1 << 62} {
		if mem, err := Map(n); err == nil {
			t.Errorf("Map(%d) gave %d bytes", n, len(mem))
			_ = Unmap(mem)
		}
	}
}

func TestUnmapOfNothingIsHarmless(t *testing.T) {
	if err := Unmap(nil); err != nil {
		t.Error(err)
	}
}

func TestUnmapTwiceIsAnError(t *testing.T) {
	mem, err := Map(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmap(mem); err != nil {
		t.Fatal(err)
	}
	if Unmap(mem) == nil {
		t.Error("memory was unmapped twice without an error")
	}
}

func TestDontNeedEmptiesThePagesAndKeepsTheMapping(t *testing.T) {
	mem := mapped(t, 4*PageBytes)
	for i := range mem {
		mem[i] = 0xff
	}
	middle := mem[PageBytes : 3*PageBytes]
	if err := DontNeed(middle); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(middle, make([]byte, len(middle))) {
		t.Error("pages that were given up still hold their bytes")
	}
	if mem[PageBytes-1] != 0xff || mem[3*PageBytes] != 0xff {
		t.Error("pages beside those given up lost their bytes")
	}
	middle[0] = 1
}

// Without the escape the array would stay on the goroutine's stack, which moves
// when it grows, while the kernel goes on with the old address.
func TestAddressMovesItsArgumentOffTheStack(t *testing.T) {
	var at uint64
	if n := testing.AllocsPerRun(100, func() {
		var onStack [16]byte
		at = Address(onStack[:])
	}); n != 1 {
		t.Errorf("a local array was allocated %v times on the heap: it must be once", n)
	}
	if at == 0 {
		t.Error("address is zero")
	}
}

func TestAddressOfAPartIsInsideTheWhole(t *testing.T) {
	mem := mapped(t, 100)
	if got, want := Address(mem[40:60]), Address(mem)+40; got != want {
		t.Errorf("address of mem[40:60] is %#x, want %#x", got, want)
	}
	if Address(nil) != 0 {
		t.Error("address of nothing is not zero")
	}
}
