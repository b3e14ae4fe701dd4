package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

func result(ops int, latency time.Duration) *load.Result {
	r := &load.Result{Ops: ops, Elapsed: time.Second}
	for range ops {
		r.Latency.Add(latency)
	}
	return r
}

func TestRatiosArePairwise(t *testing.T) {
	rounds := []pair[*load.Result]{
		{plain: result(100, time.Millisecond), meta: result(300, 2*time.Millisecond)},
		{plain: result(10, time.Millisecond), meta: result(20, 3*time.Millisecond)}, // a slow moment of the machine
		{plain: result(100, time.Millisecond), meta: result(100, time.Millisecond)},
	}
	require.Equal(t, []float64{1, 2, 3}, pairRatios(rateAtLeast(1.5), rounds))
	require.InEpsilonSlice(t, []float64{1, 2, 3}, pairRatios(medianAtMost(1.7, 0), rounds), 0.02)
	require.InEpsilonSlice(t, []float64{1, 1, 1}, pairRatios(medianAtMost(1.7, time.Second), rounds), 0.02)
	require.Empty(t, pairRatios(rateAtLeast(1.5), []pair[*load.Result]{{plain: result(1, 1)}}), "a side was left out")
}

func TestVerdict(t *testing.T) {
	require.Equal(t, "≥ 1.50 reached", rateAtLeast(1.5).verdict(1.5))
	require.Equal(t, "≥ 1.50 missed", rateAtLeast(1.5).verdict(1.4))
	require.Equal(t, "p50 ≤ 1.70 reached", medianAtMost(1.7, 0).verdict(1.7))
	require.Equal(t, "p50 ≤ 1.70 missed", medianAtMost(1.7, 0).verdict(1.8))
	require.Empty(t, rateAtLeast(0).verdict(1))
}

func TestMedian(t *testing.T) {
	require.InDelta(t, 2, median([]float64{1, 2, 9}), 0)
	require.InDelta(t, 3, median([]float64{1, 2, 4, 9}), 0)
}
