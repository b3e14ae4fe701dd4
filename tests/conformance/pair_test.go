package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// opTimeout is far above what any request takes; one that reaches it hangs.
const opTimeout = 30 * time.Second

// pair is a plain etcd and two processes of a meta cluster, which have seen the same requests.
type pair struct {
	layout
	plain   *store
	metas   []*store
	clients []*metaetcd.Client
	ids     []*pb.ResponseHeader // what each client's headers say, revisions aside
	revs    *revisions

	compacted int64 // on plain

	ops, passed int // requests; revisions that passed without an event
}

func newPair(t *testing.T, l layout) *pair {
	t.Helper()
	p := &pair{layout: l, plain: plainStore(t), ids: make([]*pb.ResponseHeader, 2)}
	cluster := metaetcdtest.New(t, l.members, metaetcdtest.WithSharding(l.sharding), metaetcdtest.WithUnsafeNoFsync())
	for range p.ids {
		cli := cluster.Client(t)
		p.clients = append(p.clients, cli)
		p.metas = append(p.metas, metaStore(t, cli))
	}
	return p
}

// reset empties both sides, compacts them, and starts the bijection of revisions anew.
func (p *pair) reset(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	plain, err := restart(ctx, p.plain)
	if err != nil {
		return fmt.Errorf("reset plain: %w", err)
	}
	meta, err := restart(ctx, p.metas[0])
	if err != nil {
		return fmt.Errorf("reset meta: %w", err)
	}
	p.revs, p.compacted = &revisions{base: plain, meta: []int64{meta}, mixed: map[int64]bool{}}, plain
	return nil
}

// restart ends all leases, deletes all keys at one revision, and compacts everything up to the deletes' revision, which it returns.
func restart(ctx context.Context, s *store) (int64, error) {
	leases, err := s.lessor.Leases(ctx)
	if err != nil {
		return 0, err
	}
	for _, l := range leases.Leases {
		if _, err := s.lessor.Revoke(ctx, l.ID); err != nil {
			return 0, err
		}
	}
	kv := s.kv
	if _, err := kv.Put(ctx, keys[0], ""); err != nil {
		return 0, err
	}
	all, err := kv.Delete(ctx, "", clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	rev := all.Header.Revision
	_, err = kv.Compact(ctx, rev)
	return rev, err
}

// step is a request, the client of the meta cluster that it goes to, and the surface that it takes on both sides.
type step struct {
	req    any
	client int
	wire   bool
}

// GoString is how rapid shows a step of a failed sequence.
func (s step) GoString() string {
	surface := "clientv3"
	if s.wire {
		surface = "wire"
	}
	return fmt.Sprintf("client %d by %s: %s", s.client, surface, format(s.req))
}

// draw draws a step around a request.
func (p *pair) draw(t *rapid.T, request func(*generator) any) step {
	at := fmt.Sprintf("at %d", p.revs.current())
	return rapid.Custom(func(t *rapid.T) step {
		return step{
			req:    request(&generator{T: t, revs: p.revs, group: p.group}),
			client: rapid.IntRange(0, len(p.metas)-1).Draw(t, "client"),
			wire:   rapid.Bool().Draw(t, "wire"),
		}
	}).Draw(t, at)
}

// answer is what a request got.
type answer struct {
	resp proto.Message
	err  error
}

// run sends a request to both sides and fails the test unless the answers are the same.
func (p *pair) run(t *rapid.T, s step) {
	p.knowPresent(t)
	if serializable(s.req) {
		p.settle(t, s.client)
	}
	meta := p.askMeta(t.Context(), s)
	plain := ask(t.Context(), p.plain, s.req, s.wire)
	p.ops++
	if !sameError(plain.err, meta.err) && !leaseChecked(plain.err, meta.err) {
		t.Fatalf("errors differ\nplain: %v\nmeta:  %v", plain.err, meta.err)
	}
	if plain.err == nil && meta.err == nil {
		p.compare(t, s.client, plain.resp, meta.resp)
	}
	if c, ok := s.req.(*pb.CompactionRequest); ok && plain.err == nil {
		p.compacted = c.Revision
	}
}

// askMeta sends the request as the meta cluster is to get it.
func (p *pair) askMeta(ctx context.Context, s step) answer {
	var translated any
	switch req := s.req.(type) {
	case streamed:
		translated = streamed{p.revs.request(req.RangeRequest).(*pb.RangeRequest)}
	case renewed:
		translated = req
	default:
		translated = p.revs.request(s.req.(proto.Message))
	}
	return ask(ctx, p.metas[s.client], translated, s.wire)
}

func ask(ctx context.Context, s *store, req any, wire bool) answer {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	resp, err := s.do(ctx, req, wire)
	return answer{resp, err}
}

// knowPresent accounts for revisions that passed without an event: a future revision must be in both sides' future.
func (p *pair) knowPresent(t *rapid.T) {
	ctx, cancel := context.WithTimeout(t.Context(), opTimeout)
	defer cancel()
	rev, err := p.clients[0].Revision(ctx)
	if err != nil {
		t.Fatalf("read the revision: %v", err)
	}
	if rev < p.revs.present {
		t.Fatalf("the revision went back from %d to %d", p.revs.present, rev)
	}
	p.revs.present = rev
}

// compare fails the test unless the answers are the same. A write's revision joins the bijection first.
func (p *pair) compare(t *rapid.T, client int, plain, meta proto.Message) {
	meta = proto.Clone(meta) // the meta cluster may share what it answers
	ph, mh := headerOf(plain), headerOf(meta)
	if mh == nil || ph == nil {
		t.Fatalf("an answer without a header\nplain: %s\nmeta:  %s", format(plain), format(meta))
	}
	if mh.Revision < p.revs.present {
		t.Fatalf("header revision %d, but the present was %d before the request", mh.Revision, p.revs.present)
	}
	if ph.Revision > p.revs.current() {
		rev := mh.Revision
		if _, ok := meta.(*pb.LeaseRevokeResponse); ok {
			rev = p.eventAfter(t, p.revs.present) // another client may have deleted the keys, and a revision have passed since
		}
		p.passed += int(rev - p.revs.newest() - 1)
		if err := p.revs.add(rev); err != nil {
			t.Fatalf("a write: %v", err)
		}
	}
	p.checkIdentity(t, client, mh)
	for _, h := range []*pb.ResponseHeader{ph, mh} {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	}
	p.revs.response(meta)
	levelLease(plain)
	levelLease(meta)
	if !proto.Equal(plain, meta) {
		t.Fatalf("answers differ\nplain: %s\nmeta:  %s", format(plain), format(meta))
	}
}

// eventAfter returns the revision of the first event behind rev.
func (p *pair) eventAfter(t *rapid.T, rev int64) int64 {
	ctx, cancel := context.WithTimeout(t.Context(), opTimeout)
	defer cancel()
	resp := <-p.clients[0].Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	if len(resp.Events) == 0 {
		t.Fatalf("no event behind revision %d: %v", rev, resp.Err())
	}
	return resp.Events[0].Kv.ModRevision
}

// levelLease removes what depends on time, and on the order of a map, from answers about a lease.
func levelLease(resp proto.Message) {
	if r, ok := resp.(*pb.LeaseTimeToLiveResponse); ok && r.TTL > 0 {
		r.TTL = r.GrantedTTL
		slices.SortFunc(r.Keys, bytes.Compare)
	}
}

// checkIdentity: cluster id, member id and raft term are there and constant for one client, and the cluster id for all.
func (p *pair) checkIdentity(t *rapid.T, client int, h *pb.ResponseHeader) {
	if h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
		t.Fatalf("an incomplete header: %s", format(h))
	}
	id := &pb.ResponseHeader{ClusterId: h.ClusterId, MemberId: h.MemberId, RaftTerm: h.RaftTerm}
	if p.ids[client] == nil {
		p.ids[client] = id
	}
	if !proto.Equal(id, p.ids[client]) {
		t.Fatalf("the header's identity changed from %s to %s", format(p.ids[client]), format(id))
	}
	if other := p.ids[1-client]; other != nil && other.ClusterId != id.ClusterId {
		t.Fatalf("clients disagree on the cluster id: %d and %d", other.ClusterId, id.ClusterId)
	}
}

// settle waits until a client has caught up with what others wrote: what is serializable may be behind, as on a follower.
func (p *pair) settle(t *rapid.T, client int) {
	deadline := time.Now().Add(opTimeout)
	for p.clients[client].ClosedRevision() < p.revs.present {
		if time.Now().After(deadline) {
			t.Fatalf("client %d stays at revision %d, behind %d", client, p.clients[client].ClosedRevision(), p.revs.present)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func headerOf(resp proto.Message) *pb.ResponseHeader {
	return resp.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader()
}

// serializable tells whether a request may be answered from what a server knows, by etcd's definition: a transaction is if it
// holds nothing but serializable reads. Of what is asked of leases, that goes for the revision in the header.
func serializable(req any) bool {
	switch req := req.(type) {
	case streamed:
		return req.Serializable
	case *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest, renewed:
		return true
	case *pb.RangeRequest:
		return req.Serializable
	case *pb.TxnRequest:
		for _, op := range slices.Concat(req.Success, req.Failure) {
			if r := op.GetRequestRange(); r == nil || !r.Serializable {
				return false
			}
		}
		return true
	}
	return false
}

// format shows a message on one line, and of a very long one the beginning.
func format(v any) string {
	switch v := v.(type) {
	case streamed:
		return "stream of " + format(v.RangeRequest)
	case renewed:
		return format(v.LeaseKeepAliveRequest)
	case proto.Message:
		const readable = 2000
		text := strings.ReplaceAll(prototext.MarshalOptions{}.Format(v), "  ", " ")
		if len(text) > readable {
			text = text[:readable] + "…"
		}
		return fmt.Sprintf("%s{%s}", v.ProtoReflect().Descriptor().Name(), text)
	}
	return fmt.Sprint(v)
}
