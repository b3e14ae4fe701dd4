package metaetcd

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

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// health asks the coordinator for the clock and every member for its records, and all for alarms and the members for foreign keys.
func (c *core) health(ctx context.Context) error {
	if _, err := c.feedFor(ctx); err != nil {
		return err
	}
	errs := make([]error, len(c.members)+1)
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() { errs[i] = c.memberHealth(ctx, m) })
	}
	errs[len(c.members)] = c.coordinatorHealth(ctx)
	wg.Wait()
	return c.orOver(ctx, errors.Join(errs...))
}

func (c *core) coordinatorHealth(ctx context.Context) error {
	var alarm error
	var wg sync.WaitGroup
	wg.Go(func() { alarm = alarms(ctx, "", c.cfg.Coordinator) })
	_, _, err := c.clock.Read(ctx)
	wg.Wait()
	if err != nil {
		return wire.Name("", err)
	}
	return alarm
}

func (c *core) memberHealth(ctx context.Context, m *member) error {
	var records, alarm, stray error
	var wg sync.WaitGroup
	wg.Go(func() { _, records = m.readRecords(ctx) })
	wg.Go(func() { alarm = alarms(ctx, m.name, m.cli) })
	wg.Go(func() { stray = c.lookForStrays(ctx, m) })
	wg.Wait()
	if m.old.Lasts() {
		return fmt.Errorf("metaetcd: member %s has lost its data or has gone back to older ones: stop all processes, and bring back what it had", m.name)
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
			errs = append(errs, &MemberError{Member: member, Err: err})
		}
	}
	return errors.Join(errs...)
}

// strayKeys is how many keys of a member Health looks at each time. It goes round.
const strayKeys = 1000

// lookForStrays looks for foreign keys on a member, where it has stopped the last time or a read has met one.
func (c *core) lookForStrays(ctx context.Context, m *member) error {
	m.mu.Lock()
	from := m.from
	m.mu.Unlock()
	if from == nil {
		from = []byte(record.FirstUserKey)
	}
	owned := func(key []byte) bool { return c.owner(key) == m.index }
	stray, next, err := topology.Stray(ctx, m.kv, owned, from, strayKeys)
	m.lookFrom(next)
	if stray != nil {
		return &ForeignKeyError{Member: m.name, Key: stray}
	}
	return wire.Name(m.name, err)
}

// lookFrom says where Health looks for foreign keys next.
func (m *member) lookFrom(key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key != nil {
		m.from = key
	}
}

// foreign is what a read gets that has met a value without a header.
func (m *member) foreign(key []byte) error {
	m.lookFrom(key)
	return &ForeignKeyError{Member: m.name, Key: key}
}
