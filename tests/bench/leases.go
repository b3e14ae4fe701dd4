package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	leases     = 10_000
	leasedKeys = 10_000
	// renewTTL is that of the leases that are kept alive: clientv3 renews each every third of it.
	renewTTL = 9
	// renewFor is how long keep-alives are measured.
	renewFor = 4 * renewTTL / 3 * time.Second
	// expireTTL is that of the lease with many keys.
	expireTTL = 3
)

// runLeases prints what many leases cost, and what a large one does when it ends. Every server has a process of its own, so
// that its processor time can be told from the client's.
func runLeases(ctx context.Context, o *options, out *table) error {
	for _, t := range []struct {
		name    string
		measure func(ctx context.Context, c *rig.Cluster, s *rig.Side) (string, error)
	}{
		{"10,000 leases kept alive by one client", measureRenewals},
		{"10,000 keys on one lease", measureEnds},
	} {
		if !o.Run.MatchString(t.name) {
			continue
		}
		for _, s := range o.sidesRun() {
			line, err := o.onOwnServers(ctx, s, t.measure)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", t.name, s, err)
			}
			fmt.Fprintf(out.w, "%-41s  %-5s  %s\n", t.name, s, line)
		}
	}
	return nil
}

func (o *options) onOwnServers(
	ctx context.Context, s side, measure func(ctx context.Context, c *rig.Cluster, s *rig.Side) (string, error),
) (_ string, err error) {
	layout := o.Layout
	layout.Start = rig.Process
	cluster, opened, err := o.open(ctx, s, layout)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, opened.Close(), cluster.Stop()) }()
	return measure(ctx, cluster, opened)
}

// measureRenewals grants leases, keeps them alive, and measures the processor time of the client and of the server that
// keeps the timers, and the renewals that the latter sees.
func measureRenewals(ctx context.Context, c *rig.Cluster, s *rig.Side) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for range leases {
		g.Go(func() error {
			resp, err := s.Grant(gctx, renewTTL)
			if err != nil {
				return err
			}
			alive, err := s.KeepAlive(ctx, resp.ID)
			if err != nil {
				return err
			}
			go func() {
				for range alive {
				}
			}()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	granted := time.Since(start)
	if err := sleep(ctx, renewTTL*time.Second); err != nil {
		return "", err
	}
	before, err := usageOf(c)
	if err != nil {
		return "", err
	}
	if err := sleep(ctx, renewFor); err != nil {
		return "", err
	}
	after, err := usageOf(c)
	if err != nil {
		return "", err
	}
	left, err := s.Leases(ctx)
	if err != nil {
		return "", err
	}
	seconds := renewFor.Seconds()
	return fmt.Sprintf("%.0f grants/s; %.0f renewals/s, client %.3f CPU, server %.3f CPU; %d of %d leases live",
		leases/granted.Seconds(), (after.renewals-before.renewals)/seconds, (after.client-before.client).Seconds()/seconds,
		(after.server-before.server).Seconds()/seconds, len(left.Leases), leases), nil
}

type usage struct {
	client, server time.Duration
	renewals       float64
}

func usageOf(c *rig.Cluster) (u usage, err error) {
	if u.client, err = load.ProcessTime(0); err != nil {
		return u, err
	}
	if u.server, err = load.ProcessTime(c.Lessor().PID); err != nil {
		return u, err
	}
	u.renewals, err = metric(c.Lessor().Endpoint, "etcd_debugging_lease_renewed_total")
	return u, err
}

// metric reads a metric without labels of an etcd.
func metric(endpoint, name string) (float64, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	resp, err := http.Get(endpoint + "/metrics")
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", endpoint, name)
}

// measureEnds revokes one lease with many keys, and lets another expire: how long a watcher waits for the last delete.
func measureEnds(ctx context.Context, _ *rig.Cluster, s *rig.Side) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.Watch(ctx, "/leased/", clientv3.WithPrefix(), clientv3.WithFilterPut())
	id, err := attachMany(ctx, s)
	if err != nil {
		return "", err
	}
	start := time.Now()
	if _, err := s.Revoke(ctx, id); err != nil {
		return "", err
	}
	revoked := time.Since(start)
	if _, _, err := awaitDeletes(events); err != nil {
		return "", err
	}
	if id, err = attachMany(ctx, s); err != nil {
		return "", err
	}
	once, err := s.KeepAliveOnce(ctx, id)
	if err != nil {
		return "", err
	}
	end := time.Now().Add(time.Duration(once.TTL) * time.Second)
	last, revisions, err := awaitDeletes(events)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("revoked in %.2f s; expired: last delete %.2f s after the TTL, %d revisions", revoked.Seconds(), last.Sub(end).Seconds(), revisions), nil
}

// attachMany puts keys with a lease that does not end meanwhile.
func attachMany(ctx context.Context, s *rig.Side) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the keep-alive
	lease, err := s.Grant(ctx, expireTTL)
	if err != nil {
		return 0, err
	}
	alive, err := s.KeepAlive(ctx, lease.ID)
	if err != nil {
		return 0, err
	}
	go func() {
		for range alive {
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(128)
	for i := range leasedKeys {
		g.Go(func() error {
			_, err := s.Put(gctx, fmt.Sprintf("/leased/%05d", i), value, clientv3.WithLease(lease.ID))
			return err
		})
	}
	return lease.ID, g.Wait()
}

// awaitDeletes waits for all of them, and returns when the last one came, and how many revisions they had.
func awaitDeletes(events clientv3.WatchChan) (last time.Time, revisions int, err error) {
	seen := map[int64]bool{}
	for n := 0; n < leasedKeys; {
		select {
		case resp := <-events:
			if err := resp.Err(); err != nil {
				return last, 0, err
			}
			for _, ev := range resp.Events {
				seen[ev.Kv.ModRevision] = true
			}
			n += len(resp.Events)
		case <-time.After(time.Minute):
			return last, 0, fmt.Errorf("%d of %d deletes are missing", leasedKeys-n, leasedKeys)
		}
	}
	return time.Now(), len(seen), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
