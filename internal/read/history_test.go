package read_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// What lies before a process's log is read from the members' own histories: the same answers, at the same revisions.
func TestWhatTheLogDoesNotHaveIsReadFromTheMembers(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		now := map[string]string{}
		var revs []int64
		var want [][]string // by revision
		for i := range 30 {
			key, value := w.Key(i%2, i%3), fmt.Sprint(i)
			revs = append(revs, w.put(key, value))
			now[key] = value
			var values []string
			for _, v := range now {
				values = append(values, v)
			}
			want = append(want, values)
		}
		late := &world{w.World, t}
		late.Engine = w.Open()
		log := late.Feeds.Now().Log
		_, _, ok := log.Lo(0, revs[0])
		require.False(t, ok)
		_, err := log.Snapshot(revs[0], []int{0, 1}, []byte("k"), []byte("l"))
		require.ErrorIs(t, err, mergedlog.ErrEvicted)

		read := func(rev int64) answer {
			r := everything()
			r.Revision = rev
			return <-late.ask(r)
		}
		for i, rev := range revs {
			got := read(rev)
			require.ElementsMatch(t, want[i], got.values(t), "at %d", rev)
			require.GreaterOrEqual(t, got.Header.Revision, revs[len(revs)-1])
		}

		_, err = late.Compact(t.Context(), &pb.CompactionRequest{Revision: revs[10]})
		require.NoError(t, err)
		for member, s := range w.Cluster.Members {
			require.Positive(t, s.Compacted(), "member %d", member)
		}
		require.ErrorIs(t, read(revs[9]).err, rpctypes.ErrGRPCCompacted)
		require.ElementsMatch(t, want[10], read(revs[10]).values(t), "what it was compacted at stays")
	})
}
