package load

import (
	"math/bits"
	"time"
)

// subBits is how many bits below the leading one tell buckets apart: values are kept to about one in 2^subBits.
const subBits = 6

// Hist is a histogram of durations with buckets that grow with the value: quantiles are true to 1.6%. Durations below zero
// count as zero. The zero value is empty. Not for concurrent use.
type Hist struct {
	buckets [(65 - subBits) << subBits]uint32
	count   int
}

// Add counts one duration.
func (h *Hist) Add(d time.Duration) {
	h.buckets[bucketOf(uint64(max(d, 0)))]++
	h.count++
}

// Merge adds what o has counted.
func (h *Hist) Merge(o *Hist) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
}

// Count is the number of durations counted.
func (h *Hist) Count() int { return h.count }

// Quantile returns the duration that the share q of all durations, 0 < q <= 1, does not exceed; zero if there are none.
func (h *Hist) Quantile(q float64) time.Duration {
	rank := int(q * float64(h.count))
	for i, n := range h.buckets {
		if rank -= int(n); rank <= 0 && n > 0 {
			return time.Duration(lowerBound(i))
		}
	}
	return 0
}

// bucketOf keeps small values as they are; of others, the position of the leading bit and the subBits that follow it.
func bucketOf(v uint64) int {
	shift := bits.Len64(v) - subBits - 1
	if shift <= 0 {
		return int(v)
	}
	return shift<<subBits + int(v>>shift)
}

func lowerBound(bucket int) uint64 {
	shift := bucket>>subBits - 1
	if shift <= 0 {
		return uint64(bucket)
	}
	return uint64(bucket-shift<<subBits) << shift
}
