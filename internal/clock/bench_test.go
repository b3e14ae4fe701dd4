package clock_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

// BenchmarkTake measures the sharing, on a coordinator in memory with a network of half a millisecond around it.
func BenchmarkTake(b *testing.B) {
	for _, callers := range []int{1, 16, 128, 512} {
		for _, k := range []int64{1, 60} {
			b.Run(fmt.Sprintf("callers=%d/k=%d", callers, k), func(b *testing.B) {
				c := newWorld(b, 1).open(etcdfake.Faults{MaxDelay: 500 * time.Microsecond}.Interceptor())
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() {
						for n := i; n < b.N; n += callers {
							if _, _, err := c.Take(b.Context(), k); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(int64(b.N)*k)/b.Elapsed().Seconds(), "stamps/s")
			})
		}
	}
}
