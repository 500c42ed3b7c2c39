package main

import (
	"math"
	"slices"
)

// median is the middle value, or the mean of the two in the middle; NaN of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// spread is the distance from the least to the greatest value, as a part of the
// median; NaN of nothing.
func spread(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return (slices.Max(values) - slices.Min(values)) / median(values)
}

// paired is the median of a/b over the rounds that both have. Within a round the
// machine has been about as fast for both, which it may not be across rounds. NaN
// if there is no such round.
func paired(a, b map[int]float64) float64 {
	var ratios []float64
	for round, x := range a {
		if y, ok := b[round]; ok && y != 0 {
			ratios = append(ratios, x/y)
		}
	}
	return median(ratios)
}
