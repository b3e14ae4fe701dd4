package faults

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/record"
)

// TestAbortsAreCounted: every lock that is taken from a writer that has gone counts once, in the process that took it, whichever
// member it is on.
func TestAbortsAreCounted(t *testing.T) {
	b := newBench(t, 3)
	slot := string(record.SlotKey(b.ring().Slot([]byte(b.groups[1][0]))))
	for want, lock := range []struct {
		member int
		key    string
	}{{0, record.KeyLock}, {1, slot}, {1, record.KeyLock}, {0, record.KeyLock}} {
		b.lockUp(lock.member, lock.key, record.Holder{ID: record.NewTxnID(), Primary: 1})
		cli := b.cluster.Members[lock.member].DirectClient(t)
		taken := func() bool {
			resp, err := cli.Get(t.Context(), lock.key)
			return err == nil && !isLocked(resp.Kvs[0].Value)
		}
		require.Eventually(t, taken, outlived*10, pace)
		aborts := func() int {
			n := 0.0
			for _, p := range b.processes {
				n += p.metric("metaetcd_lock_aborts_total")
			}
			return int(n)
		}
		require.Eventually(t, func() bool { return aborts() >= want+1 }, outlived*10, pace)
		require.Equal(t, want+1, aborts())
	}
}
