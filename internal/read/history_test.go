package read_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/fakemeta"
)

// What the log has dropped is read from the members' own histories: the same answers, at the same revisions.
func TestWhatTheLogHasDroppedIsReadFromTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakemeta.New(t, 2)
		c.LogBytes = 1 << 10
		w := &world{fakemeta.World{Cluster: c, Engine: c.Open()}, t}
		want, now := map[int64][]string{}, map[string]string{}
		var revs []int64
		for i := range 60 {
			key, value := w.Key(i%2, i%3), fmt.Sprint(i)
			rev := w.put(key, value+strings.Repeat(".", 100))
			now[key] = value
			revs = append(revs, rev)
			for _, v := range now {
				want[rev] = append(want[rev], v)
			}
		}
		log := w.Feeds.Now().Log
		require.NoError(t, log.WaitClosed(t.Context(), revs[59]))
		_, _, ok := log.Lo(0, revs[0])
		require.False(t, ok, "the log has it still")
		_, err := log.Snapshot(revs[0], []int{0, 1}, []byte("k"), []byte("l"))
		require.Error(t, err)

		read := func(rev int64) answer {
			r := everything()
			r.Revision = rev
			return <-w.ask(r)
		}
		shown := func(a answer) (out []string) {
			for _, v := range a.values(t) {
				out = append(out, strings.TrimRight(v, "."))
			}
			return out
		}
		for _, i := range []int{0, 1, 5, 20, 58, 59} {
			got := read(revs[i])
			require.ElementsMatch(t, want[revs[i]], shown(got), "at %d", revs[i])
			require.GreaterOrEqual(t, got.Header.Revision, revs[59])
		}

		_, err = w.Engine.Compact(t.Context(), &pb.CompactionRequest{Revision: revs[10]})
		require.NoError(t, err)
		for member, s := range w.Cluster.Members {
			require.Positive(t, s.Compacted(), "member %d", member)
		}
		require.ErrorIs(t, read(revs[9]).err, rpctypes.ErrGRPCCompacted)
		require.ElementsMatch(t, want[revs[10]], shown(read(revs[10])), "what it was compacted at stays")
	})
}
