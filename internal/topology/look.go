package topology

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// rpcTimeout bounds one request.
const rpcTimeout = 10 * time.Second

// view is what one look at all clusters showed.
type view struct {
	coordinator clock.Inspection
	members     []memberView // in the order of names
}

type memberView struct {
	etcdID  uint64
	topo    *record.TopologyRecord // nil: none; of another format: the Format alone
	epoch   int64                  // that the member was raised to
	foreign []byte                 // without topo: a key that no interrupted creation left; nil: none
}

// look reads the coordinator, then the members. The order matters: a clock that is seen was created after the last
// topology record.
func (o *opening) look(ctx context.Context) (*view, error) {
	v := &view{members: make([]memberView, len(o.members))}
	err := requireVersion(ctx, "", o.version)
	if err != nil {
		return nil, err
	}
	if v.coordinator, err = clock.Inspect(ctx, o.coordinator, 0); err != nil {
		if foreign, ok := errors.AsType[*clock.ForeignCoordinatorError](err); ok {
			return nil, &Error{Kind: errCoordinatorNotEmpty, Got: fmt.Sprintf("the key %q", foreign.Key)}
		}
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range o.members {
		g.Go(func() (err error) {
			if err := requireVersion(ctx, m.Name, m.Version); err != nil {
				return err
			}
			if v.members[i], err = lookAt(ctx, m.KV); err != nil {
				return wire.Name(m.Name, err)
			}
			return nil
		})
	}
	return v, g.Wait()
}

func lookAt(ctx context.Context, kv pb.KVClient) (memberView, error) {
	for {
		resp, err := read(ctx, kv, &pb.RangeRequest{Key: []byte(record.KeyTopology)}, &pb.RangeRequest{Key: []byte(record.KeyFence)})
		if err != nil {
			return memberView{}, err
		}
		m := memberView{etcdID: resp.Header.ClusterId}
		if topo := resp.Responses[0].GetResponseRange().Kvs; len(topo) > 0 {
			err = m.parse(topo[0].Value, resp.Responses[1].GetResponseRange())
			return m, err
		}
		if empty, err := m.lookForForeignKeys(ctx, kv); empty || err != nil {
			return m, err
		}
	}
}

func (m *memberView) parse(topology []byte, fence *pb.RangeResponse) error {
	topo, err := record.ParseTopology(topology)
	m.topo = &topo
	switch {
	case errors.Is(err, record.ErrTopologyFormat): // nothing else can be trusted; check says so
		return nil
	case err != nil:
		return err
	case len(fence.Kvs) == 0:
		return fmt.Errorf("%w: there is a topology and no fence", record.ErrMalformed)
	}
	m.epoch, _, err = record.ParsePair(fence.Kvs[0].Value)
	return err
}

// lookForForeignKeys looks for what would make an etcd without a topology record not ours to use: anything but records
// as creation writes them. It returns false if there is a topology record by now.
func (m *memberView) lookForForeignKeys(ctx context.Context, kv pb.KVClient) (bool, error) {
	user := []byte(record.FirstUserKey)
	resp, err := read(ctx, kv,
		&pb.RangeRequest{Key: user, RangeEnd: []byte{0}, KeysOnly: true, Limit: 1},
		&pb.RangeRequest{Key: []byte{record.Reserved}, RangeEnd: user})
	if err != nil {
		return false, err
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		m.foreign = kvs[0].Key
	}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		kind := record.KindOf(kv.Key)
		if kind == record.Topology {
			return false, nil
		}
		if initial, ok := initialValue(kind); !ok || !bytes.Equal(initial, kv.Value) {
			m.foreign = kv.Key
		}
	}
	return true, nil
}

// read reads ranges of one moment. All slot clocks of a member may be more than gRPC's default limit.
func read(ctx context.Context, kv pb.KVClient, ranges ...*pb.RangeRequest) (*pb.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	req := &pb.TxnRequest{}
	for _, r := range ranges {
		req.Success = append(req.Success, request.Range(r))
	}
	return kv.Txn(ctx, req, grpc.MaxCallRecvMsgSize(math.MaxInt32))
}
