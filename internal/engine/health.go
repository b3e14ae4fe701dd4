package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Health asks the coordinator for the clock and every member for its records, and all for alarms and the members for foreign keys. It
// returns everything that is amiss, joined; each error names its cluster.
func (e *Engine) Health(ctx context.Context) error {
	if _, err := e.Feeds.Wait(ctx); err != nil {
		return err
	}
	errs := make([]error, len(e.Members)+1)
	var wg sync.WaitGroup
	for i, m := range e.Members {
		wg.Go(func() { errs[i] = e.memberHealth(ctx, m) })
	}
	errs[len(e.Members)] = e.coordinatorHealth(ctx)
	wg.Wait()
	return e.Over(ctx, errors.Join(errs...))
}

func (e *Engine) coordinatorHealth(ctx context.Context) error {
	var alarm error
	var wg sync.WaitGroup
	wg.Go(func() { alarm = alarms(ctx, "", e.cfg.Coordinator) })
	_, _, err := e.Clock.Read(ctx)
	wg.Wait()
	if err != nil {
		return wire.Name("", err)
	}
	return alarm
}

func (e *Engine) memberHealth(ctx context.Context, m *member.Member) error {
	var records, alarm, stray error
	var wg sync.WaitGroup
	wg.Go(func() { _, records = m.ReadRecords(ctx) })
	wg.Go(func() { alarm = alarms(ctx, m.Name, e.clients[m.Name]) })
	wg.Go(func() {
		stray = m.LookForStrays(ctx, func(key []byte) bool { return e.ring.MemberOf(key) == m.Index }, strayKeys)
	})
	wg.Wait()
	if m.WentBack() {
		return fmt.Errorf("metaetcd: member %s has lost its data or has gone back to older ones: stop all processes, and bring back what it had", m.Name)
	}
	if records != nil { // the others say no more
		return records
	}
	return errors.Join(alarm, stray)
}

// alarms returns the alarms of a cluster as errors. They are not seen where its user may not ask for them.
func alarms(ctx context.Context, member string, cli *clientv3.Client) error {
	st, err := pb.NewMaintenanceClient(cli.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		switch status.Code(err) {
		case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
			return nil
		}
		return wire.Name(member, err)
	}
	text, errs := strings.Join(st.Errors, "\n"), []error(nil)
	for alarm, err := range map[pb.AlarmType]error{pb.AlarmType_NOSPACE: rpctypes.ErrGRPCNoSpace, pb.AlarmType_CORRUPT: rpctypes.ErrGRPCCorrupt} {
		if strings.Contains(text, alarm.String()) {
			errs = append(errs, &wire.Error{Member: member, Err: err})
		}
	}
	return errors.Join(errs...)
}

// strayKeys is how many keys of a member Health looks at each time. It goes round.
const strayKeys = 1000
