package translate_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

func put(key, value string) *pb.TxnRequest {
	p := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: p}}}}
}

func remove(key, end string) *pb.TxnRequest {
	d := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}}}
}

// both runs two transactions after each other in one.
func both(a, b *pb.TxnRequest) *pb.TxnRequest {
	return &pb.TxnRequest{Success: []*pb.RequestOp{nested(a), nested(b)}}
}

// absent compares a key with absence.
func absent(key string, req *pb.TxnRequest) *pb.TxnRequest {
	req.Compare = append(req.Compare, &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{}})
	return req
}

// land sends a transaction built on what v knows, in a batch of its own.
func (m *member) land(req *pb.TxnRequest, v *view, stamp int64) translate.Outcome {
	m.t.Helper()
	plan := translate.NewPlan(req, m.ring)
	run, err := v.evaluate(plan)
	require.NoError(m.t, err)
	g, err := plan.Guard(run, v.state, stamp, 0, m.ring.Slot)
	require.NoError(m.t, err)
	return m.sendOne(g)
}

func (m *member) sendOne(g *translate.Guarded) translate.Outcome {
	m.t.Helper()
	b := translate.Batch{Epoch: 1, Ops: []*translate.Guarded{g}}
	outs, _, err := b.Decode(m.send(b.Request()))
	require.NoError(m.t, err)
	require.Len(m.t, outs, 1)
	return outs[0]
}

func TestBlindPutsGoOverOlderPutsOnly(t *testing.T) {
	m := newMember(t)
	require.True(t, m.land(put("a", "1"), m.look(), 10).Landed)
	v := m.look().over([]byte("a"))
	require.True(t, m.land(put("a", "2"), m.look(), 30).Landed)

	out := m.land(put("a", "3"), v, 20)
	require.False(t, out.Landed, "a put above the stamp had landed")
	require.Equal(t, int64(30), out.States[0].KV.ModRevision)
	require.True(t, m.land(put("a", "4"), v, 40).Landed)

	require.True(t, m.land(remove("a", ""), m.look(), 50).Landed)
	require.True(t, m.land(put("a", "5"), m.look(), 60).Landed)
	require.False(t, m.land(put("a", "6"), v, 70).Landed, "the key is another one than the header would say")
	require.Equal(t, int64(60), m.users()["a"].CreateRevision)
}

func TestComparedKeysAreProtected(t *testing.T) {
	m := newMember(t)
	v := m.look()
	require.True(t, m.land(absent("a", put("b", "")), v, 20).Landed)
	require.False(t, m.land(put("a", ""), v, 10).Landed, "a was seen absent at 20")
	require.True(t, m.land(put("a", ""), v, 30).Landed)
}

// The lane keeps the operations of a process out of each other's way by these.
func TestSlotsOfAnOperation(t *testing.T) {
	m := newMember(t)
	req := absent("a", put("b", ""))
	req.Success = append(req.Success, remove("c", "").Success...)
	plan, v := translate.NewPlan(req, m.ring), m.look()
	run, err := v.evaluate(plan)
	require.NoError(t, err)
	g, err := plan.Guard(run, v.state, 10, 0, m.ring.Slot)
	require.NoError(t, err)
	slot := func(key string) int { return m.ring.Slot([]byte(key)) }
	for _, key := range alphabet {
		require.Equal(t, slot(key) == slot("a") || slot(key) == slot("c"), slices.Contains(g.Slots, slot(key)), key)
		require.Equal(t, slot(key) == slot("a") || slot(key) == slot("b") || slot(key) == slot("c"), slices.Contains(g.Below, slot(key)), key)
	}
	read := translate.Read([]byte("a"), 10, 0, m.ring.Slot)
	require.Equal(t, []int{slot("a")}, read.Slots)
	require.Equal(t, []int{slot("a")}, read.Below)
}

func TestDeletedKeysAreProtected(t *testing.T) {
	m := newMember(t)
	v := m.look()
	require.True(t, m.land(put("a", ""), v, 10).Landed)
	require.True(t, m.land(remove("a", ""), m.look(), 30).Landed)
	require.False(t, m.land(put("a", ""), v, 20).Landed)
	require.True(t, m.land(put("a", ""), v, 40).Landed)
}

// A range delete may name what is not the user's.
func TestReservedNamesAreNotDeleted(t *testing.T) {
	m := newMember(t)
	for i, end := range []string{"\x01", "\x00", "b"} {
		stamp := int64(10 * (i + 1))
		req := both(remove("\x00", end), put("f", ""))
		if end == "\x00" { // a key is not put and deleted in one revision
			req = remove("\x00", end)
		}
		plan, v := translate.NewPlan(req, m.ring), m.look()
		run, err := v.evaluate(plan)
		require.NoError(t, err)
		require.Equal(t, end != "\x01", plan.Exclusive())
		if !plan.Exclusive() {
			require.True(t, m.land(req, v, stamp).Landed)
		} else {
			x, err := plan.Exclude(run, v.state, v.rev, stamp, 1, known, m.ring.Slot)
			require.NoError(t, err)
			out, err := x.Decode(m.send(x.Txn))
			require.NoError(t, err)
			require.True(t, out.Landed)
		}
		require.Len(t, m.get("\x00", "\x01").Kvs, 3+slots+len(m.records())+marksOf(m), "records")
		require.Equal(t, end != "\x00", len(m.users()) > 0)
	}
}

func marksOf(m *member) (n int) {
	for _, kv := range m.get("\x00", "\x01").Kvs {
		if kind := record.KindOf(kv.Key); kind == record.Manifest || kind == record.Nested {
			n++
		}
	}
	return n
}

// What etcd's servers panic at must not reach a member.
func TestKeepingTheValueOfADeletedKey(t *testing.T) {
	m := newMember(t)
	require.True(t, m.land(put("b", "v"), m.look(), 10).Landed)
	for _, keep := range []*pb.PutRequest{{Key: []byte("b"), IgnoreValue: true}, {Key: []byte("b"), IgnoreLease: true}} {
		req := remove("a", "\x00")
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: keep}})
		_, err := translate.NewPlan(req, m.ring).Evaluate(m.look())
		require.Equal(t, rpctypes.ErrGRPCKeyNotFound, err)
	}
}

func TestRead(t *testing.T) {
	m := newMember(t)
	slot := m.ring.Slot([]byte("a"))
	read := func(stamp int64) translate.Outcome {
		return m.sendOne(translate.Read([]byte("a"), stamp, 0, m.ring.Slot))
	}
	out := read(10)
	require.True(t, out.Landed)
	require.Empty(t, out.Results, "absent")

	out = read(9)
	require.False(t, out.Landed, "the slot's clock is ahead")
	require.False(t, out.Fenced)
	marks, _ := m.marks(out.MemberRev)
	require.Equal(t, map[int64]manifest.Entry{9: {Stamp: 9, Kind: manifest.Pinned}}, marks)

	require.True(t, m.land(put("a", "v"), m.look(), 20).Landed)
	out = read(15)
	require.False(t, out.Landed, "the key is ahead")
	marks, _ = m.marks(out.MemberRev)
	require.Equal(t, map[int64]manifest.Entry{15: {Stamp: 15, Kind: manifest.Pinned}}, marks)

	out = read(30)
	require.True(t, out.Landed)
	require.Equal(t, "v", string(out.Results[0].Range.Kvs[0].Value))
	require.Equal(t, int64(20), out.Results[0].Range.Kvs[0].ModRevision)
	_, clocks := m.marks(out.MemberRev)
	require.Equal(t, map[int]int64{slot: 30}, clocks)
	require.False(t, m.land(put("a", "w"), m.look(), 25).Landed, "what was read at 30 is protected")

	m.put(record.KeyFence, record.Pair(1, 40))
	out = read(35)
	require.False(t, out.Landed)
	require.True(t, out.Fenced)
}
