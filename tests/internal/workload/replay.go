package workload

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// state is the keys at a revision.
type state map[string]*mvccpb.KeyValue

// replay rebuilds every state up to last from the first one and the log, and compares it with the events themselves and with
// the reads, which are sorted by revision.
func replay(first []*mvccpb.KeyValue, log []moment, reads []*Read, last int64) []error {
	var errs []error
	now := state{}
	for _, kv := range first {
		now[string(kv.Key)] = kv
	}
	check := func(before int64) {
		for len(reads) > 0 && reads[0].Rev < before {
			if err := now.compare(reads[0]); err != nil {
				errs = append(errs, err)
			}
			reads = reads[1:]
		}
	}
	for _, m := range log {
		check(m.rev)
		for _, ev := range m.events {
			if err := now.apply(ev); err != nil {
				errs = append(errs, err)
			}
		}
	}
	check(last + 1)
	return errs
}

// mostRebuilt is how many later reads a list and a watch from there are compared with.
const mostRebuilt = 64

// rebuild makes of a list and the watch from there every state that anybody read later.
func (h *History) rebuild(s *Stream, reads []*Read) []error {
	var later []*Read
	for _, r := range reads {
		if r.Rev >= s.From-1 && (s.Prefix == "" || strings.HasPrefix(r.Key, s.Prefix)) {
			later = append(later, r)
		}
	}
	if n := len(later); n > mostRebuilt {
		for i := range mostRebuilt {
			later[i] = later[i*(n-1)/(mostRebuilt-1)]
		}
		later = later[:mostRebuilt]
	}
	last := min(s.reached(), h.Last)
	errs := replay(s.First, byRevision(s.Log(last)), later, last)
	for i, err := range errs {
		errs[i] = fmt.Errorf("rebuilt from %s's list and %s: %w", s.Client, s, err)
	}
	return errs
}

// apply makes the event's change, and checks what the event says of the state before and after.
func (s state) apply(ev *clientv3.Event) error {
	key := string(ev.Kv.Key)
	prev := s[key]
	if !sameKV(prev, ev.PrevKv) {
		return fmt.Errorf("%w: %s replaced %v, not %v", ErrState, describe(ev), prev, ev.PrevKv)
	}
	if ev.Type == clientv3.EventTypeDelete {
		delete(s, key)
		if prev == nil {
			return fmt.Errorf("%w: %s of an absent key", ErrState, describe(ev))
		}
		return nil
	}
	s[key] = ev.Kv
	want := &mvccpb.KeyValue{Key: ev.Kv.Key, Value: ev.Kv.Value, ModRevision: ev.Kv.ModRevision, CreateRevision: ev.Kv.ModRevision, Version: 1}
	if prev != nil {
		want.CreateRevision, want.Version = prev.CreateRevision, prev.Version+1
	}
	if !sameKV(want, ev.Kv) {
		return fmt.Errorf("%w: %s is %v, must be %v", ErrState, describe(ev), ev.Kv, want)
	}
	if strings.HasSuffix(key, counterKey) {
		last := int64(0)
		if prev != nil {
			last = Number(prev.Value)
		}
		if Number(ev.Kv.Value) != last+1 {
			return fmt.Errorf("%w: %s after %d", ErrCount, describe(ev), last)
		}
	}
	return nil
}

// compare compares a read with the state at its revision.
func (s state) compare(r *Read) error {
	var want []*mvccpb.KeyValue
	if r.RangeEnd == "" {
		want = list(s[r.Key])
	} else {
		for key, kv := range s {
			if key >= r.Key && (key < r.RangeEnd || r.RangeEnd == "\x00") {
				want = append(want, kv)
			}
		}
		slices.SortFunc(want, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	}
	if n := int64(len(want)); r.Counted && (r.Count != n || r.More != (r.Limit > 0 && n > r.Limit && !r.CountOnly)) {
		return fmt.Errorf("%w: %s's read of %q at %d with limit %d: count %d of %d, more %v", ErrState, r.Client, r.Key, r.Rev, r.Limit, r.Count, n, r.More)
	}
	want = r.of(want)
	if slices.EqualFunc(want, r.KVs, sameKV) {
		return nil
	}
	for i, kv := range want {
		if i >= len(r.KVs) || !sameKV(kv, r.KVs[i]) {
			return fmt.Errorf("%w: %s's read of %q at %d: %d keys instead of %d; at %d %v is missing or different", ErrState, r.Client, r.Key, r.Rev, len(r.KVs), len(want), i, kv)
		}
	}
	return fmt.Errorf("%w: %s's read of %q at %d: %v should not be there", ErrState, r.Client, r.Key, r.Rev, r.KVs[len(want)])
}

// of is what a read of the shape is told of what it found.
func (s Shape) of(kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	if s.CountOnly {
		return nil
	}
	if s.Limit > 0 {
		kvs = kvs[:min(int64(len(kvs)), s.Limit)]
	}
	if s.KeysOnly {
		kvs = slices.Clone(kvs)
		for i, kv := range kvs {
			kvs[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
		}
	}
	return kvs
}

// sameKV is proto.Equal, for the very many.
func sameKV(a, b *mvccpb.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ModRevision == b.ModRevision && a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease &&
		bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

func sameEvent(a, b *clientv3.Event) bool {
	return a.Type == b.Type && sameKV(a.Kv, b.Kv) && sameKV(a.PrevKv, b.PrevKv)
}

func describe(ev *clientv3.Event) string {
	return fmt.Sprintf("%s %q=%q at %d", ev.Type, ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision)
}
