package translate_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// leased puts "a" with a lease.
func leased(lease int64) *pb.TxnRequest {
	req := put("a", "")
	req.Success[0].GetRequestPut().Lease = lease
	return req
}

func TestNothingIsAttachedToALeaseThatChanged(t *testing.T) {
	for name, change := range map[string]func(m *member, lease string){
		"dead":    func(m *member, lease string) { m.put(lease, record.LeaseRecord{Grant: 1, Dead: true}.Encode()) },
		"regrant": func(m *member, lease string) { m.put(lease, record.LeaseRecord{Grant: 2}.Encode()) },
		"gone": func(m *member, lease string) {
			_, err := m.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(lease)})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			v := m.look()
			change(m, string(record.LeaseKey(7)))
			require.False(t, m.land(leased(7), v, 10).Landed)
			require.True(t, m.land(leased(8), v, 20).Landed)
			require.True(t, m.land(put("a", ""), m.look(), 30).Landed)
			require.Empty(t, m.attached(7))
		})
	}
}

// TestALeaseThatIsKeptIsPinned: a put that keeps its key's lease does not land when the lease has died: its keys are about to go.
func TestALeaseThatIsKeptIsPinned(t *testing.T) {
	m := newMember(t)
	require.True(t, m.land(leased(7), m.look(), 10).Landed)
	keep := put("a", "kept")
	keep.Success[0].GetRequestPut().IgnoreLease = true
	require.True(t, m.land(keep, m.look(), 20).Landed)
	v := m.look()
	m.put(string(record.LeaseKey(7)), record.LeaseRecord{Grant: 1, Dead: true}.Encode())
	require.False(t, m.land(keep, v, 30).Landed)
}

// TestEntries: a lease's entries follow its keys, each written once.
func TestEntries(t *testing.T) {
	m := newMember(t)
	keep := put("a", "kept")
	keep.Success[0].GetRequestPut().IgnoreLease = true
	stamp := int64(10)
	step := func(req *pb.TxnRequest, seven, eight []string) int64 {
		t.Helper()
		stamp += 10
		out := m.land(req, m.look(), stamp)
		require.True(t, out.Landed)
		require.Equal(t, seven, m.attached(7))
		require.Equal(t, eight, m.attached(8))
		m.users()
		return out.MemberRev
	}
	none, a := []string{}, []string{"a"}
	rev := step(leased(7), a, none)
	step(leased(7), a, none)
	step(keep, a, none)
	require.Equal(t, rev, m.get(string(record.AttachedKey(7, []byte("a"))), "").Kvs[0].ModRevision, "the entry was written again")
	step(leased(8), none, a)
	step(put("a", ""), none, none)
	step(leased(8), none, a)
	step(remove("a", ""), none, none)
}

// TestEntriesOfUnknownStates: who puts over other writers' puts knows the key's lease from before them.
func TestEntriesOfUnknownStates(t *testing.T) {
	m := newMember(t)
	require.True(t, m.land(leased(7), m.look(), 10).Landed)
	v := m.look().over([]byte("a"))
	require.True(t, m.land(leased(8), m.look(), 20).Landed)
	require.True(t, m.land(leased(7), v, 30).Landed)
	require.Equal(t, []string{"a"}, m.attached(7))
	require.Equal(t, []string{"a"}, m.attached(8), "stays behind; the header says that it is outdated")
	require.Equal(t, int64(7), m.users()["a"].Lease)
}
