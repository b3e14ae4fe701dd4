package client

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// headersOf asks a client for everything that has a header.
func headersOf(t *testing.T, cli *metaetcd.Client) []*pb.ResponseHeader {
	t.Helper()
	ctx := within(t, patience)
	w := cli.Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	created := takeResponse(t, w)
	put, err := cli.Put(ctx, "k", "v")
	require.NoError(t, err)
	event := takeResponse(t, w)
	require.NoError(t, cli.RequestProgress(t.Context()))
	progress := takeResponse(t, w)
	get, err := cli.Get(ctx, "k")
	require.NoError(t, err)
	stale, err := cli.Get(ctx, "k", clientv3.WithSerializable())
	require.NoError(t, err)
	all, err := cli.Get(ctx, "", clientv3.WithPrefix())
	require.NoError(t, err)
	old, err := cli.Get(ctx, "k", clientv3.WithRev(put.Header.Revision))
	require.NoError(t, err)
	stream, err := cli.GetStream(ctx, "", clientv3.WithPrefix())
	require.NoError(t, err)
	streamed, err := clientv3.GetStreamToGetResponse(stream)
	require.NoError(t, err)
	txn, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), ">", 0)).Then(clientv3.OpPut("k", "w"), clientv3.OpGet("k")).Commit()
	require.NoError(t, err)
	reading, err := cli.Txn(ctx).Then(clientv3.OpGet("k")).Commit()
	require.NoError(t, err)
	del, err := cli.Delete(ctx, "k")
	require.NoError(t, err)
	nothing, err := cli.Delete(ctx, "k")
	require.NoError(t, err)
	compacted, err := cli.Compact(ctx, nothing.Header.Revision)
	require.NoError(t, err)
	return []*pb.ResponseHeader{
		put.Header, event.Header, progress.Header, get.Header, stale.Header, all.Header, old.Header, streamed.Header,
		txn.Header, reading.Header, del.Header, nothing.Header, compacted.Header, created.Header,
	}
}

// TestHeaders: every answer of a client names the same cluster, member and term, with a revision that never goes back, and
// all clients name the same cluster.
func TestHeaders(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	a, b := cluster.Client(t), cluster.Client(t)
	empty, err := a.Get(t.Context(), "k")
	require.NoError(t, err)
	require.EqualValues(t, 1, empty.Header.Revision, "an empty store is at revision 1")

	identities := map[*metaetcd.Client]*pb.ResponseHeader{}
	for i, cli := range []*metaetcd.Client{a, b} {
		hs := headersOf(t, cli)
		if i == 0 {
			require.EqualValues(t, 2, hs[0].Revision, "the first write makes revision 2")
		}
		first := hs[0]
		require.NotZero(t, first.ClusterId)
		require.NotZero(t, first.MemberId)
		require.NotZero(t, first.RaftTerm)
		for j, h := range hs {
			require.Equal(t, first.ClusterId, h.ClusterId, "answer %d", j)
			require.Equal(t, first.MemberId, h.MemberId, "answer %d", j)
			require.Equal(t, first.RaftTerm, h.RaftTerm, "answer %d", j)
			if j > 0 && j < len(hs)-1 {
				require.GreaterOrEqual(t, h.Revision, hs[j-1].Revision, "answer %d", j)
			}
		}
		identities[cli] = first
	}
	require.Equal(t, identities[a].ClusterId, identities[b].ClusterId)
	require.Equal(t, identities[a].RaftTerm, identities[b].RaftTerm)
	require.NotEqual(t, identities[a].MemberId, identities[b].MemberId)
	for _, m := range cluster.Members {
		require.NotEqual(t, identities[a].ClusterId, clusterID(t, m.DirectClient(t)))
	}
}
