package linearizability

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

var bySegment = metaetcd.Sharding{Segments: 1, Slots: 512}

// storeUser remembers what it saw last.
type storeUser struct {
	names  []string
	serial *atomic.Int64
	seen   [keys]cell
}

// draw makes a request.
func (u *storeUser) draw(rng *rand.Rand) (in storeInput) {
	k := rng.IntN(keys)
	other := k ^ 1 // of the same group
	if rng.IntN(3) > 0 {
		other = (k + 1 + rng.IntN(keys-1)) % keys // most often on another member
	}
	put := change{k, u.serial.Add(1)}
	is := func(k int) pin { return pin{k, u.seen[k].mod} }
	switch n := rng.IntN(100); {
	case n < 15:
		in.look = []int{k}
	case n < 25:
		in.look = everything
	case n < 35:
		in.look, in.stale = everything, true
	case n < 40:
		in.look, in.stale = []int{k}, true
	case n < 55:
		in.changes = []change{put}
	case n < 63:
		in.changes = []change{{k, 0}}
	case n < 75:
		in.pins, in.changes, in.look = []pin{is(k)}, []change{put}, []int{k}
	case n < 88: // what is compared is not written
		in.pins, in.changes, in.look = []pin{is(other)}, []change{put}, []int{k, other}
	case n < 91:
		in.pins, in.changes, in.look = []pin{is(k), is(other)}, []change{put, {other, 0}}, []int{k, other}
	case n < 93:
		in.below, in.changes, in.look = u.newest()+1, []change{put}, everything
	case n < 95:
		in.all = true
		for k := range keys {
			in.changes = append(in.changes, change{k, 0})
		}
	default:
		in.changes, in.look = []change{put, {other, u.serial.Add(1)}}, everything
	}
	return in
}

var everything = []int{0, 1, 2, 3, 4, 5}

// newest is the highest ModRevision that the user knows.
func (u *storeUser) newest() int64 {
	return slices.MaxFunc(u.seen[:], func(a, b cell) int { return cmp.Compare(a.mod, b.mod) }).mod
}

func (u *storeUser) request(ctx context.Context, kv clientv3.KV, rng *rand.Rand) (any, any, error) {
	in := u.draw(rng)
	if in.all { // is never given up: which deletes were its own is in its answer only
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		ctx = patient
	}
	out, err := u.do(ctx, kv, in)
	if err != nil {
		return in, nil, err
	}
	for i, k := range in.look {
		u.seen[k] = out.seen[i]
	}
	if len(in.look) == 0 {
		for i, c := range in.changes {
			u.seen[c.key] = out.before[i].after(c, out.rev)
		}
	}
	return in, out, nil
}

// do makes the request as a user would: by a plain method, if there is one.
func (u *storeUser) do(ctx context.Context, kv clientv3.KV, in storeInput) (out storeOutput, err error) {
	out.done = true
	var opts []clientv3.OpOption
	if in.stale {
		opts = append(opts, clientv3.WithSerializable())
	}
	switch {
	case len(in.changes) == 0 && len(in.look) == 1:
		resp, err := kv.Get(ctx, u.names[in.look[0]], opts...)
		if err == nil {
			out.rev, out.seen = resp.Header.Revision, u.cells(in.look, resp.Kvs)
		}
		return out, err
	case len(in.changes) == 0:
		resp, err := kv.Get(ctx, "", append(opts, clientv3.WithPrefix())...)
		if err == nil {
			out.rev, out.seen = resp.Header.Revision, u.cells(in.look, resp.Kvs)
		}
		return out, err
	case in.all:
		resp, err := kv.Delete(ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
		if err == nil {
			out.rev, out.before = resp.Header.Revision, u.cells(everything, resp.PrevKvs)
		}
		return out, err
	case len(in.look) == 0 && in.changes[0].value == 0:
		resp, err := kv.Delete(ctx, u.names[in.changes[0].key], clientv3.WithPrevKV())
		if err == nil {
			out.rev, out.before = resp.Header.Revision, u.cells([]int{in.changes[0].key}, resp.PrevKvs)
		}
		return out, err
	case len(in.look) == 0:
		resp, err := kv.Do(ctx, u.op(in.changes[0], clientv3.WithPrevKV()))
		if err == nil {
			put := resp.Put()
			var before []*mvccpb.KeyValue
			if put.PrevKv != nil {
				before = append(before, put.PrevKv)
			}
			out.rev, out.before = put.Header.Revision, u.cells([]int{in.changes[0].key}, before)
		}
		return out, err
	}
	return u.commit(ctx, kv, in)
}

func (u *storeUser) commit(ctx context.Context, kv clientv3.KV, in storeInput) (out storeOutput, err error) {
	var compares []clientv3.Cmp
	for _, p := range in.pins {
		compares = append(compares, clientv3.Compare(clientv3.ModRevision(u.names[p.key]), "=", p.mod))
	}
	if in.below > 0 {
		compares = append(compares, clientv3.Compare(clientv3.ModRevision("\x00"), "<", in.below).WithRange("\x00"))
	}
	var changes, looks []clientv3.Op
	for _, c := range in.changes {
		changes = append(changes, u.op(c))
	}
	for _, k := range in.look {
		looks = append(looks, clientv3.OpGet(u.names[k]))
	}
	resp, err := kv.Txn(ctx).If(compares...).Then(append(changes, looks...)...).Else(looks...).Commit()
	if err != nil {
		return out, err
	}
	out.rev, out.done = resp.Header.Revision, resp.Succeeded
	answers := resp.Responses[len(resp.Responses)-len(looks):]
	for i, k := range in.look {
		out.seen = append(out.seen, u.cells([]int{k}, answers[i].GetResponseRange().Kvs)...)
	}
	return out, nil
}

func (u *storeUser) op(c change, opts ...clientv3.OpOption) clientv3.Op {
	if c.value == 0 {
		return clientv3.OpDelete(u.names[c.key], opts...)
	}
	return clientv3.OpPut(u.names[c.key], strconv.FormatInt(c.value, 10), opts...)
}

// cells are the states of keys, of which those that are present were found.
func (u *storeUser) cells(ks []int, found []*mvccpb.KeyValue) []cell {
	out := make([]cell, len(ks))
	for _, kv := range found {
		if i := slices.IndexFunc(ks, func(k int) bool { return u.names[k] == string(kv.Key) }); i >= 0 {
			out[i] = cell{number(kv), kv.CreateRevision, kv.ModRevision, kv.Version}
		}
	}
	return out
}

func number(kv *mvccpb.KeyValue) int64 {
	n, err := strconv.ParseInt(string(kv.Value), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// wrote reports whether a request changed something, so that the revision it was told is its own. That of any other may be
// another request's as well.
func wrote(in storeInput, out storeOutput) bool {
	if !out.done || len(in.changes) == 0 {
		return false
	}
	puts := slices.ContainsFunc(in.changes, func(c change) bool { return c.value != 0 })
	removes := slices.ContainsFunc(out.before, func(c cell) bool { return c != cell{} })
	return puts || removes
}

// testify says of the requests of unknown outcome what the witness, a watch, saw of them; those of which it saw nothing did nothing.
// Puts have unique values. A delete that nobody is known to have made is that of the request that began first.
func testify(history []porcupine.Operation, events []*clientv3.Event, names []string) []porcupine.Operation {
	assigned := map[int64]bool{} // revisions whose deletes are known to be part of something else
	for _, op := range history {
		if out, ok := op.Output.(storeOutput); ok && wrote(op.Input.(storeInput), out) {
			assigned[out.rev] = true
		}
	}
	puts, deletes := map[int64]int64{}, map[string][]int64{}
	for _, ev := range events {
		if ev.Type == clientv3.EventTypePut {
			puts[number(ev.Kv)], assigned[ev.Kv.ModRevision] = ev.Kv.ModRevision, true
		}
	}
	for _, ev := range events {
		if rev := ev.Kv.ModRevision; ev.Type == clientv3.EventTypeDelete && !assigned[rev] {
			deletes[string(ev.Kv.Key)] = append(deletes[string(ev.Kv.Key)], rev)
		}
	}
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var known []porcupine.Operation
	for _, op := range history {
		if op.Return == never {
			rev := int64(0)
			for _, c := range op.Input.(storeInput).changes {
				if c.value != 0 {
					rev = puts[c.value]
					break
				}
				if revs := deletes[names[c.key]]; len(revs) > 0 {
					rev, deletes[names[c.key]] = revs[0], revs[1:]
				}
			}
			if rev == 0 {
				continue
			}
			op.Output = storeOutput{rev: rev, done: true, lost: true}
		}
		known = append(known, op)
	}
	return known
}

// storeNames are the names of the keys. Every group is on another member.
func storeNames(t *testing.T, cluster *metaetcdtest.Cluster) []string {
	t.Helper()
	var members []string
	for _, m := range cluster.Members {
		members = append(members, m.Name())
	}
	r, err := ring.New(members, bySegment.Slots, ring.Policy{Segments: bySegment.Segments, Separator: '/'})
	require.NoError(t, err)
	var names []string
	taken := map[int]bool{}
	for i := 0; len(names) < keys; i++ {
		group := fmt.Sprintf("g%d/", i)
		if m := r.MemberOf([]byte(group)); !taken[m] {
			taken[m] = true
			names = append(names, group+"a", group+"b")
		}
	}
	return names
}

// TestStore: requests on all of a small store, with all that is told of revisions, are linearizable; stale reads are of the past,
// but never of what was not.
func TestStore(t *testing.T) {
	cluster, clients := open(t, bySegment)
	names := storeNames(t, cluster)
	var serial atomic.Int64
	run := workload.Start(t, clients[0])
	run.Join("witness", clients[1])
	history := drive(t, clients, rounds(200), func() user {
		return &storeUser{names: names, serial: &serial}
	})
	witness := run.Finish()
	require.Empty(t, witness.Faults)
	known := testify(history, witness.Events(), names)
	lost := 0
	for _, op := range known {
		if op.Output.(storeOutput).lost {
			lost++
		}
	}
	t.Logf("%d requests of unknown outcome had an effect", lost)
	narrow(known)
	check(t, storeModel(witness.Base), known)
}
