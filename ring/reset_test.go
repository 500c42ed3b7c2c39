//go:build linux

package ring

import (
	"errors"
	"testing"
)

// The probe must not depend on how busy the machine is.
func TestProbeOfResetsAnswersTheSameEachTime(t *testing.T) {
	want := probeRecvMultishotReset()
	t.Log(want)
	for range 50 {
		if err := probeRecvMultishotReset(); errors.Is(err, ErrNotSupported) != errors.Is(want, ErrNotSupported) ||
			err != nil && !errors.Is(err, ErrNotSupported) {
			t.Fatalf("first %v, then %v", want, err)
		}
	}
}
