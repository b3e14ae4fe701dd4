package write

import (
	"bytes"
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// missing returns the keys whose state must be read first: unknown ones, unless the transaction itself demands that they
// are absent, which then is a guess that the guards check; with NeedValue, all.
func (t *transaction) missing() [][]byte {
	if t.plan.NeedValue && (t.read == nil || t.stale) {
		return t.plan.Keys
	}
	var out [][]byte
	for _, k := range t.plan.Keys {
		if _, ok := t.known(k); !ok && !t.plan.DemandsAbsent(k) {
			out = append(out, k)
		}
	}
	return out
}

// tooMany reports whether keys are more than one request can read. Under locks they are read all the same.
func (t *transaction) tooMany(keys [][]byte) bool { return len(keys) > t.writer.cfg.MaxTxnOps }

// fetch reads keys' states into the cache. A failure leaves them unknown: they count as absent, and the guards refuse.
func (t *transaction) fetch(ctx context.Context, keys [][]byte, linearizable bool) {
	if rd, err := t.readKeys(ctx, keys, linearizable); err == nil {
		t.keep(rd)
	}
}

// known returns a key's state as this process knows it.
func (t *transaction) known(key []byte) (translate.State, bool) {
	s, ok := t.writer.cfg.Cache.Get(key)
	if t.read != nil {
		if r, at, found := t.read.State(key); found && (!ok || at >= s.NativeMod) {
			return r, true
		}
	}
	if !ok || t.plan.NeedValue { // the cache has no values
		return translate.State{}, false
	}
	return member.Uncached(key, s), true
}

// state returns a key's state as this attempt takes it. It is the same when the compares are evaluated and when their
// keys are pinned, though the cache may learn something newer in between.
func (t *transaction) state(key []byte) translate.State {
	b := t.builtOf(key)
	if !b.known {
		b.known = true
		b.state, _ = t.known(key)
		if t.stale && t.plan.Blind() {
			b.state.NativeMod = 0 // others write the key: the cheaper pin was refused
		}
	}
	return b.state
}

// builtOf finds one of the plan's keys: all that the transaction touches.
func (t *transaction) builtOf(key []byte) *builtKey {
	i, _ := slices.BinarySearchFunc(t.plan.Keys, key, bytes.Compare)
	return &t.built[i]
}

// Get and Range make the transaction the view that it is evaluated on.
func (t *transaction) Get(key []byte) *mvccpb.KeyValue { return t.state(key).KV }

// Range implements translate.View.
func (t *transaction) Range(r translate.Range) []*mvccpb.KeyValue { return t.read.Ranges[r.String()] }

// learn keeps what the outcome tells of the keys' native states, before any other operation on them is built.
func (t *transaction) learn(stamp int64, o translate.Outcome) {
	if o.Fenced && !o.Landed {
		return // it says nothing of these keys
	}
	if o.Together && !t.differs(o) {
		return // it was another operation's guard
	}
	if !o.Landed {
		t.stale = true
		t.read = nil
		for i, k := range o.Keys {
			t.writer.cfg.Cache.Learn(k, member.Cached(o.States[i], o.MemberRev))
		}
		if t.plan.NeedValue && len(o.Keys) == len(t.plan.Keys) {
			t.read, t.stale = &member.Reading{Rev: o.MemberRev, Keys: o.Keys, States: o.States}, false
		}
		return
	}
	for i, s := range t.run.Steps {
		switch {
		case s.Put != nil:
			t.writer.cfg.Cache.Learn(s.Put.Key, t.putState(i, stamp, o.MemberRev))
		case s.Delete != nil && len(s.Delete.RangeEnd) == 0:
			t.writer.cfg.Cache.Learn(s.Delete.Key, statecache.State{NativeMod: o.MemberRev})
		}
	}
}

// differs reports whether an outcome shows that a key was not as the transaction was built on it.
func (t *transaction) differs(o translate.Outcome) bool {
	for i, k := range o.Keys {
		if b := t.builtOf(k); b.state.NativeMod != o.States[i].NativeMod {
			return true
		}
	}
	return false
}

// putState is the state of step i's key after its put landed.
func (t *transaction) putState(i int, stamp, rev int64) statecache.State {
	put := t.run.Steps[i].Put
	st := statecache.State{NativeMod: rev, NativeCreate: rev, Stamp: stamp, Create: stamp, Version: 1, Lease: put.Lease}
	if b := t.builtOf(put.Key); b.state.KV != nil {
		st.NativeCreate, st.Create, st.Version = b.state.NativeCreate, b.state.KV.CreateRevision, b.state.KV.Version+1
		if put.IgnoreLease {
			st.Lease = b.state.KV.Lease
		}
	}
	return st
}

func (t *transaction) readKeys(ctx context.Context, keys [][]byte, linearizable bool) (*member.Reading, error) {
	ctx, cancel := context.WithTimeout(ctx, t.writer.cfg.Timeout)
	defer cancel()
	return t.member.ReadKeys(ctx, keys, linearizable)
}

// keep takes what was read of keys.
func (t *transaction) keep(rd *member.Reading) {
	for i, k := range rd.Keys {
		t.writer.cfg.Cache.Learn(k, member.Cached(rd.States[i], rd.Rev))
	}
	if t.plan.NeedValue {
		t.read = rd
	}
}
