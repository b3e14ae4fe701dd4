package member

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Reading is what a member said of some keys and ranges at one member revision. It is not for concurrent use.
type Reading struct {
	Rev         int64
	Keys        [][]byte
	States      []translate.State             // of Keys
	Ranges      map[string][]*mvccpb.KeyValue // by translate.Range.String
	EmptyRanges map[string]bool               // by the same; whether there is nothing in it

	places map[string]int // of Keys, when they are many and one was asked for
}

// State returns a key's state and the member revision at which it was so. False: the key was not read.
func (r *Reading) State(key []byte) (translate.State, int64, bool) {
	if len(r.Keys) > manyKeys {
		if r.places == nil {
			r.places = make(map[string]int, len(r.Keys))
			for i, k := range r.Keys {
				r.places[string(k)] = i
			}
		}
		if i, found := r.places[string(key)]; found {
			return r.States[i], r.Rev, true
		}
		return translate.State{}, 0, false
	}
	for i, k := range r.Keys {
		if string(k) == string(key) {
			return r.States[i], r.Rev, true
		}
	}
	return translate.State{}, 0, false
}

// manyKeys is the number of keys above which a map beats a scan.
const manyKeys = 16

// ReadKeys reads keys' states on their member, at one member revision. What is not linearizable may be outdated; guards notice. There
// are at most MaxTxnOps keys.
func (m *Member) ReadKeys(ctx context.Context, keys [][]byte, linearizable bool) (*Reading, error) {
	if len(keys) == 1 && !linearizable {
		resp, err := m.ReadPoint(ctx, &pb.RangeRequest{Key: keys[0]})
		if err != nil {
			return nil, err
		}
		s, err := translate.StateOf(resp)
		return &Reading{Rev: resp.Header.Revision, Keys: keys, States: []translate.State{s}}, err
	}
	req := &pb.TxnRequest{}
	for _, k := range keys {
		req.Success = append(req.Success, request.Range(&pb.RangeRequest{Key: k, Serializable: !linearizable}))
	}
	resp, err := m.Txn(ctx, req)
	if err != nil {
		return nil, err
	}
	rd := &Reading{Rev: resp.Header.Revision, Keys: keys, States: make([]translate.State, len(keys))}
	for i := range keys {
		if rd.States[i], err = translate.StateOf(resp.Responses[i].GetResponseRange()); err != nil {
			return nil, err
		}
	}
	return rd, nil
}

// States is ReadKeys for what may be outdated.
func (m *Member) States(ctx context.Context, keys [][]byte) (rev int64, states []translate.State, err error) {
	rd, err := m.ReadKeys(ctx, keys, false)
	if err != nil {
		return 0, nil, err
	}
	return rd.Rev, rd.States, nil
}

// Cached is what the state cache keeps of a state that was so at member revision rev.
func Cached(s translate.State, rev int64) statecache.State {
	if s.KV == nil {
		return statecache.State{NativeMod: rev}
	}
	return statecache.State{NativeMod: s.NativeMod, NativeCreate: s.NativeCreate, Stamp: s.KV.ModRevision, Create: s.KV.CreateRevision, Version: s.KV.Version, Lease: s.KV.Lease}
}

// Uncached is a key's state, without its value, as the state cache keeps it.
func Uncached(key []byte, s statecache.State) translate.State {
	if s.NativeCreate == 0 {
		return translate.State{}
	}
	return translate.State{
		KV:        &mvccpb.KeyValue{Key: key, ModRevision: s.Stamp, CreateRevision: s.Create, Version: s.Version, Lease: s.Lease},
		NativeMod: s.NativeMod, NativeCreate: s.NativeCreate,
	}
}

// UsersView makes stored pairs, in place, what their users know of them. It fails with a *ForeignKeyError.
func (m *Member) UsersView(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if record.ToUser(kv) != nil {
			return m.Foreign(kv.Key)
		}
	}
	return nil
}
