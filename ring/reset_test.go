//go:build linux

package ring

import (
	"errors"
	"testing"
)

// The probes must not depend on how busy the machine is.
func TestProbesOfResetsAnswerTheSameEachTime(t *testing.T) {
	for _, p := range []struct {
		name string
		try  func() error
	}{
		{"reset", probeRecvMultishotReset},
		{"late", probeRecvMultishotLate},
	} {
		t.Run(p.name, func(t *testing.T) {
			want := p.try()
			t.Log(want)
			for range 50 {
				if err := p.try(); errors.Is(err, ErrNotSupported) != errors.Is(want, ErrNotSupported) ||
					err != nil && !errors.Is(err, ErrNotSupported) {
					t.Fatalf("first %v, then %v", want, err)
				}
			}
		})
	}
}
