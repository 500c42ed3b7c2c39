package main

import (
	"math"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		values         []float64
		median, spread float64
	}{
		{[]float64{5}, 5, 0},
		{[]float64{3, 1, 2}, 2, 1},
		{[]float64{4, 1, 3, 2}, 2.5, 1.2},
	} {
		if got := median(c.values); got != c.median {
			t.Errorf("median of %v is %g, want %g", c.values, got, c.median)
		}
		if got := spread(c.values); math.Abs(got-c.spread) > 1e-12 {
			t.Errorf("spread of %v is %g, want %g", c.values, got, c.spread)
		}
	}
	if !math.IsNaN(median(nil)) || !math.IsNaN(spread(nil)) {
		t.Error("nothing has a median or a spread")
	}
}

func TestRatiosAreTakenWithinRounds(t *testing.T) {
	// The machine halves its speed after the first round. Medians alone would
	// say 1.5, since the third round lacks one of the two.
	a := map[int]float64{1: 120, 2: 60, 3: 60}
	b := map[int]float64{1: 100, 2: 50}
	if got := paired(a, b); math.Abs(got-1.2) > 1e-12 {
		t.Errorf("ratio %g, want 1.2", got)
	}
	if !math.IsNaN(paired(a, nil)) {
		t.Error("there is a ratio without a round in common")
	}
}
