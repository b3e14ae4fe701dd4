package watchhub

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkFanOut measures from the commit of one event until every watcher has it.
func BenchmarkFanOut(b *testing.B) {
	for _, streams := range []int{1, 10} {
		for _, watchers := range []int{1, 100, 1000} {
			if watchers < streams {
				continue
			}
			b.Run(fmt.Sprintf("streams=%d/watchers=%d", streams, watchers), func(b *testing.B) {
				benchFanOut(b, streams, watchers, []byte("l"))
			})
		}
	}
	b.Run("points=1000", func(b *testing.B) { benchFanOut(b, 1, 1000, nil) })
}

func benchFanOut(b *testing.B, streams, watchers int, end []byte) {
	f := setup(b, Options{})
	cs := make([]*client, streams)
	for i := range cs {
		cs[i] = f.openFor(24 * patience)
		for range watchers / streams {
			cs[i].watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: end})
		}
	}
	got := make(chan struct{}, streams)
	for _, c := range cs {
		go func() {
			for n := 1; ; n++ {
				if _, err := c.cs.Recv(); err != nil {
					return
				}
				if n%(watchers/streams) == 0 {
					got <- struct{}{}
				}
			}
		}()
	}
	b.ReportAllocs()
	for b.Loop() {
		f.src.commit(put("k", "value"))
		for range cs {
			<-got
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*watchers), "ns/event")
}

// BenchmarkThroughput measures one watcher of a log that does not wait for it.
func BenchmarkThroughput(b *testing.B) {
	f := setup(b, Options{})
	c := f.openFor(24 * patience)
	c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		f.src.commit(put("k", "value"))
		if f.src.highest%10000 == 0 {
			for n < b.N && n < int(f.src.highest)-1 {
				n += len(c.recv().Events)
			}
		}
	}
}

// BenchmarkIndex matches one event against many ranges that do not contain it.
func BenchmarkIndex(b *testing.B) {
	for _, ranges := range []int{1, fewRanges, 1000} {
		b.Run(fmt.Sprint("ranges=", ranges), func(b *testing.B) {
			x := newIndex()
			for i := range ranges {
				key := fmt.Appendf(nil, "/registry/resource%04d/", i)
				x.add(&watcher{key: key, end: append(key[:len(key)-1:len(key)-1], '0')})
			}
			src := newSource()
			src.commit(put("/registry/resource0000/name", "v"))
			b.ReportAllocs()
			for b.Loop() {
				for _, g := range x.match(src.events) {
					g.take()
				}
			}
		})
	}
}
