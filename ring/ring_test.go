package ring

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// open makes an enabled ring on the test's own thread.
func open(t testing.TB, c Config) *Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Enable(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestNopCompletesWithItsUserData(t *testing.T) {
	r := open(t, Config{})
	e := r.Entry()
	e.PrepareNop()
	e.SetUserData(42)
	if err := r.Wait(1, -1); err != nil {
		t.Fatal(err)
	}
	var c [4]Completion
	if n := r.Reap(c[:]); n != 1 || c[0].UserData != 42 || c[0].Res != 0 {
		t.Fatalf("reaped %d, first %+v", n, c[0])
	}
}

func TestFeaturesOfThisKernel(t *testing.T) {
	for i := range featureNames {
		f := Features(1 << i)
		err := Have(f)
		t.Logf("%v: %v", f, err)
		if err != nil && !errors.Is(err, ErrNotSupported) {
			t.Errorf("probe could not tell: %v", err)
		}
	}
	_ = unix.EINVAL
}
