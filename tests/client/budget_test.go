package client

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// mostOps is how many operations a transaction may have.
const mostOps = 128

// TestMoreKeysThanOneReadTells: a process that knows none of the keys of a transaction, all on one member, has to read more of them
// than fit into one request.
func TestMoreKeysThanOneReadTells(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	a := cluster.Client(t)
	lease, err := a.Grant(within(t, patience), 600)
	require.NoError(t, err)
	var keys []string
	var revs []int64
	for len(keys) < 2*mostOps {
		var puts []clientv3.Op
		for range mostOps {
			keys = append(keys, fmt.Sprintf("k%03d", len(keys)))
			puts = append(puts, clientv3.OpPut(keys[len(keys)-1], "v", clientv3.WithLease(lease.ID)))
		}
		resp, err := a.Txn(within(t, patience)).Then(puts...).Commit()
		require.NoError(t, err)
		for range puts {
			revs = append(revs, resp.Header.Revision)
		}
	}
	compares := make([]clientv3.Cmp, mostOps)
	for i := range compares {
		compares[i] = clientv3.Compare(clientv3.ModRevision(keys[i]), "=", revs[i])
	}
	others := make([]clientv3.Op, mostOps)
	for i := range others {
		others[i] = clientv3.OpPut(keys[mostOps+i], "w")
	}

	t.Run("compares", func(t *testing.T) {
		resp, err := cluster.Client(t).Txn(within(t, patience)).If(compares...).Then(clientv3.OpPut("other", "v")).Commit()
		require.NoError(t, err)
		require.True(t, resp.Succeeded)
	})
	t.Run("a branch", func(t *testing.T) {
		resp, err := cluster.Client(t).Txn(within(t, patience)).If(compares[:mostOps/2]...).Then(clientv3.OpPut("other", "w")).Else(others...).Commit()
		require.NoError(t, err)
		require.True(t, resp.Succeeded)
	})
	t.Run("keys of a lease", func(t *testing.T) {
		require.NoError(t, a.Close()) // it would help
		b := cluster.Client(t)
		_, err := b.Revoke(within(t, patience), lease.ID)
		require.NoError(t, err)
		require.Equal(t, []string{"other=w"}, list(t, b))
	})
}
