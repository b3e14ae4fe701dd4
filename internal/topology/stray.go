package topology

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Stray looks at n user keys of a member, from a key on, for one that metaetcd did not write: one that does not belong there, or whose value
// has no header. It moves no values: stored values begin with a stamp, which the member compares. next is where to look next, the
// first user key after the last one. A stray value that happens to begin as a stamp does is not found.
func Stray(ctx context.Context, kv pb.KVClient, owned func(key []byte) bool, from []byte, n int64) (stray, next []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: []byte{0}, KeysOnly: true, Limit: n, Serializable: true})
	if err != nil {
		return nil, nil, err
	}
	for _, k := range resp.Kvs {
		if !owned(k.Key) {
			return k.Key, from, nil
		}
	}
	if stray, err = bareIn(ctx, kv, resp.Kvs); stray != nil || err != nil {
		return stray, from, err
	}
	next = []byte(record.FirstUserKey)
	if resp.More {
		next = after(resp.Kvs[len(resp.Kvs)-1].Key)
	}
	return nil, next, nil
}

// bareIn finds a key without a header among neighbours, nil if there is none.
func bareIn(ctx context.Context, kv pb.KVClient, kvs []*mvccpb.KeyValue) ([]byte, error) {
	if len(kvs) == 0 {
		return nil, nil
	}
	first, end := kvs[0].Key, after(kvs[len(kvs)-1].Key)
	above, below := request.ValueAbove(first, record.Number(0)), request.ValueBelow(first, record.Number(record.TooHigh))
	above.RangeEnd, below.RangeEnd = end, end
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{above, below}})
	if err != nil || resp.Succeeded {
		return nil, err
	}
	if len(kvs) > 1 {
		half := len(kvs) / 2
		if key, err := bareIn(ctx, kv, kvs[:half]); key != nil || err != nil {
			return key, err
		}
		return bareIn(ctx, kv, kvs[half:])
	}
	found, err := kv.Range(ctx, &pb.RangeRequest{Key: first})
	if err != nil || len(found.Kvs) == 0 { // deleted meanwhile
		return nil, err
	}
	if _, _, bare := record.ParseHeader(found.Kvs[0].Value); bare == nil {
		return nil, nil
	}
	return first, nil
}

func after(key []byte) []byte { return append(bytes.Clone(key), 0) }
