package lease

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBookNeverGoesBack: reads and the stream tell of the same records, in any order.
func TestBookNeverGoesBack(t *testing.T) {
	b := NewBook(2)
	one, two := record.LeaseRecord{Grant: 1}, record.LeaseRecord{Grant: 2}
	kv := func(r record.LeaseRecord) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: record.LeaseKey(7), Value: r.Encode()}
	}
	gone := &mvccpb.KeyValue{Key: record.LeaseKey(7)}
	is := func(want *record.LeaseRecord) {
		t.Helper()
		got, ok := b.Get(1, 7)
		require.Equal(t, want != nil, ok)
		if ok {
			require.Equal(t, *want, got)
		}
		_, ok = b.Get(0, 7)
		require.False(t, ok, "of another member")
	}
	require.NoError(t, b.Load(1, 10, []*mvccpb.KeyValue{kv(one)}))
	is(&one)
	b.Follow(1, 9, gone)
	b.Learn(1, 10, 7, two, true)
	is(&one)
	b.Learn(1, 20, 7, two, true)
	is(&two)
	b.Follow(1, 15, kv(one))
	is(&two)
	b.Follow(1, 20, kv(two))
	b.Follow(1, 21, gone)
	is(nil)
	b.Learn(1, 20, 7, two, true)
	is(nil)
	dead := record.LeaseRecord{Grant: 3, Dead: true}
	b.Learn(1, 30, 7, dead, true)
	is(&dead)
	_, living := b.Living(7)
	require.False(t, living)
	present, isDead := b.state(grant{7, 3})
	require.True(t, present && isDead)
	require.Equal(t, []grant{{7, 3}}, b.all())
	require.NoError(t, b.Load(1, 40, nil))
	is(nil)
	require.ErrorIs(t, b.Load(1, 50, []*mvccpb.KeyValue{gone}), record.ErrMalformed)
}
