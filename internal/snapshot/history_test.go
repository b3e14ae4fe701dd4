package snapshot

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// history is what members committed, together with what that means.
type history struct {
	keys    []string             // every key that was ever written to
	owner   map[string]int       // the member of a key
	members [][]*mergedlog.Event // per member, in member order
	stamps  int64                // the highest stamp
}

// drawHistory lets writes land on members out of stamp order, as far as the guards allow: the stamps of one key
// grow.
func drawHistory(t *rapid.T) *history {
	h := &history{owner: map[string]int{}}
	h.members = make([][]*mergedlog.Event, oneOf(1, 1, 2, 3, 5).Draw(t, "members"))
	for i := range oneOf(1, 6, 14, 24).Draw(t, "keys") {
		k := fmt.Sprintf("%c%c", 'a'+i%3, 'a'+i/3)
		h.keys = append(h.keys, k)
		h.owner[k] = uniform(len(h.members)).Draw(t, "owner")
	}
	h.stamps = 1 + oneOf[int64](3, 30, 60, 120).Draw(t, "stamps")
	for _, stamp := range drawLandings(t, h.stamps) {
		h.land(t, stamp)
	}
	return h
}

// uniform draws from 0 to n-1. rapid's own generators prefer the small ones, and with them short histories of few
// keys, whose tails hold nothing of interest.
func uniform(n int) *rapid.Generator[int] {
	return rapid.Custom(func(t *rapid.T) int {
		i := 0
		for range bits.Len(uint(n)) + 2 {
			i *= 2
			if rapid.Bool().Draw(t, "bit") {
				i++
			}
		}
		return i % n
	})
}

// oneOf draws any of the choices with the same probability.
func oneOf[E any](choices ...E) *rapid.Generator[E] {
	return rapid.Map(uniform(len(choices)), func(i int) E { return choices[i] })
}

// drawLandings orders the stamps from 2 on by when they land.
func drawLandings(t *rapid.T, highest int64) []int64 {
	type landing struct{ stamp, at int64 }
	var ls []landing
	for s := int64(2); s <= highest; s++ {
		ls = append(ls, landing{s, s + oneOf[int64](0, 0, 1, 3, 8, 20).Draw(t, "delay")})
	}
	slices.SortStableFunc(ls, func(a, b landing) int { return int(a.at - b.at) })
	stamps := make([]int64, len(ls))
	for i, l := range ls {
		stamps[i] = l.stamp
	}
	return stamps
}

// land commits a transaction of one or a few keys on one member.
func (h *history) land(t *rapid.T, stamp int64) {
	member := -1
	written := map[string]bool{}
	for range oneOf(1, 1, 1, 2, 3).Draw(t, "ops") {
		k := oneOf(h.keys...).Draw(t, "key")
		if member >= 0 && h.owner[k] != member || written[k] {
			continue
		}
		member, written[k] = h.owner[k], true
		last := h.lastOf(k)
		if last != nil && last.Rev > stamp {
			continue // the guard refuses it
		}
		if e := drawEvent(t, k, stamp, current(last)); e != nil {
			e.Member, e.MemberRev = member, h.nextRev(member, stamp)
			h.members[member] = append(h.members[member], e)
		}
	}
}

// lastOf is the newest event of a key on its member, or nil.
func (h *history) lastOf(key string) *mergedlog.Event {
	for _, e := range slices.Backward(h.members[h.owner[key]]) {
		if string(e.Kv.Key) == key {
			return e
		}
	}
	return nil
}

// nextRev is the member revision of a landing: one per stamp.
func (h *history) nextRev(member int, stamp int64) int64 {
	evs := h.members[member]
	if len(evs) == 0 {
		return 1
	}
	if last := evs[len(evs)-1]; last.Rev == stamp {
		return last.MemberRev
	}
	return evs[len(evs)-1].MemberRev + 1
}

// current is what an event leaves behind.
func current(e *mergedlog.Event) *mvccpb.KeyValue {
	if e == nil || e.Type == mvccpb.Event_DELETE {
		return nil
	}
	return e.Kv
}

// drawEvent changes a key that is prev now; nil when a delete finds nothing.
func drawEvent(t *rapid.T, key string, stamp int64, prev *mvccpb.KeyValue) *mergedlog.Event {
	e := &mergedlog.Event{Rev: stamp, PrevKv: prev}
	if oneOf(false, false, false, true).Draw(t, "delete") {
		if prev == nil {
			return nil
		}
		e.Type, e.Kv = mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: []byte(key), ModRevision: stamp}
		return e
	}
	e.Type = mvccpb.Event_PUT
	e.Kv = &mvccpb.KeyValue{
		Key: []byte(key), ModRevision: stamp, CreateRevision: stamp, Version: 1,
		Value: []byte(oneOf("x", "y", "z", "zz").Draw(t, "value")),
		Lease: int64(uniform(3).Draw(t, "lease")),
	}
	if prev != nil {
		e.Kv.CreateRevision, e.Kv.Version = prev.CreateRevision, prev.Version+1
	}
	return e
}

// at is the merged keyspace at a stamp, by its definition: of every key the event with the highest stamp.
func (h *history) at(stamp int64) map[string]*mvccpb.KeyValue {
	newest := map[string]*mergedlog.Event{}
	for _, evs := range h.members {
		for _, e := range evs {
			if k := string(e.Kv.Key); e.Rev <= stamp && (newest[k] == nil || newest[k].Rev < e.Rev) {
				newest[k] = e
			}
		}
	}
	state := map[string]*mvccpb.KeyValue{}
	for k, e := range newest {
		if kv := current(e); kv != nil {
			state[k] = kv
		}
	}
	return state
}

// native is a member's own state at one of its revisions.
func (h *history) native(member int, rev int64) map[string]*mvccpb.KeyValue {
	state := map[string]*mvccpb.KeyValue{}
	for _, e := range h.members[member] {
		if e.MemberRev > rev {
			break
		}
		delete(state, string(e.Kv.Key))
		if kv := current(e); kv != nil {
			state[string(kv.Key)] = kv
		}
	}
	return state
}

// lo is the last revision of a member before any stamp above r.
func (h *history) lo(member int, r int64) int64 {
	var rev int64
	for _, e := range h.members[member] {
		if e.Rev > r {
			return e.MemberRev - 1
		}
		rev = e.MemberRev
	}
	return rev
}

// tail is what the merged log hands out with a base at lo.
func (h *history) tail(member int, lo, r int64, key, end []byte) []*mergedlog.Event {
	var tail []*mergedlog.Event
	for _, e := range h.members[member] {
		if e.MemberRev > lo && e.Rev <= r && keyrange.Of(key, end).Contains(e.Kv.Key) {
			tail = append(tail, e)
		}
	}
	return tail
}

// clones copies events in depth.
func clones(events ...[]*mergedlog.Event) []*mergedlog.Event {
	var all []*mergedlog.Event
	for _, e := range slices.Concat(events...) {
		c := *e
		c.Kv = proto.CloneOf(e.Kv)
		if e.PrevKv != nil {
			c.PrevKv = proto.CloneOf(e.PrevKv)
		}
		all = append(all, &c)
	}
	return all
}

// etcdRange answers a request as etcd does, step by step, on a materialised keyspace. What it returns is its
// own.
func etcdRange(req *pb.RangeRequest, state map[string]*mvccpb.KeyValue) *pb.RangeResponse {
	kvs := sortedRange(state, req.Key, req.RangeEnd)
	resp := &pb.RangeResponse{Count: int64(len(kvs))}
	if req.CountOnly {
		return resp
	}
	hasFilter := req.MinModRevision != 0 || req.MaxModRevision != 0 || req.MinCreateRevision != 0 || req.MaxCreateRevision != 0
	keyOrder := req.SortOrder == pb.RangeRequest_NONE ||
		req.SortTarget == pb.RangeRequest_KEY && req.SortOrder == pb.RangeRequest_ASCEND
	if fetch := int(req.Limit) + 1; req.Limit > 0 && keyOrder && !hasFilter && fetch > 0 && len(kvs) > fetch {
		kvs = kvs[:fetch]
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return req.MaxModRevision != 0 && kv.ModRevision > req.MaxModRevision ||
			req.MinModRevision != 0 && kv.ModRevision < req.MinModRevision ||
			req.MaxCreateRevision != 0 && kv.CreateRevision > req.MaxCreateRevision ||
			req.MinCreateRevision != 0 && kv.CreateRevision < req.MinCreateRevision
	})
	less := map[pb.RangeRequest_SortTarget]func(a, b *mvccpb.KeyValue) bool{
		pb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Key, b.Key) < 0 },
		pb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) bool { return a.Version < b.Version },
		pb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) bool { return a.CreateRevision < b.CreateRevision },
		pb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) bool { return a.ModRevision < b.ModRevision },
		pb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Value, b.Value) < 0 },
	}[req.SortTarget]
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if req.SortOrder == pb.RangeRequest_DESCEND {
			a, b = b, a
		}
		switch {
		case less(a, b):
			return -1
		case less(b, a):
			return 1
		}
		return 0
	})
	if req.Limit > 0 && len(kvs) > int(req.Limit) {
		kvs, resp.More = kvs[:req.Limit], true
	}
	for _, kv := range kvs {
		if req.KeysOnly {
			kv.Value = nil
			if req.SortTarget != pb.RangeRequest_VALUE {
				kv.Lease = 0
			}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp
}

// sortedRange copies the pairs of an etcd range, by key.
func sortedRange(state map[string]*mvccpb.KeyValue, key, end []byte) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for k, kv := range state {
		from, to := k >= string(key), k < string(end)
		if len(end) == 0 {
			from, to = k == string(key), true
		} else if bytes.Equal(end, []byte{0}) {
			to = true
		}
		if from && to {
			kvs = append(kvs, proto.CloneOf(kv))
		}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs
}
