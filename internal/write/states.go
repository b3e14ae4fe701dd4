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
func (w *transaction) missing() [][]byte {
	if w.plan.NeedValue && (w.read == nil || w.stale) {
		return w.plan.Keys
	}
	var out [][]byte
	for _, k := range w.plan.Keys {
		if _, ok := w.known(k); !ok && !w.plan.DemandsAbsent(k) {
			out = append(out, k)
		}
	}
	return out
}

// tooMany reports whether keys are more than one request can read. Under locks they are read all the same.
func (w *transaction) tooMany(keys [][]byte) bool { return len(keys) > w.c.MaxTxnOps }

// fetch reads keys' states into the cache. A failure leaves them unknown: they count as absent, and the guards refuse.
func (w *transaction) fetch(ctx context.Context, keys [][]byte, linearizable bool) {
	if rd, err := w.readKeys(ctx, keys, linearizable); err == nil {
		w.keep(rd)
	}
}

// known returns a key's state as this process knows it.
func (w *transaction) known(key []byte) (translate.State, bool) {
	s, ok := w.c.Cache.Get(key)
	if w.read != nil {
		if r, at, found := w.read.State(key); found && (!ok || at >= s.NativeMod) {
			return r, true
		}
	}
	if !ok || w.plan.NeedValue { // the cache has no values
		return translate.State{}, false
	}
	return member.Uncached(key, s), true
}

// state returns a key's state as this attempt takes it. It is the same when the compares are evaluated and when their
// keys are pinned, though the cache may learn something newer in between.
func (w *transaction) state(key []byte) translate.State {
	b := w.builtOf(key)
	if !b.known {
		b.known = true
		b.state, _ = w.known(key)
		if w.stale && w.plan.Blind() {
			b.state.NativeMod = 0 // others write the key: the cheaper pin was refused
		}
	}
	return b.state
}

// builtOf finds one of the plan's keys: all that the transaction touches.
func (w *transaction) builtOf(key []byte) *builtKey {
	i, _ := slices.BinarySearchFunc(w.plan.Keys, key, bytes.Compare)
	return &w.built[i]
}

// Get and Range make the writer the view that its transaction is evaluated on.
func (w *transaction) Get(key []byte) *mvccpb.KeyValue { return w.state(key).KV }

// Range implements translate.View.
func (w *transaction) Range(r translate.Range) []*mvccpb.KeyValue { return w.read.Ranges[r.String()] }

// learn keeps what the outcome tells of the keys' native states, before any other operation on them is built.
func (w *transaction) learn(stamp int64, o translate.Outcome) {
	if o.Together || o.Fenced && !o.Landed {
		return // it says nothing of these keys
	}
	if !o.Landed {
		w.stale = true
		w.read = nil
		for i, k := range o.Keys {
			w.c.Cache.Learn(k, member.Cached(o.States[i], o.MemberRev))
		}
		if w.plan.NeedValue && len(o.Keys) == len(w.plan.Keys) {
			w.read, w.stale = &member.Reading{Rev: o.MemberRev, Keys: o.Keys, States: o.States}, false
		}
		return
	}
	for i, s := range w.run.Steps {
		switch {
		case s.Put != nil:
			w.c.Cache.Learn(s.Put.Key, w.putState(i, stamp, o.MemberRev))
		case s.Delete != nil && len(s.Delete.RangeEnd) == 0:
			w.c.Cache.Learn(s.Delete.Key, statecache.State{NativeMod: o.MemberRev})
		}
	}
}

// putState is the state of step i's key after its put landed.
func (w *transaction) putState(i int, stamp, rev int64) statecache.State {
	put := w.run.Steps[i].Put
	st := statecache.State{NativeMod: rev, NativeCreate: rev, Stamp: stamp, Create: stamp, Version: 1, Lease: put.Lease}
	if b := w.builtOf(put.Key); b.state.KV != nil {
		st.NativeCreate, st.Create, st.Version = b.state.NativeCreate, b.state.KV.CreateRevision, b.state.KV.Version+1
		if put.IgnoreLease {
			st.Lease = b.state.KV.Lease
		}
	}
	return st
}

func (w *transaction) readKeys(ctx context.Context, keys [][]byte, linearizable bool) (*member.Reading, error) {
	ctx, cancel := context.WithTimeout(ctx, w.c.Timeout)
	defer cancel()
	return w.member.ReadKeys(ctx, keys, linearizable)
}

// keep takes what was read of keys.
func (w *transaction) keep(rd *member.Reading) {
	for i, k := range rd.Keys {
		w.c.Cache.Learn(k, member.Cached(rd.States[i], rd.Rev))
	}
	if w.plan.NeedValue {
		w.read = rd
	}
}
