package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// What the controller looks after, below its prefix:
//
//	spec/<app>          how many instances are wanted: a number, written by users
//	instance/<app>/<i>  the instances 0 … n-1, created and deleted by the controller
//	status/<app>        "<spec's revision> <instances>", written by the controller when they agree
const (
	specs     = "spec/"
	instances = "instance/"
	statuses  = "status/"
)

const (
	maxInstances = 1_000
	retryDelay   = 500 * time.Millisecond
)

// Controller makes instances match specs. It keeps a copy of all keys below its prefix, brings the copy up to date by a list
// and a watch from there, and changes a key only if it is as the copy says (compare-and-swap on ModRevision). So any number of
// controllers may run at once, and one that is behind does no harm.
//
// It knows nothing but clientv3's interfaces: a plain etcd and a meta cluster are the same to it.
type Controller struct {
	kv      clientv3.KV
	watcher clientv3.Watcher
	prefix  string
	log     *zap.Logger

	known map[string]*mvccpb.KeyValue // the copy, by key without prefix
	dirty map[string]struct{}         // apps to look at
	next  int64                       // the copy has everything below this revision; 0: there is no copy
}

// NewController returns a controller of the keys below prefix.
func NewController(kv clientv3.KV, watcher clientv3.Watcher, prefix string, log *zap.Logger) *Controller {
	return &Controller{kv: kv, watcher: watcher, prefix: prefix, log: log}
}

// Run works until ctx ends, and returns its error. Whatever else goes wrong is logged and tried again.
func (c *Controller) Run(ctx context.Context) error {
	for {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, rpctypes.ErrCompacted) {
			c.log.Info("compaction has overtaken the watch; listing again", zap.Int64("revision", c.next))
			c.next = 0
			continue
		}
		c.log.Warn("trying again", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

// follow lists if there is no copy, then watches from where the copy ends, and reconciles after each step. It always returns
// an error. The copy stays: the next call resumes the watch.
func (c *Controller) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	if c.next == 0 {
		if err := c.list(ctx); err != nil {
			return err
		}
	}
	events := c.watcher.Watch(ctx, c.prefix, clientv3.WithPrefix(), clientv3.WithRev(c.next))
	for {
		if err := c.reconcileDirty(ctx); err != nil {
			return err
		}
		resp, ok := <-events
		if !ok {
			return errors.New("the watch has ended")
		}
		if err := resp.Err(); err != nil {
			return err
		}
		for _, ev := range resp.Events {
			c.apply(ev)
		}
		if n := len(resp.Events); n > 0 {
			c.next = resp.Events[n-1].Kv.ModRevision + 1
		}
	}
}

// list replaces the copy by the state at one revision.
func (c *Controller) list(ctx context.Context) error {
	resp, err := c.kv.Get(ctx, c.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	c.known, c.dirty = map[string]*mvccpb.KeyValue{}, map[string]struct{}{}
	for _, kv := range resp.Kvs {
		c.set(strings.TrimPrefix(string(kv.Key), c.prefix), kv)
	}
	c.next = resp.Header.Revision + 1
	c.log.Info("listed", zap.Int("keys", len(resp.Kvs)), zap.Int64("revision", resp.Header.Revision))
	return nil
}

// apply brings one event into the copy, which may already be newer by the controller's own writes.
func (c *Controller) apply(ev *clientv3.Event) {
	key := strings.TrimPrefix(string(ev.Kv.Key), c.prefix)
	if have := c.known[key]; have != nil && have.ModRevision >= ev.Kv.ModRevision {
		return
	}
	if ev.Type == clientv3.EventTypeDelete {
		c.set(key, nil)
	} else {
		c.set(key, ev.Kv)
	}
}

// set stores a key, or removes it if kv is nil, and marks the app it belongs to.
func (c *Controller) set(key string, kv *mvccpb.KeyValue) {
	if kv == nil {
		delete(c.known, key)
	} else {
		c.known[key] = kv
	}
	_, rest, _ := strings.Cut(key, "/")
	app, _, _ := strings.Cut(rest, "/")
	c.dirty[app] = struct{}{}
}

// reconcileDirty looks at every app that changed.
func (c *Controller) reconcileDirty(ctx context.Context) error {
	for app := range c.dirty {
		if err := c.reconcile(ctx, app); err != nil {
			return fmt.Errorf("reconcile %s: %w", app, err)
		}
		delete(c.dirty, app)
	}
	return nil
}

// reconcile creates missing instances, deletes those that are too many, and reports when nothing is left to do. Where a swap
// fails somebody else was faster, and the watch will say so: the app is looked at again then.
func (c *Controller) reconcile(ctx context.Context, app string) error {
	want, specRev, err := c.wanted(app)
	if err != nil {
		c.log.Warn("a spec is not understood", zap.String("app", app), zap.Error(err))
		return nil
	}
	have := c.instancesOf(app)
	settled := true
	step := func(key string, op func(string) clientv3.Op) error {
		ok, err := c.swap(ctx, key, op)
		settled = settled && ok
		return err
	}
	for i := range want {
		key := instances + app + "/" + strconv.Itoa(i)
		if have[key] {
			delete(have, key)
			continue
		}
		if err := step(key, put("running")); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if err := step(key, remove); err != nil {
			return err
		}
	}
	if !settled {
		return nil
	}
	return c.report(ctx, app, want, specRev)
}

// report writes the app's status, unless it says so already. Without a spec there is none.
func (c *Controller) report(ctx context.Context, app string, count int, specRev int64) error {
	key := statuses + app
	status := fmt.Sprintf("%d %d", specRev, count)
	have := c.known[key]
	var err error
	switch {
	case specRev == 0 && have != nil:
		_, err = c.swap(ctx, key, remove)
	case specRev != 0 && (have == nil || string(have.Value) != status):
		c.log.Info("settled", zap.String("app", app), zap.Int("instances", count), zap.Int64("spec_revision", specRev))
		_, err = c.swap(ctx, key, put(status))
	}
	return err
}

// wanted is the number of instances an app should have, and the revision of the spec that says so; zeros without one.
func (c *Controller) wanted(app string) (count int, rev int64, err error) {
	spec := c.known[specs+app]
	if spec == nil {
		return 0, 0, nil
	}
	count, err = strconv.Atoi(string(spec.Value))
	if err == nil && (count < 0 || count > maxInstances) {
		err = fmt.Errorf("%d instances, want 0 to %d", count, maxInstances)
	}
	return count, spec.ModRevision, err
}

func (c *Controller) instancesOf(app string) map[string]bool {
	of := map[string]bool{}
	for key := range c.known {
		if strings.HasPrefix(key, instances+app+"/") {
			of[key] = true
		}
	}
	return of
}

// swap changes a key if it is as the copy says, and reports whether it was.
func (c *Controller) swap(ctx context.Context, key string, op func(key string) clientv3.Op) (bool, error) {
	var rev int64 // 0 compares equal to a key that is not there
	if have := c.known[key]; have != nil {
		rev = have.ModRevision
	}
	name := c.prefix + key
	resp, err := c.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(name), "=", rev)).Then(op(name)).Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	// The copy must have the new revision now: the app may be looked at again before the watch brings the event.
	if o := op(name); o.IsPut() {
		c.known[key] = &mvccpb.KeyValue{Key: []byte(name), Value: o.ValueBytes(), ModRevision: resp.Header.Revision}
	} else {
		delete(c.known, key)
	}
	return true, nil
}

func put(value string) func(key string) clientv3.Op {
	return func(key string) clientv3.Op { return clientv3.OpPut(key, value) }
}

func remove(key string) clientv3.Op { return clientv3.OpDelete(key) }
