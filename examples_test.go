package metaetcd_test

import (
	"context"
	"log"
	"os"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

// The examples run on etcds in memory. All that tells them from a program of yours is dial, which would call clientv3.New there, as in
// README.md; and an etcd, which the examples that show errors need.

var ctx = context.Background()

// dial makes an etcd cluster, and a client of it, as if that were the cluster at an endpoint.
func dial(_ string) *clientv3.Client {
	e := &etcd{Server: etcdfake.New(uint64(len(etcds) + 1)), asked: make(chan struct{}, 1)}
	cli, stop, err := e.Dial(e.pass)
	check(err)
	etcds[cli], ends = e, append(ends, stop)
	return cli
}

// open creates a meta cluster of two members, and opens it.
func open() *metaetcd.Client {
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members:     []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}, {Name: "birch", Client: dial("127.0.0.1:4379")}},
	})
	check(err)
	return c
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// etcd is a cluster that may go wrong.
type etcd struct {
	*etcdfake.Server
	asked chan struct{} // has a token when a write was held

	mu    sync.Mutex
	full  bool   // there is no space for what is written
	held  bool   // what is written has no answer
	other uint64 // not 0: another cluster answers, of this id
}

var (
	etcds = map[*clientv3.Client]*etcd{} // by their clients
	ends  []func()                       // of all etcds and clients
)

func (e *etcd) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

// pass is what every request to the KV service passes.
func (e *etcd) pass(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	e.mu.Lock()
	full, held, other := e.full, e.held, e.other
	e.mu.Unlock()
	switch {
	case full && etcdfake.Writes(req):
		return nil, rpctypes.ErrGRPCNoSpace
	case held && etcdfake.Writes(req):
		select {
		case e.asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp, err := do()
	if answer, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && other != 0 {
		answer.GetHeader().ClusterId = other
	}
	return resp, err
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range ends {
		end()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		log.Println(err)
		code = 1
	}
	os.Exit(code)
}
