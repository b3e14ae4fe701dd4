package load

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHistQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 200).Draw(t, "values")
		var h, other Hist
		for i, v := range values {
			if i%2 == 0 {
				h.Add(time.Duration(v))
			} else {
				other.Add(time.Duration(v))
			}
		}
		h.Merge(&other)
		slices.Sort(values)
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			want := values[max(int(q*float64(len(values))), 1)-1]
			got := int64(h.Quantile(q))
			if got > want || float64(want-got) > float64(want)/(1<<subBits) {
				t.Fatalf("quantile %v of %v: %d, want %d", q, values, got, want)
			}
		}
	})
}
