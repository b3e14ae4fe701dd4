package mergedlog

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

// deletion is a member revision that puts some keys and deletes n others: as one exclusive transaction that deletes a range, or by name.
func deletion(puts, n int, exclusive bool) MemberRevision {
	var evs []*mvccpb.Event
	e := manifest.Entry{Stamp: 6, Kind: manifest.Exclusive}
	for i := range puts {
		key := fmt.Sprintf("a%07d", i)
		evs = append(evs, put(key, 11, 11, 6))
		e.Names = append(e.Names, putOf(key))
	}
	for i := range n {
		key := fmt.Sprintf("b%07d", i)
		evs = append(evs, with(del(key, 11), put(key, 3, 3, 2)))
		if !exclusive {
			e.Names = append(e.Names, manifest.Name{Touch: manifest.Deleted, Key: []byte(key)})
		}
	}
	if exclusive {
		e.Names = append(e.Names, manifest.Name{Touch: manifest.Deleted, Key: []byte("b"), End: []byte("c")})
	}
	return raw(11, append(evs, noteRec(0, e))...)[0]
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
			{"keys by name", 0, false, 3},
		} {
			r := deletion(tt.puts, n, tt.exclusive)
			p := &parser{}
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
