package faults

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// TestCompactedBehindALanding: what a transaction was to answer is compacted between its landing and its answer. It must not look
// as if it had been refused.
func TestCompactedBehindALanding(t *testing.T) {
	b := newBench(t, 2)
	writer, other := b.processes[0], b.processes[1].meta
	one, two := b.groups[0][0]+"k0", b.groups[1][0]+"k0"
	for name, txn := range map[string]struct {
		lands phase
		ops   []clientv3.Op
	}{
		"on one member":  {flight, []clientv3.Op{clientv3.OpPut(one, "landed"), clientv3.OpGet(one)}},
		"across members": {decide, []clientv3.Op{clientv3.OpPut(one, "landed", clientv3.WithPrevKV()), clientv3.OpPut(two, "landed")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := writer.meta.Put(patient(t), one, "before")
			require.NoError(t, err)
			ctx := patient(t)
			compact := sync.OnceValue(func() error {
				for {
					resp, err := other.Get(ctx, one)
					if err != nil {
						return err
					}
					if string(resp.Kvs[0].Value) == "landed" {
						break
					}
				}
				resp, err := other.Put(ctx, b.groups[2][0]+"k0", "later")
				if err == nil {
					_, err = other.Compact(ctx, resp.Header.Revision)
				}
				return err
			})
			around := func(p phase) func() {
				return func() {
					if p == txn.lands {
						_ = compact()
					}
				}
			}
			writer.wire.around.Store(&around)
			defer writer.wire.around.Store(nil)
			_, err = writer.meta.Txn(ctx).Then(txn.ops...).Commit()
			require.NoError(t, compact())
			require.ErrorIs(t, err, metaetcd.ErrUnknownOutcome)
			require.NotErrorIs(t, err, rpctypes.ErrCompacted)
		})
	}
}
