//go:build linux

package ring

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFeaturesOfThisKernelAreKnown(t *testing.T) {
	for i := range featureNames {
		f := Features(1 << i)
		err := Have(f)
		t.Logf("%v: %v", f, err)
		if err != nil && !errors.Is(err, ErrNotSupported) {
			t.Errorf("the probe could not tell: %v", err)
		}
	}
}

// KernelFloor promises these: where io_uring is that new, they must be found.
func TestFeaturesOfTheKernelFloorAreFound(t *testing.T) {
	const ofLinux61 = BufferRings | AcceptMultishot | RecvMultishot | PollMultishot | SendZC | SendmsgZC |
		DirectDescriptors | MessageRing | RegisteredRing | DeferTaskrun | SingleIssuer
	for i := range featureNames {
		if f := Features(1 << i); f&ofLinux61 != 0 {
			if err := Have(f); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestHaveAsksForOneFeatureAtATime(t *testing.T) {
	for _, f := range []Features{0, SendZC | SendmsgZC, AllFeatures, endOfFeatures, 1 << 31} {
		err := Have(f)
		if err == nil || !strings.Contains(err.Error(), "one feature at a time") || errors.Is(err, ErrNotSupported) {
			t.Errorf("Have(%#x): %v", uint32(f), err)
		}
	}
}

func TestHaveIsSafeForConcurrentUse(t *testing.T) {
	defer forget()()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range featureNames {
				if err := Have(1 << i); err != nil && !errors.Is(err, ErrNotSupported) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// forget makes every probe run again, and returns what restores their answers.
func forget() (restore func()) {
	type answer struct {
		known bool
		err   error
	}
	var before [len(probes)]answer
	for i := range probes {
		p := &probes[i]
		p.mu.Lock()
		before[i] = answer{p.known, p.answer}
		p.known, p.answer = false, nil
		p.mu.Unlock()
	}
	return func() {
		for i := range probes {
			p := &probes[i]
			p.mu.Lock()
			p.known, p.answer = before[i].known, before[i].err
			p.mu.Unlock()
		}
	}
}

func TestHaveGivesOneOfThreeAnswersAndRemembersTwo(t *testing.T) {
	tests := []struct {
		name       string
		errno      unix.Errno
		missing    bool // the answer is no
		remembered bool
	}{
		{name: "no such system call", errno: unix.ENOSYS, missing: true, remembered: true},
		{name: "refused", errno: unix.EPERM, missing: true, remembered: true},
		{name: "an unknown flag", errno: unix.EINVAL, missing: true, remembered: true},
		{name: "no descriptor", errno: unix.EMFILE},
		{name: "no memory", errno: unix.ENOMEM},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer forget()()
			first := map[Features]error{}
			withFilter(t, unix.SYS_IO_URING_SETUP, tt.errno, func() {
				for i := range featureNames {
					f := Features(1 << i)
					err := Have(f)
					first[f] = err
					if err == nil {
						t.Errorf("%v is found where there is no io_uring", f)
						continue
					}
					if errors.Is(err, ErrNotSupported) != tt.missing || !errors.Is(err, tt.errno) {
						t.Errorf("%v: %v", f, err)
					}
					if !strings.Contains(err.Error(), f.String()) || !tt.missing && !strings.Contains(err.Error(), "cannot tell") {
						t.Errorf("%v: %q", f, err)
					}
				}
			})
			for f, before := range first { // on a thread where all is well
				now := Have(f)
				if tt.remembered && now != before {
					t.Errorf("%v: first %v, then %v", f, before, now)
				}
				if !tt.remembered && now != nil && !errors.Is(now, ErrNotSupported) {
					t.Errorf("%v: %v, though there is nothing in the way", f, now)
				}
			}
		})
	}
}

func TestMaskedFeaturesAreNotThere(t *testing.T) {
	for i := range featureNames {
		f := Features(1 << i)
		r, err := New(Config{Mask: f})
		if err != nil {
			t.Fatal(err)
		}
		if r.Have(f) || r.Features()&f != 0 {
			t.Errorf("%v is masked, and the ring has it", f)
		}
		for j := range featureNames {
			other := Features(1 << j)
			if other != f && r.Have(other) != (Have(other) == nil) {
				t.Errorf("%v is masked, and the ring's answer for %v changed", f, other)
			}
			if r.Have(other) != (r.Features()&other != 0) {
				t.Errorf("Have and Features differ about %v", other)
			}
		}
		if r.Have(f | BufferRings) {
			t.Errorf("%v is masked, and the ring has it together with another", f)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	r, err := New(Config{Mask: AllFeatures})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Features() != 0 || !r.Have(0) {
		t.Errorf("everything is masked, and the ring has %v", r.Features())
	}
}

func TestFeaturesAreNamed(t *testing.T) {
	tests := []struct {
		f    Features
		want string
	}{
		{0, "none"},
		{SendZC, "send-zc"},
		{BufferRings | NoEntryArray, "buffer-rings no-entry-array"},
		{1 << 31, "none"},
	}
	for _, tt := range tests {
		if got := tt.f.String(); got != tt.want {
			t.Errorf("%#x is %q, want %q", uint32(tt.f), got, tt.want)
		}
	}
	if got := len(strings.Fields(AllFeatures.String())); got != len(featureNames) {
		t.Errorf("all features are %q, and there are %d names", AllFeatures, len(featureNames))
	}
	if len(probes) != len(featureNames) || endOfFeatures != 1<<len(featureNames) {
		t.Errorf("%d names, %d probes, the end is %#x", len(featureNames), len(probes), uint32(endOfFeatures))
	}
}
