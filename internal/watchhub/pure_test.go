package watchhub

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

func genKey() *rapid.Generator[[]byte] {
	return rapid.SliceOfN(rapid.SampledFrom([]byte{1, 'a', 'b', 0xff}), 1, 3)
}

// TestIndexModel compares the index with a look at every watcher, with few ranges and with many.
func TestIndexModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		var in []*watcher
		steps := rapid.IntRange(1, 120).Draw(t, "steps")
		for range steps {
			if len(in) > 0 && rapid.IntRange(0, 3).Draw(t, "what") == 0 {
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				x.remove(in[i])
				in = slices.Delete(in, i, i+1)
				continue
			}
			w := &watcher{key: genKey().Draw(t, "key")}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				w.end = []byte{0}
			case 1, 2:
				w.end = append(bytes.Clone(w.key), genKey().Draw(t, "end")...)
			}
			x.add(w)
			in = append(in, w)
		}
		require.Equal(t, len(in), x.len())
		require.ElementsMatch(t, in, x.all())
		var evs []*mergedlog.Event
		for i := range rapid.IntRange(1, 8).Draw(t, "events") {
			evs = append(evs, &mergedlog.Event{Rev: int64(i), Kv: &mvccpb.KeyValue{Key: genKey().Draw(t, "changed")}})
		}
		want := map[*watcher][]*mergedlog.Event{}
		for _, w := range in {
			for _, ev := range evs {
				k := ev.Kv.Key
				if bytes.Equal(k, w.key) || len(w.end) > 0 && bytes.Compare(k, w.key) >= 0 && (w.end[0] == 0 || bytes.Compare(k, w.end) < 0) {
					want[w] = append(want[w], ev)
				}
			}
		}
		got := map[*watcher][]*mergedlog.Event{}
		for _, g := range x.match(evs) {
			evs := g.take()
			for _, w := range g.watchers {
				require.Nil(t, got[w], "a watcher is in one group")
				got[w] = evs
			}
		}
		require.Equal(t, len(want), len(got))
		for w := range want {
			require.Equal(t, want[w], got[w])
		}
	})
}

// etcdFragments is etcd's rule, word for word: size after every event.
func etcdFragments(wr *pb.WatchResponse, maxBytes int) (out [][]string) {
	if proto.Size(wr) < maxBytes || len(wr.Events) < 2 {
		return [][]string{show(wr)}
	}
	for idx := 0; idx < len(wr.Events); {
		cur := &pb.WatchResponse{Header: wr.Header, WatchId: wr.WatchId, Fragment: true}
		for _, ev := range wr.Events[idx:] {
			cur.Events = append(cur.Events, ev)
			if len(cur.Events) > 1 && proto.Size(cur) >= maxBytes {
				cur.Events = cur.Events[:len(cur.Events)-1]
				break
			}
			idx++
		}
		out = append(out, show(cur))
	}
	return out
}

func TestFragmentsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wr := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 77}, WatchId: rapid.Int64Range(0, 300).Draw(t, "id")}
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			value := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value")
			wr.Events = append(wr.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: value, ModRevision: 9}})
		}
		limit := rapid.IntRange(1, 1000).Draw(t, "limit")
		var got [][]string
		var merged *pb.WatchResponse
		want := show(wr)
		require.NoError(t, sendFragments(wr, limit, func(f *pb.WatchResponse) error {
			if len(got) > 0 {
				require.True(t, merged.Fragment, "only the last says that it is")
			}
			got = append(got, show(f))
			if merged == nil {
				merged = f
				return nil
			}
			merged.Events = append(merged.Events, f.Events...) // as clientv3 does
			merged.Fragment = f.Fragment
			return nil
		}))
		require.False(t, merged.Fragment)
		require.Equal(t, want, show(merged))
		require.Equal(t, etcdFragments(wr, limit), got)
	})
	require.Equal(t, errBoom, sendFragments(
		&pb.WatchResponse{Events: []*mvccpb.Event{{}, {}}}, 1, func(*pb.WatchResponse) error { return errBoom }))
}

func TestWholeRevisionsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var evs []*mergedlog.Event
		rev := int64(1)
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			rev += rapid.Int64Range(0, 1).Draw(t, "step")
			evs = append(evs, &mergedlog.Event{Rev: rev, Kv: &mvccpb.KeyValue{Value: make([]byte, rapid.IntRange(0, 100).Draw(t, "size"))}})
		}
		limit := rapid.IntRange(0, 1500).Draw(t, "limit")
		n := wholeRevisions(evs, limit)
		require.Positive(t, n)
		if n < len(evs) {
			require.NotEqual(t, evs[n-1].Rev, evs[n].Rev)
			more := n + 1
			for more < len(evs) && evs[more].Rev == evs[n].Rev {
				more++
			}
			require.Greater(t, sizeAll(evs[:more]), int64(limit), "another revision would not have fitted")
		}
		if evs[0].Rev != evs[n-1].Rev {
			require.LessOrEqual(t, sizeAll(evs[:n]), int64(limit))
		}
		from := rapid.Int64Range(0, rev+1).Draw(t, "from")
		require.Equal(t, slices.IndexFunc(append(evs, &mergedlog.Event{Rev: rev + 2}), func(e *mergedlog.Event) bool { return e.Rev >= from }),
			len(evs)-len(since(evs, from)))
	})
}
