package fakemeta_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAProcessOnFakes: what one process writes, another one reads.
func TestAProcessOnFakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakemeta.New(t, 2)
		a, b := c.Open(), c.Open()
		for member := range c.Members {
			key := []byte(c.Key(member, 0))
			put, err := a.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: key, Value: []byte("v")})}})
			require.NoError(t, err)
			got, err := b.Reads.Range(t.Context(), &pb.RangeRequest{Key: key})
			require.NoError(t, err)
			require.Equal(t, "v", string(got.Kvs[0].Value))
			require.Equal(t, put.Header.Revision, got.Kvs[0].ModRevision)
			require.Contains(t, c.Members[member].Keys(), string(key))
		}
	})
}
