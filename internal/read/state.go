package read

import (
	"bytes"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// ReadState reads all that an exclusive transaction is evaluated on, at one native revision of its member, linearizably.
func (c *Reader) ReadState(ctx context.Context, m *member.Member, plan *translate.Plan) (*member.Reading, error) {
	req := &pb.TxnRequest{}
	add := func(r *pb.RangeRequest) { req.Success = append(req.Success, request.Range(r)) }
	for _, k := range plan.Keys {
		add(&pb.RangeRequest{Key: k})
	}
	for _, r := range plan.Compared {
		add(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, KeysOnly: !plan.ComparesValues(r)})
	}
	for _, r := range plan.Deleted {
		add(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, CountOnly: true})
	}
	resp, err := m.Txn(ctx, req)
	if err != nil {
		return nil, err
	}
	rd := &member.Reading{Rev: resp.Header.Revision, Keys: plan.Keys, Ranges: map[string][]*mvccpb.KeyValue{}, EmptyRanges: map[string]bool{}}
	rs := resp.Responses
	for range plan.Keys {
		s, err := translate.StateOf(rs[0].GetResponseRange())
		if err != nil {
			return nil, err
		}
		rd.States, rs = append(rd.States, s), rs[1:]
	}
	for _, r := range plan.Compared {
		kvs := rs[0].GetResponseRange().GetKvs()
		if plan.ComparesValues(r) {
			err = m.UsersView(kvs)
		} else {
			err = c.ShowHeads(ctx, m, kvs, rd.Rev)
		}
		if err != nil {
			return nil, err
		}
		rd.Ranges[r.String()], rs = kvs, rs[1:]
	}
	for _, r := range plan.Deleted {
		rd.EmptyRanges[r.String()], rs = rs[0].GetResponseRange().GetCount() == 0, rs[1:]
	}
	return rd, nil
}

// ShowHeads makes pairs that a member has shown without their values, at its revision rev, what the user's headers say of them.
func (c *Reader) ShowHeads(ctx context.Context, m *member.Member, kvs []*mvccpb.KeyValue, rev int64) error {
	for _, kv := range kvs {
		snapshot.SetUnread(kv)
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	b := &bases{c: c, members: []int{m.Index}, fresh: true, snaps: []mergedlog.MemberSnapshot{{Lo: rev}}}
	err := b.completeOf(ctx, 0, kvs, snapshot.Heads, true)
	dropMarks(kvs)
	return err
}
