package mergedlog

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// deletion is a member revision that puts some keys and deletes n others, as one exclusive transaction, or each below the clock of
// a slot of its own.
func deletion(puts, n int, exclusive bool) MemberRevision {
	var evs []*mvccpb.Event
	for i := range puts {
		evs = append(evs, put(fmt.Sprintf("a%07d", i), 11, 11, 6))
	}
	for i := range n {
		key := fmt.Sprintf("b%07d", i)
		evs = append(evs, with(del(key, 11), put(key, 3, 3, 2)))
		if !exclusive {
			evs = append(evs, rec(record.SlotKey(i), record.Number(6)))
		}
	}
	if exclusive {
		evs = append(evs, markRec(0, 6, record.Exclusive))
	}
	return MemberRevision{Rev: 11, Events: evs}
}

func slotOfDeletion(key []byte) int {
	var i int
	_, _ = fmt.Sscanf(string(key[1:]), "%d", &i)
	return i
}

// A revision may delete any number of keys: the work that a delete makes does not grow with what else is in its revision.
func TestDeletesOfARevisionAreParsedInLinearTime(t *testing.T) {
	for _, n := range []int{1 << 10, 1 << 12} {
		for _, tt := range []struct {
			name      string
			puts      int
			exclusive bool
			each      int // looks that a key may take
		}{
			{"a range", 0, true, 2},
			{"a range, behind as many puts", n, true, 2},
			{"keys of different slots", 0, false, 3 + bits.Len(uint(n))},
		} {
			r := deletion(tt.puts, n, tt.exclusive)
			p := &parser{slotOf: slotOfDeletion}
			require.NoError(t, p.parse(&r))
			require.Len(t, p.evs, tt.puts+n)
			require.LessOrEqual(t, p.looked, tt.each*(tt.puts+n), "%s of %d keys", tt.name, n)
		}
	}
}

// BenchmarkRangeDelete is one revision that deletes so many keys, on its way through the log.
func BenchmarkRangeDelete(b *testing.B) {
	for _, n := range []int{20_000, 40_000, 80_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				l := testLog(b, 1)
				r := deletion(0, n, true)
				b.StartTimer()
				if err := l.Append(0, []MemberRevision{r}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
		})
	}
}

// BenchmarkPartials has so many transactions wait for their second parts, which then come in the order of their stamps.
func BenchmarkPartials(b *testing.B) {
	for _, n := range []int{5_000, 10_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				l := testLog(b, 2)
				for part := range 2 {
					for i := range n {
						stamp := int64(6 + i)
						r := MemberRevision{Rev: int64(11 + i), Events: []*mvccpb.Event{partRec(stamp, 2, part)}}
						if err := l.Append(part, []MemberRevision{r}); err != nil {
							b.Fatal(err)
						}
					}
				}
				if w := l.Closed(); w != int64(5+n) {
					b.Fatal(w)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/txn")
		})
	}
}
