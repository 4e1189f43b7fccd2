package main

import (
	"math"
	"slices"
	"time"
)

// A spread is what several rounds gave: their median, least and most.
type spread struct{ median, least, most float64 }

// spreadOf leaves out what is NaN, and is NaN if nothing is left.
func spreadOf(values []float64) spread {
	values = slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	return spread{median(values), slices.Min(values), slices.Max(values)}
}

func (s spread) known() bool { return !math.IsNaN(s.median) }

// median is the middle of the values, or the mean of the two in the middle.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return math.NaN()
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// percentile is the value that the given share of all does not exceed (nearest
// rank), in milliseconds.
func percentile(times []time.Duration, share float64) float64 {
	if len(times) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(times))
	rank := int(math.Ceil(share * float64(len(sorted))))
	return float64(sorted[min(max(rank, 1), len(sorted))-1]) / 1e6
}

// jain is Jain's fairness index of the shares: 1 if all are the same, 1/n if
// one has everything (Jain, Chiu, Hawe 1984).
func jain(shares []float64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum, squares = sum+x, squares+x*x
	}
	if squares == 0 {
		return math.NaN()
	}
	return sum * sum / (float64(len(shares)) * squares)
}
