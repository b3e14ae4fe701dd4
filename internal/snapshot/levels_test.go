package snapshot

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// TestSelectAnswersAsEtcd reads bases with no more than Levels demands, completes what Select leaves, and compares with etcd's
// answer.
func TestSelectAnswersAsEtcd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		before := clones(h.members...)
		r := h.stamps - int64(uniform(int(h.stamps)).Draw(t, "newer stamps"))
		state := h.at(r)
		var own []*mergedlog.Event
		if rapid.Bool().Draw(t, "in transaction") {
			own = drawOwnWrites(t, h, state, r+1)
		}
		for range 32 {
			req := drawRequest(t, h)
			shown, answered := Levels(req)
			require.LessOrEqual(t, shown, answered)
			parts, los := readParts(t, h, req, r, own, shown)
			got, err := Select(req, parts)
			require.NoError(t, err)
			for _, kv := range got.Kvs {
				if !Unread(kv) {
					continue
				}
				require.NotEqual(t, Values, shown)
				m := h.owner[string(kv.Key)]
				stored := h.native(m, los[m])[string(kv.Key)]
				require.NotNil(t, stored, "only what is in a base is unread")
				if answered > shown {
					kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease = stored.ModRevision, stored.CreateRevision, stored.Version, stored.Lease
				}
				if kv.Value = nil; answered == Values {
					kv.Value = stored.Value
				}
			}
			if req.KeysOnly {
				Strip(got.Kvs, req.SortTarget)
			}
			requireSame(t, etcdRange(req, state), got, req)
		}
		require.Equal(t, before, clones(h.members...), "events were changed")
	})
}

// shownAt is what pairs show at a level. The revisions that keys alone are shown with mean nothing.
func shownAt(level Level, kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	if level == Values {
		return kvs
	}
	var shown []*mvccpb.KeyValue
	for _, kv := range kvs {
		kv = proto.Clone(kv).(*mvccpb.KeyValue)
		if level == Keys {
			kv = &mvccpb.KeyValue{Key: kv.Key, ModRevision: -1, CreateRevision: -2, Version: -3}
		}
		SetUnread(kv)
		shown = append(shown, kv)
	}
	return shown
}

func TestLevels(t *testing.T) {
	for name, tc := range map[string]struct {
		req             *pb.RangeRequest
		shown, answered Level
	}{
		"list":                 {&pb.RangeRequest{}, Values, Values},
		"page":                 {&pb.RangeRequest{Limit: 500}, Values, Values},
		"count":                {&pb.RangeRequest{CountOnly: true, SortTarget: pb.RangeRequest_VALUE}, Keys, Keys},
		"keys":                 {&pb.RangeRequest{KeysOnly: true}, Keys, Heads},
		"page of keys":         {&pb.RangeRequest{KeysOnly: true, Limit: 500}, Keys, Heads},
		"keys by value":        {&pb.RangeRequest{KeysOnly: true, SortTarget: pb.RangeRequest_VALUE}, Values, Values},
		"keys by age":          {&pb.RangeRequest{KeysOnly: true, SortTarget: pb.RangeRequest_CREATE}, Heads, Heads},
		"new keys":             {&pb.RangeRequest{KeysOnly: true, MinModRevision: 7}, Heads, Heads},
		"first created":        {&pb.RangeRequest{Limit: 1, SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND}, Heads, Values},
		"first created, later": {&pb.RangeRequest{Limit: 1, SortTarget: pb.RangeRequest_CREATE, MaxCreateRevision: 7}, Heads, Values},
		"last key":             {&pb.RangeRequest{Limit: 1, SortOrder: pb.RangeRequest_DESCEND}, Keys, Values},
		"backwards":            {&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}, Values, Values},
		"new":                  {&pb.RangeRequest{MinCreateRevision: 7}, Heads, Values},
		"greatest":             {&pb.RangeRequest{Limit: 1, SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND}, Values, Values},
		"cut, then sorted":     {&pb.RangeRequest{Limit: 9, SortTarget: pb.RangeRequest_MOD}, Values, Values},
		"all, sorted":          {&pb.RangeRequest{SortTarget: pb.RangeRequest_MOD}, Values, Values},
	} {
		shown, answered := Levels(tc.req)
		require.Equal(t, []Level{tc.shown, tc.answered}, []Level{shown, answered}, name)
	}
}

// TestUnread: it is told from any value, whatever has become of the pair.
func TestUnread(t *testing.T) {
	kv := &mvccpb.KeyValue{}
	require.False(t, Unread(kv))
	for _, value := range [][]byte{{}, {0}, make([]byte, 0, 1), make([]byte, 0, 9)} {
		kv.Value = value
		require.False(t, Unread(kv))
	}
	SetUnread(kv)
	require.True(t, Unread(kv))
	require.Empty(t, kv.Value)
}
