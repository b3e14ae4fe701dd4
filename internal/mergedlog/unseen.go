package mergedlog

import (
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// Unseen is a piece of a member's past that no log has shown, and that may hold marks of stamps in doubt: what it committed at
// its revisions in (After, UpTo].
type Unseen struct {
	After, UpTo int64
	// Keys are those by which a stamp in doubt can be recognised at any revision; see At.
	Keys [][]byte
}

// Unseen returns what is to be shown next of a member's past, by At for After itself and then by Show, revision by revision.
// False: nothing is missing any more.
func (d *Doubts) Unseen(member int) (u Unseen, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	u.UpTo = o.from
	for _, q := range o.sent {
		if !o.missing(q) {
			continue
		}
		if !ok || q.after < u.After {
			u.After = q.after
		}
		ok = true
		eachPut(q.txn, func(key []byte) {
			if u.Keys = append(u.Keys, key); record.KindOf(key) == record.User {
				u.Keys = append(u.Keys, record.SlotKey(d.slotOf(key)))
			}
		})
	}
	slices.SortFunc(u.Keys, slices.Compare)
	u.Keys = slices.CompactFunc(u.Keys, slices.Equal)
	return u, ok
}

func (o *observed) missing(q *question) bool { return q.Kind == 0 && !q.lost && !o.covers(q) }

// MarkRecords are what At needs besides the keys of Unseen: single keys, and a range of manifests.
func MarkRecords() (keys [][]byte, from, end []byte) {
	from, end = record.NestedRange()
	return [][]byte{[]byte(record.KeyFence), []byte(record.KeyClock), []byte(record.KeyManifest)}, from, end
}

// At tells what the keys of Unseen, and MarkRecords, were at a revision of the member: Unseen.After, or a later one if
// the member is compacted there. Of what has gone they still tell a lot: a stamp above the member's clock had not come; values
// and slot clocks of a put show its stamp, or one above it, from its landing on. What they leave open is forgotten for good.
func (d *Doubts) At(member int, rev int64, kvs []*mvccpb.KeyValue) {
	e := evidenceOf(kvs)
	e.slotOf = d.slotOf
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	for of, q := range o.sent {
		switch {
		case !o.missing(q):
		case q.after <= rev:
			q.judge(of, rev, e)
		case e.epoch > of.epoch:
			q.Outcome = Outcome{Kind: Dead, Rev: rev}
		}
	}
	o.wake()
}

// Show tells what the member committed at the revision that follows what was told last, and reports whether something is missing
// still.
func (d *Doubts) Show(member int, r MemberRevision) (more bool) {
	kvs := make([]*mvccpb.KeyValue, 0, len(r.Events))
	for _, ev := range r.Events {
		if ev.Type == mvccpb.Event_PUT {
			kvs = append(kvs, ev.Kv)
		}
	}
	e := evidenceOf(kvs)
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	for of, q := range o.sent {
		if o.missing(q) {
			q.show(of, r.Rev, e)
			more = more || o.missing(q)
		}
	}
	o.wake()
	return more
}

// found is a mark, and the member revision that it was found to be of: that of the landing, or a later one that gave a lock back.
type found struct {
	mark
	rev int64
}

// evidence is what a member's keys say of stamps: at one revision, or as one changed them.
type evidence struct {
	epoch, fence int64 // of the fence record
	clock        int64
	marks        map[int64]found
	stamps       map[string]int64 // of keys that are there: the stamp in the header, or of the slot's clock; math.MaxInt64: locked
	slotOf       func(key []byte) int
}

func evidenceOf(kvs []*mvccpb.KeyValue) evidence {
	e := evidence{marks: map[int64]found{}, stamps: map[string]int64{}}
	for _, kv := range kvs {
		kind := record.KindOf(kv.Key)
		// What cannot be read says nothing. A log that meets it ends.
		switch kind {
		case record.User:
			if h, _, err := record.ParseHeader(kv.Value); err == nil {
				e.stamp(kv, h.Stamp)
			}
		case record.Slot:
			if stamp, err := record.ParseNumber(kv.Value); err == nil {
				e.stamp(kv, stamp)
			}
		case record.Txn:
			if dec, err := record.ParseDecision(kv.Value); err == nil {
				e.mark(mark{dec.Stamp, manifest.Landed}, kv.ModRevision)
			}
		case record.Fence:
			e.epoch, e.fence, _ = record.ParsePair(kv.Value)
		case record.Clock:
			clock, _ := record.ParseClock(kv.Value)
			e.clock = clock.Highest
		case record.Manifest, record.Nested:
			entries, _ := manifest.Decode(kv.Value)
			for i := range entries {
				e.mark(mark{entries[i].Stamp, entries[i].Kind}, kv.ModRevision)
			}
		}
	}
	return e
}

func (e *evidence) stamp(kv *mvccpb.KeyValue, stamp int64) {
	e.stamps[string(kv.Key)] = stamp
	if stamp < math.MaxInt64 {
		e.mark(mark{stamp, manifest.Landed}, kv.ModRevision)
	}
}

// mark notes a mark. A manifest says more than an effect.
func (e *evidence) mark(mk mark, rev int64) {
	if old, ok := e.marks[mk.stamp]; ok {
		mk.kind, rev = max(mk.kind, old.kind), min(rev, old.rev)
	}
	e.marks[mk.stamp] = found{mk, rev}
}

// judge takes what a member's keys were at member revision rev as the last word on what was before.
func (q *question) judge(of doubt, rev int64, e evidence) {
	mk, marked := e.marks[of.stamp]
	switch {
	case q.after == rev, e.clock < of.stamp, e.epoch <= of.epoch && !marked && q.leftNothing(of.stamp, e):
		q.after = rev
		if e.epoch > of.epoch {
			q.Outcome = Outcome{Kind: Dead, Rev: rev}
		}
	case e.epoch <= of.epoch && marked: // an earlier epoch has never shown the number
		q.settle(mk.mark, mk.rev)
	default:
		q.lost = true
	}
}

// show takes the member revision rev, the next one.
func (q *question) show(of doubt, rev int64, e evidence) {
	fresh := rev > q.after
	q.after = max(q.after, rev)
	// Its marks belong to the epoch that it found.
	if mk, ok := e.marks[of.stamp]; ok && fresh {
		q.settle(mk.mark, rev)
	} else if e.epoch > of.epoch {
		q.Outcome = Outcome{Kind: Dead, Rev: rev}
	}
}

// leftNothing reports whether something that the stamp would have put shows that it has not been put: on a key, and on a slot's
// clock, stamps ascend, and who deletes a key raises its slot's clock or the fence.
func (q *question) leftNothing(stamp int64, e evidence) (proven bool) {
	eachPut(q.txn, func(key []byte) {
		at, there := e.stamps[string(key)]
		if !there && record.KindOf(key) == record.User && e.fence < stamp {
			at, there = e.stamps[string(record.SlotKey(e.slotOf(key)))]
		}
		if there && at < stamp {
			proven = true
		}
	})
	return proven
}

// eachPut calls f with the keys that a request, or one nested in it, puts if its compares succeed, and that show its stamp.
func eachPut(txn *pb.TxnRequest, f func(key []byte)) {
	for _, op := range txn.GetSuccess() {
		if nested := op.GetRequestTxn(); nested != nil {
			eachPut(nested, f)
		}
		if put := op.GetRequestPut(); put != nil {
			switch record.KindOf(put.Key) {
			case record.User, record.Slot, record.Txn:
				f(put.Key)
			}
		}
	}
}
