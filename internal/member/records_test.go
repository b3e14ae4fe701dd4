package member

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// A fence goes up in its epoch, and in no other way.
func TestRaise(t *testing.T) {
	for name, tt := range map[string]struct {
		epoch, stamp int64
		want         Raised // without its revision
	}{
		"in its epoch":      {3, 11, Raised{Epoch: 3, Fence: 11, Now: true}},
		"not lower":         {3, 9, Raised{Epoch: 3, Fence: 10}},
		"as high":           {3, 10, Raised{Epoch: 3, Fence: 10}},
		"in an older epoch": {2, 99, Raised{Epoch: 3, Fence: 10}},
		"in a newer epoch":  {4, 99, Raised{Epoch: 3, Fence: 10}},
		"far":               {3, 1 << 40, Raised{Epoch: 3, Fence: 1 << 40, Now: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := created(t)
			m := open(t, s.Client(nil))
			before := s.Revision()
			got, err := m.Raise(t.Context(), tt.epoch, tt.stamp)
			require.NoError(t, err)
			require.Equal(t, s.Revision(), got.Rev)
			require.Equal(t, tt.want.Fence != 10, s.Revision() > before, "it writes only what is new")
			at, err := m.LookAtFence(t.Context())
			require.NoError(t, err)
			require.Equal(t, fencer.Fence{Epoch: got.Epoch, Fence: got.Fence, Rev: got.Rev}, at)
			got.Rev = 0
			require.Equal(t, tt.want, got)
		})
	}
}

func TestALostFenceIsAnError(t *testing.T) {
	m := open(t, created(t).Client(nil))
	_, err := m.KV.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(record.KeyFence)})
	require.NoError(t, err)
	_, err = m.Raise(t.Context(), 3, 11)
	require.ErrorContains(t, err, "member a has lost its fence")
	_, err = m.LookAtFence(t.Context())
	require.ErrorContains(t, err, "member a has lost its fence")
	_, err = m.ReadRecords(t.Context())
	require.ErrorContains(t, err, "member a has lost its record")
}

func TestRecords(t *testing.T) {
	s := created(t)
	m := open(t, s.Client(nil), func(c *Config) { c.Index = 2 })
	put(t, s, record.KeyCompacted, record.Number(5))
	h := record.Holder{ID: record.NewTxnID()}
	put(t, s, string(record.SlotKey(7)), h.Value())
	put(t, s, string(record.SlotKey(8)), record.Number(4))
	want := Records{MemberState: mergedlog.MemberState{Rev: s.Revision(), Epoch: 3, Fence: 10, Clock: 12}, Compacted: 5}
	got, err := m.ReadRecords(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)

	got, err = m.ReadOpening(t.Context())
	require.NoError(t, err)
	require.Len(t, got.Held, 1)
	require.Equal(t, [2]any{2, 7}, [2]any{got.Held[0].Member, got.Held[0].Slot})
	require.Equal(t, h.ID, got.Held[0].ID)

	put(t, s, record.KeyLock, h.Value())
	got, err = m.ReadOpening(t.Context())
	require.NoError(t, err)
	require.Len(t, got.Held, 2)
	require.Equal(t, mergedlog.Whole, got.Held[0].Slot)
}

func TestDecisions(t *testing.T) {
	s := created(t)
	m := open(t, s.Client(nil))
	got, err := m.ReadDecided(t.Context())
	require.NoError(t, err)
	require.Empty(t, got)
	id, d := record.NewTxnID(), record.Decision{Stamp: 20}
	put(t, s, string(record.TxnKey(id)), d.Value())
	got, err = m.ReadDecided(t.Context())
	require.NoError(t, err)
	require.Contains(t, got, id)
}

// past is a member that is read and watched at old revisions: at each, the manifest and what was written.
type past struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	marks     map[int64]manifest.Kind // of revisions that wrote it
	events    map[int64][]*mvccpb.Event
	compacted int64
}

func (p *past) Range(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if req.Revision < p.compacted {
		return nil, rpctypes.ErrGRPCCompacted
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 20}}
	for rev := req.Revision; rev > 0; rev-- {
		if why, ok := p.marks[rev]; ok {
			e := manifest.Entry{Stamp: 100 + rev, Kind: why}
			if why == manifest.Parted {
				e.Part.Shares = []manifest.Share{{Member: 1, Parts: 2}}
			}
			resp.Kvs = []*mvccpb.KeyValue{{Key: req.Key, ModRevision: rev, Value: manifest.Encode(e)}}
			break
		}
	}
	return resp, nil
}

func (p *past) Watch(stream pb.Watch_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	from := req.GetCreateRequest().StartRevision
	resp := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 20}, Created: true}
	if err := stream.Send(resp); err != nil {
		return err
	}
	for rev := from; rev <= 20; rev++ {
		evs := p.events[rev]
		if len(evs) == 0 {
			continue
		}
		if err := stream.Send(&pb.WatchResponse{Header: resp.Header, Events: evs}); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func at(rev int64, kind mvccpb.Event_EventType, key string) *mvccpb.Event {
	return &mvccpb.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}}
}

// A member is not compacted at a revision that deletes a key and puts it again.
func TestHarmless(t *testing.T) {
	recreates := func(rev int64) []*mvccpb.Event {
		return []*mvccpb.Event{at(rev, mvccpb.DELETE, "k"), at(rev, mvccpb.PUT, "l"), at(rev, mvccpb.PUT, "k")}
	}
	other := func(rev int64) []*mvccpb.Event {
		return []*mvccpb.Event{at(rev, mvccpb.PUT, "k"), at(rev, mvccpb.DELETE, "k"), at(rev, mvccpb.PUT, "l")}
	}
	for name, tt := range map[string]struct {
		past past
		want int64
	}{
		"no such revision":          {past{}, 10},
		"of its own, harmless":      {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{10: other(10)}}, 10},
		"recreates":                 {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{10: recreates(10)}}, 9},
		"a part that recreates":     {past{marks: map[int64]manifest.Kind{10: manifest.Parted}, events: map[int64][]*mvccpb.Event{10: recreates(10)}}, 9},
		"an earlier one":            {past{marks: map[int64]manifest.Kind{9: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{9: recreates(9), 11: recreates(11)}}, 10},
		"several in a row":          {past{marks: map[int64]manifest.Kind{9: manifest.Exclusive, 10: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{9: recreates(9), 10: recreates(10)}}, 8},
		"shared, never recreates":   {past{marks: map[int64]manifest.Kind{10: manifest.Landed}, events: map[int64][]*mvccpb.Event{10: recreates(10)}}, 10},
		"compacted already":         {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive}, compacted: 11}, 10},
		"compacted below that":      {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{10: recreates(10)}, compacted: 10}, 9},
		"the events are not there":  {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{11: recreates(11)}}, 10},
		"nothing is harmless but 0": {past{marks: map[int64]manifest.Kind{10: manifest.Exclusive, 9: manifest.Exclusive}, events: map[int64][]*mvccpb.Event{9: recreates(9), 10: recreates(10)}, compacted: 9}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, bridge.KVClient(&tt.past), func(c *Config) {
				c.Watches = func() pb.WatchClient { return bridge.WatchClient(&tt.past) }
			})
			got, err := m.harmless(t.Context(), 10)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestHarmlessEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := open(t, created(t).Client(nil))
	_, err := m.harmless(ctx, 10)
	require.Error(t, err)
}

// Reads that meet a foreign key name it, and the next look begins there.
func TestForeignKeys(t *testing.T) {
	s := created(t)
	m := open(t, s.Client(nil))
	all := func([]byte) bool { return true }
	for _, k := range []string{"a", "b", "c"} {
		put(t, s, k, header(7).Value(nil))
	}
	require.NoError(t, m.LookForStrays(t.Context(), all, 2))
	require.NoError(t, m.LookForStrays(t.Context(), all, 2))
	put(t, s, "b", []byte("foreign"))
	var foreign *ForeignKeyError
	err := m.UsersView([]*mvccpb.KeyValue{{Key: []byte("a"), Value: header(7).Value([]byte("v"))}, {Key: []byte("b"), Value: []byte("foreign")}})
	require.ErrorAs(t, err, &foreign)
	require.Equal(t, ForeignKeyError{Member: "a", Key: []byte("b")}, *foreign)
	err = m.LookForStrays(t.Context(), all, 1)
	require.ErrorAs(t, err, &foreign)
	require.Equal(t, "b", string(foreign.Key))
	put(t, s, "b", header(8).Value(nil))
	require.NoError(t, m.LookForStrays(t.Context(), all, 1))
	err = m.LookForStrays(t.Context(), func(key []byte) bool { return string(key) != "c" }, 9)
	require.ErrorAs(t, err, &foreign)
	require.Equal(t, "c", string(foreign.Key), "another member owns it")
}
