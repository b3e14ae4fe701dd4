package crosstxn

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// The answer to a lock brings what the transaction is evaluated on. Where it does not fit into a message, the locks are taken all the
// same: the next attempts read by themselves, under their locks.
func TestStatesThatDoNotFitAreReadApart(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		for _, s := range w.servers {
			s.KeepHistory()
		}
		p := w.start()
		large := strings.Repeat("v", 1<<10)
		_, err := p.Run(t.Context(), w.plan(large))
		require.NoError(t, err)
		lost := 0
		w.setFault(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			resp, err := do()
			if err == nil && proto.Size(resp) >= len(large) {
				lost++
				p.resolver.Kick() // as its stream does
				return nil, wire.Unfit(errors.New("too large"))
			}
			return resp, err
		})
		p.resolve()
		for _, plan := range []*translate.Plan{
			w.plan("small"), w.plan(large), w.plan("again"), // slots
			translate.NewPlan(&pb.TxnRequest{
				Compare: []*pb.Compare{func() *pb.Compare {
					c := request.ValueAbove([]byte("k"), []byte("a"))
					c.RangeEnd = []byte("l")
					return c
				}()},
				Success: w.puts("small"),
			}, w.ring), // members
		} {
			resp, err := p.Run(t.Context(), plan)
			require.NoError(t, err)
			require.True(t, resp.Succeeded)
			synctest.Wait()
		}
		require.Equal(t, []string{"small", "small"}, []string{w.value(0), w.value(1)})
		require.Equal(t, 1, lost, "once")
		require.Empty(t, w.locks())
	})
}

func (w *world) puts(value string) (ops []*pb.RequestOp) {
	for i := range w.servers {
		ops = append(ops, request.Put(&pb.PutRequest{Key: w.keyOn(i), Value: []byte(value)}))
	}
	return ops
}
