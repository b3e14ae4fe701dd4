package read_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is two members and a process.
type world struct {
	fakemeta.World
	t *testing.T
}

func run(t *testing.T, test func(t *testing.T, w *world)) {
	fakemeta.Run(t, 2, func(t *testing.T, w fakemeta.World) { test(t, &world{w, t}) })
}

func putOp(key, value string) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

// everything is what can only be read from all members.
func everything() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")} }

func (w *world) put(key, value string) int64 {
	w.t.Helper()
	resp, err := w.Writes.Do(w.t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{putOp(key, value)}})
	require.NoError(w.t, err)
	return resp.Header.Revision
}

// begin begins a put that the key's member holds.
func (w *world) begin(key, value string) (rev func() int64) {
	done := make(chan int64, 1)
	go func() { done <- w.put(key, value) }()
	synctest.Wait()
	require.Empty(w.t, done, "the member does not hold the put")
	return func() int64 { return <-done }
}

type answer struct {
	*pb.RangeResponse
	err error
}

// ask begins a read.
func (w *world) ask(r *pb.RangeRequest) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		resp, err := w.Reads.Range(w.t.Context(), r)
		done <- answer{resp, err}
	}()
	synctest.Wait()
	return done
}

func (a answer) values(t *testing.T) (out []string) {
	t.Helper()
	require.NoError(t, a.err)
	for _, kv := range a.Kvs {
		out = append(out, string(kv.Value))
	}
	return out
}
