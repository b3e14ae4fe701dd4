package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// RaiseCompacted raises the record of the meta cluster's compacted revision, which the first member by name has; etcd's ErrCompacted if it
// is there already. It waits for a member that does not answer, until ctx ends. When it has to ask more than once, a record that is
// exactly there may have been raised by a request whose answer was lost: it counts as raised.
func (m *Member) RaiseCompacted(ctx context.Context, rev int64) error {
	key, want := []byte(record.KeyCompacted), record.Number(rev)
	attempts := 0
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{request.ValueBelow(key, want)},
		Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: key, Value: want})},
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: key})},
	}
	raise := func(ctx context.Context) (*pb.TxnResponse, error) {
		attempts++
		return m.Txn(ctx, req)
	}
	resp, err := Persist(ctx, raise)
	if status.Code(err) == codes.Unknown { // it was sent, and nobody knows what became of it
		resp, err = Persist(ctx, raise)
	}
	if err != nil || resp.Succeeded {
		return err
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		switch there := bytes.Compare(kvs[0].Value, want); {
		case there == 0 && attempts > 1:
			return nil
		case there >= 0:
			return rpctypes.ErrGRPCCompacted
		}
	}
	return fmt.Errorf("metaetcd: member %s has lost its record of the compacted revision", m.Name)
}

// Compact drops the member's history up to its revision rev, or up to the last one below that does no harm; physical: it returns when the
// space is free. It waits for a member that does not answer, until ctx ends. That the member is further already is no error.
func (m *Member) Compact(ctx context.Context, rev int64, physical bool) error {
	at, err := Persist(ctx, func(ctx context.Context) (int64, error) { return m.harmless(ctx, rev) })
	if err == nil {
		_, err = Persist(ctx, func(ctx context.Context) (*pb.CompactionResponse, error) {
			resp, err := m.KV.Compact(ctx, &pb.CompactionRequest{Revision: at, Physical: physical})
			m.Seen(m.Index, "compact", err)
			return resp, err
		})
	}
	if errors.Is(err, rpctypes.ErrGRPCCompacted) {
		return nil
	}
	return wire.Name(m.Name, err)
}

// harmless returns the last member revision up to rev that the member may be compacted at; 0: none. Etcd loses a key that was deleted
// and put in exactly the revision that it is compacted at. None is written like that any more, but a member may hold one. A revision
// that is compacted already is harmless.
func (m *Member) harmless(ctx context.Context, rev int64) (int64, error) {
	ctx, cancel := m.Life.Within(ctx)
	defer cancel()
	for ; rev > 0; rev-- {
		recreates, err := m.recreates(ctx, rev)
		if err != nil || !recreates {
			return rev, err
		}
	}
	return rev, nil
}

// recreates reports whether the member's revision deletes a key and then puts it. Only transactions do that which have a revision
// for themselves, and the manifest tells these.
func (m *Member) recreates(ctx context.Context, rev int64) (bool, error) {
	resp, err := m.RangeAt(ctx, &pb.RangeRequest{Key: []byte(record.KeyManifest), Revision: rev})
	if errors.Is(err, rpctypes.ErrGRPCCompacted) {
		return false, nil // the member is further: there is nothing to do
	}
	if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision != rev {
		return false, err
	}
	entries, err := manifest.Decode(resp.Kvs[0].Value)
	if err != nil || len(entries) != 1 || entries[0].Kind != manifest.Exclusive && entries[0].Kind != manifest.Parted {
		return false, err
	}
	found := false
	err = m.Past().Watch(ctx, rev, false, func(r mergedlog.MemberRevision) (bool, error) {
		found = r.Rev == rev && recreated(r.Events)
		return false, nil
	})
	if errors.As(err, new(*history.MemberCompactedError)) {
		return false, nil
	}
	return found, err
}

func recreated(evs []*mvccpb.Event) bool {
	deleted := map[string]struct{}{}
	for _, e := range evs {
		if e.Type == mvccpb.Event_DELETE {
			deleted[string(e.Kv.Key)] = struct{}{}
		} else if _, ok := deleted[string(e.Kv.Key)]; ok {
			return true
		}
	}
	return false
}
