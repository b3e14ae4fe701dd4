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

// ReadState reads all that an exclusive transaction is evaluated on, at one revision of its member, linearizably.
func (r *Reader) ReadState(ctx context.Context, m *member.Member, plan *translate.Plan) (*member.Reading, error) {
	req := &pb.TxnRequest{}
	add := func(read *pb.RangeRequest) { req.Success = append(req.Success, request.Range(read)) }
	for _, k := range plan.Keys {
		add(&pb.RangeRequest{Key: k})
	}
	for _, span := range plan.Compared {
		add(&pb.RangeRequest{Key: span.Key, RangeEnd: span.End, KeysOnly: !plan.ComparesValues(span)})
	}
	for _, span := range plan.Deleted {
		add(&pb.RangeRequest{Key: span.Key, RangeEnd: span.End, CountOnly: true})
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
	for _, span := range plan.Compared {
		kvs := rs[0].GetResponseRange().GetKvs()
		if plan.ComparesValues(span) {
			err = m.UsersView(kvs)
		} else {
			err = r.ShowHeads(ctx, m, kvs, rd.Rev)
		}
		if err != nil {
			return nil, err
		}
		rd.Ranges[span.String()], rs = kvs, rs[1:]
	}
	for _, span := range plan.Deleted {
		rd.EmptyRanges[span.String()], rs = rs[0].GetResponseRange().GetCount() == 0, rs[1:]
	}
	return rd, nil
}

// ShowHeads makes pairs that a member has shown without their values, at its revision rev, what the user's headers say of them.
func (r *Reader) ShowHeads(ctx context.Context, m *member.Member, kvs []*mvccpb.KeyValue, rev int64) error {
	for _, kv := range kvs {
		snapshot.SetUnread(kv)
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	b := &bases{reader: r, members: []int{m.Index}, fresh: true, snaps: []mergedlog.MemberSnapshot{{Lo: rev}}}
	err := b.completeOf(ctx, 0, kvs, snapshot.Heads, true)
	dropMarks(kvs)
	return err
}
