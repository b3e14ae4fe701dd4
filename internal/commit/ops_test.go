package commit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

var ctx = context.Background()

func put(key, value string) *pb.TxnRequest {
	p := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: p}}}}
}

// leased is a put that the server refuses unless it has the lease: an error of one operation that is definite, and does not say
// whose it is.
func leased(key, value string, lease int64) *pb.TxnRequest {
	req := put(key, value)
	req.Success[0].GetRequestPut().Lease = lease
	return req
}

func remove(key, end string) *pb.TxnRequest {
	d := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}}}
}

// beside adds a compare of another key, which always holds.
func beside(key string, req *pb.TxnRequest) *pb.TxnRequest {
	c := &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_ModRevision{ModRevision: -1}}
	req.Compare = append(req.Compare, c)
	return req
}

// view is what a member holds now.
type view struct {
	m   *member
	rev int64
}

func (v *view) state(key []byte) translate.State {
	resp, err := v.m.kv.Range(context.Background(), &pb.RangeRequest{Key: key})
	require.NoError(v.m.c.t, err)
	v.rev = resp.Header.Revision
	s, err := translate.StateOf(resp)
	require.NoError(v.m.c.t, err)
	return s
}

func (v *view) Get(key []byte) *mvccpb.KeyValue { return v.state(key).KV }

func (v *view) Range(r translate.Range) []*mvccpb.KeyValue {
	resp, err := v.m.kv.Range(context.Background(), &pb.RangeRequest{Key: r.Key, RangeEnd: r.End})
	require.NoError(v.m.c.t, err)
	v.rev = resp.Header.Revision
	for _, kv := range resp.Kvs {
		require.NoError(v.m.c.t, record.ToUser(kv))
	}
	return resp.Kvs
}

var errNothing = errors.New("nothing to write")

// op makes an operation of a transaction, which reads what it needs when it is built. A range is that of the first member.
func (c *cluster) op(req *pb.TxnRequest) (member int, op *commit.Op) {
	plan := translate.NewPlan(req, c.ring)
	member = plan.Members[0]
	op = &commit.Op{Keys: plan.Keys, Size: plan.Size()}
	v := &view{m: c.members[member]}
	evaluate := func() (*translate.Run, error) {
		run, err := plan.Evaluate(v)
		if err == nil && !run.Writes(v) {
			err = errNothing
		}
		return run, err
	}
	if plan.Exclusive() {
		op.Exclude = func(stamp, epoch int64) (*translate.Exclusive, error) {
			run, err := evaluate()
			if err != nil {
				return nil, err
			}
			return plan.Exclude(run, v.state, v.rev, stamp, epoch, 0, c.ring.Slot)
		}
		return member, op
	}
	lease := req.Success[0].GetRequestPut().GetLease()
	if lease != 0 {
		req.Success[0].GetRequestPut().Lease = 0
	}
	op.Build = func(stamp int64, mark int) (*translate.Guarded, error) {
		run, err := evaluate()
		if err != nil {
			return nil, err
		}
		g, err := plan.Guard(run, v.state, stamp, mark, c.ring.Slot)
		if err == nil && lease != 0 {
			g.Txn.Success[0].GetRequestPut().Lease = lease
		}
		return g, err
	}
	return member, op
}

// try makes one attempt.
func (p *process) try(ctx context.Context, req *pb.TxnRequest) (commit.Result, error) {
	member, op := p.c.op(req)
	return p.Do(ctx, member, op)
}

// write tries until the transaction has landed.
func (p *process) write(ctx context.Context, req *pb.TxnRequest) (commit.Result, error) {
	for {
		r, err := p.try(ctx, req)
		if err != nil || r.Outcome.Landed {
			return r, err
		}
	}
}

// pending is a call of Do in the background.
type pending struct {
	commit.Result
	err  error
	done chan struct{}
}

func (p *process) doLater(ctx context.Context, member int, op *commit.Op) *pending {
	x := &pending{done: make(chan struct{})}
	go func() {
		defer close(x.done)
		x.Result, x.err = p.Do(ctx, member, op)
	}()
	synctest.Wait()
	return x
}

func (p *process) later(ctx context.Context, req *pb.TxnRequest) *pending {
	member, op := p.c.op(req)
	return p.doLater(ctx, member, op)
}

func (x *pending) over() bool {
	synctest.Wait()
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// landed waits for an operation that must land.
func (x *pending) landed(c *cluster) commit.Result {
	c.t.Helper()
	<-x.done
	require.NoError(c.t, x.err)
	require.True(c.t, x.Outcome.Landed)
	return x.Result
}

// keysOn returns n keys on a member, each in a slot of its own.
func (c *cluster) keysOn(member, n int) []string {
	var keys []string
	slots := map[int]bool{}
	for i := 0; len(keys) < n; i++ {
		key := fmt.Sprintf("key-%d", i)
		if s := c.ring.Slot([]byte(key)); c.ring.MemberOf([]byte(key)) == member && (!slots[s] || n > numSlots/4) {
			slots[s] = true
			keys = append(keys, key)
		}
	}
	return keys
}

// fates are what manifests say of a stamp in the first epoch.
func (c *cluster) fates(stamp int64) (out []manifest.Kind) {
	synctest.Wait()
	for _, l := range c.marksOf(1, stamp) {
		out = append(out, l.kind)
	}
	return out
}

// requests is how many requests the members got, raises among them.
func (c *cluster) requests() (n int) {
	for _, m := range c.members {
		m.mu.Lock()
		n += m.requests
		m.mu.Unlock()
	}
	return n
}

// hang lets requests of a member wait until the returned function is called.
func (m *member) hang() (release func()) {
	gate := make(chan struct{})
	m.setFault(func(ctx context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
		select {
		case <-gate:
			return do()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return func() {
		m.setFault(nil)
		close(gate)
	}
}

// lacks makes an operation of a transaction that lacks the states of its keys.
func (c *cluster) lacks(req *pb.TxnRequest) (member int, op *commit.Op) {
	member, op = c.op(req)
	op.Missing = op.Keys
	op.Know = func(rev int64, states []translate.State) {
		if len(states) != len(op.Keys) || rev == 0 {
			c.t.Errorf("%d states at %d for %d keys", len(states), rev, len(op.Keys))
		}
	}
	return member, op
}

// unknown is an operation in the background that lacks the states of its keys.
func (p *process) unknown(ctx context.Context, req *pb.TxnRequest) *pending {
	member, op := p.c.lacks(req)
	return p.doLater(ctx, member, op)
}

// blind lets lookups of a member wait until the returned function is called.
func (m *member) blind() (see func()) {
	gate := make(chan struct{})
	m.setLooks(func(ctx context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
		select {
		case <-gate:
			return do()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return func() {
		m.setLooks(nil)
		close(gate)
	}
}

// once lets one request that writes a key of the user's fail.
func once(fail fault) fault {
	failed := false
	return func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
		if failed || len(written(req)) == 0 {
			return do()
		}
		failed = true
		return fail(ctx, req, do)
	}
}

func loseRequest(context.Context, *pb.TxnRequest, func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
	return nil, errFault
}

func loseReply(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
	_, _ = do()
	return nil, errFault
}

func values(ls []landing) (out []string) {
	for _, l := range ls {
		out = append(out, l.value)
	}
	slices.Sort(out)
	return out
}
