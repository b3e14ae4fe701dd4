package workload

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Client is one process under load. Its requests, made by workers or by the test itself, are all recorded.
type Client struct {
	Name string

	run     *Run
	store   Store
	stream  *watching
	workers sync.WaitGroup

	mu        sync.Mutex
	listeners []*watching // further streams that last to the end

	ctx     context.Context // ends when the process is lost
	cancel  context.CancelFunc
	resting context.Context // ends when the workers shall end
	rest    context.CancelFunc
}

// Lose ends the client as the loss of its process would: the outcome of what it has under way is unknown, its stream breaks off.
// It must not be used any more.
func (c *Client) Lose() {
	c.end()
	for _, w := range c.watches() {
		w.s.Lost = true
	}
}

// Rest ends the client's workers.
func (c *Client) Rest() {
	c.rest()
	c.workers.Wait()
}

func (c *Client) end() {
	c.cancel()
	c.workers.Wait()
	for _, w := range c.watches() {
		w.stop()
	}
}

// watches are the streams that last to the end.
func (c *Client) watches() []*watching {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*watching{c.stream}, c.listeners...)
}

// answer is what a request was told.
type answer struct {
	rev     int64
	wrote   bool
	effects []Effect // where only the answer tells them
	reads   []*Read
}

// told makes an answer of a state at a revision.
func (a *answer) told(rev int64, key, end string, kvs ...*mvccpb.KeyValue) *Read {
	r := &Read{Key: key, RangeEnd: end, Rev: rev, KVs: kvs}
	a.reads = append(a.reads, r)
	return r
}

// call makes a request and records it. Effects is what it does if it writes.
func (c *Client) call(ctx context.Context, what string, effects []Effect, request func(ctx context.Context) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() //nolint:contextcheck // the client's end ends the call as well
	floor := c.run.told.Load()
	span := Span{Begin: time.Now()}
	a, err := request(ctx)
	span.End = time.Now()
	switch {
	case err != nil && (!hasEnded(ctx, err) || span.Took() >= Patience):
		c.run.fault(ErrCall, "%s: %s: %v (after %s)", c.Name, what, err, span.Took())
	case err == nil && (a.rev < floor || a.wrote && a.rev == floor):
		c.run.fault(ErrRealTime, "%s: %s was told revision %d, but %d was known when it began", c.Name, what, a.rev, floor)
	}
	if a.effects != nil {
		effects = a.effects
	}
	if len(effects) > 0 && (err != nil || a.wrote) {
		c.run.Record(&Write{Client: c.Name, Effects: effects, Rev: a.rev, Span: span})
	}
	c.run.tell(a.rev)
	for _, r := range a.reads {
		r.Client = c.Name
		if r.Present {
			r.Span = span
		}
		c.run.read(r)
	}
	return a, err
}

// hasEnded reports whether a request failed because its context ended. Its deadline travels, and a server may see it pass
// first: etcd then answers ErrTimeout.
func hasEnded(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && errors.Is(err, rpctypes.ErrTimeout) && time.Until(deadline) < 100*time.Millisecond
}

// Put writes a value of its own and returns its revision.
func (c *Client) Put(ctx context.Context, key string) (int64, error) {
	value := c.run.Value(c.Name)
	a, err := c.call(ctx, "put", []Effect{{Key: key, Value: value}}, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Put(ctx, key, value)
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, true
		}
		return a, err
	})
	return a.rev, err
}

// Swap is Put, and learns what was there before.
func (c *Client) Swap(ctx context.Context, key string) error {
	value := c.run.Value(c.Name)
	_, err := c.call(ctx, "put with the previous value", []Effect{{Key: key, Value: value}}, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Put(ctx, key, value, clientv3.WithPrevKV())
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, true
			a.told(a.rev-1, key, "", list(resp.PrevKv)...)
		}
		return a, err
	})
	return err
}

// Delete removes a key, if it is there, and learns what was there.
func (c *Client) Delete(ctx context.Context, key string) error {
	_, err := c.call(ctx, "delete", []Effect{{Key: key, Delete: true}}, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Delete(ctx, key, clientv3.WithPrevKV())
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, resp.Deleted > 0
			before := a.rev
			if a.wrote {
				before--
			}
			a.told(before, key, "", resp.PrevKvs...)
		}
		return a, err
	})
	return err
}

// PutBoth writes two keys in one transaction.
func (c *Client) PutBoth(ctx context.Context, left, right string) error {
	value := c.run.Value(c.Name)
	effects := []Effect{{Key: left, Value: value + "l"}, {Key: right, Value: value + "r"}}
	_, err := c.call(ctx, "put of two keys", effects, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).Then(clientv3.OpPut(left, value+"l"), clientv3.OpPut(right, value+"r")).Commit()
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, true
		}
		return a, err
	})
	return err
}

// Increment counts one further, unless another client does so at the same time.
func (c *Client) Increment(ctx context.Context, key string) error {
	kv, err := c.Get(ctx, key)
	if err != nil {
		return err
	}
	value, mod := counted(1, c.run.Value(c.Name)), int64(0)
	if kv != nil {
		value, mod = counted(Number(kv.Value)+1, c.run.Value(c.Name)), kv.ModRevision
	}
	_, err = c.call(ctx, "increment", []Effect{{Key: key, Value: value}}, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).
			Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return a, err
		}
		a.rev, a.wrote = resp.Header.Revision, resp.Succeeded
		if !resp.Succeeded {
			a.told(a.rev, key, "", resp.Responses[0].GetResponseRange().Kvs...)
		}
		return a, nil
	})
	return err
}

// Get reads a key; nil: it is absent.
func (c *Client) Get(ctx context.Context, key string) (kv *mvccpb.KeyValue, err error) {
	_, err = c.call(ctx, "get", nil, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Get(ctx, key)
		if err == nil {
			a.rev = resp.Header.Revision
			a.told(a.rev, key, "", resp.Kvs...).Present = true
			if len(resp.Kvs) > 0 {
				kv = resp.Kvs[0]
			}
		}
		return a, err
	})
	return kv, err
}

// List reads all keys, at present or at a revision.
func (c *Client) List(ctx context.Context, rev int64) error {
	_, err := c.ListSome(ctx, "", rev, Shape{})
	return err
}

// ListSome reads the keys with a prefix, at present or at a revision.
func (c *Client) ListSome(ctx context.Context, prefix string, rev int64, shape Shape) (*Read, error) {
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithLimit(shape.Limit)}
	if shape.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if shape.CountOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	var r *Read
	_, err := c.call(ctx, "list", nil, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Get(ctx, prefix, opts...)
		if err != nil {
			return a, err
		}
		a.rev = resp.Header.Revision
		at := rev
		if rev == 0 {
			at = a.rev
		}
		r = a.told(at, from(prefix), clientv3.GetPrefixRangeEnd(prefix), resp.Kvs...)
		r.Present = rev == 0
		r.Shape, r.Counted, r.Count, r.More = shape, true, resp.Count, resp.More
		return a, nil
	})
	return r, err
}

// DeleteGroup removes all keys with a prefix, and learns what they were. Only the answer tells what it did, so neither
// its context nor its client may end before.
func (c *Client) DeleteGroup(ctx context.Context, prefix string) error {
	_, err := c.call(ctx, "range delete", nil, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Delete(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
		if err != nil {
			return a, err
		}
		a.rev, a.wrote = resp.Header.Revision, resp.Deleted > 0
		before := a.rev
		if a.wrote {
			before--
		}
		for _, kv := range resp.PrevKvs {
			a.effects = append(a.effects, Effect{Key: string(kv.Key), Delete: true})
		}
		r := a.told(before, from(prefix), clientv3.GetPrefixRangeEnd(prefix), resp.PrevKvs...)
		r.Counted, r.Count = true, resp.Deleted
		return a, nil
	})
	return err
}

// PutBetweenLists writes a key in one transaction with lists of everything before and after.
func (c *Client) PutBetweenLists(ctx context.Context, key string) error {
	value := c.run.Value(c.Name)
	list := clientv3.OpGet("", clientv3.WithPrefix())
	_, err := c.call(ctx, "put between lists", []Effect{{Key: key, Value: value}}, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).Then(list, clientv3.OpPut(key, value), list).Commit()
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, true
			a.told(a.rev-1, "\x00", "\x00", resp.Responses[0].GetResponseRange().Kvs...)
			a.told(a.rev, "\x00", "\x00", resp.Responses[2].GetResponseRange().Kvs...)
		}
		return a, err
	})
	return err
}

// from is where a range of keys with a prefix begins.
func from(prefix string) string {
	if prefix == "" {
		return "\x00"
	}
	return prefix
}

// ListKnown reads all keys as the process knows them. The answer may be outdated.
func (c *Client) ListKnown(ctx context.Context) error {
	_, err := c.call(ctx, "serializable list", nil, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithSerializable())
		if err == nil {
			a.told(resp.Header.Revision, "\x00", "\x00", resp.Kvs...)
			a.rev = max(resp.Header.Revision, c.run.told.Load())
		}
		return a, err
	})
	return err
}

func list(kv *mvccpb.KeyValue) []*mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return []*mvccpb.KeyValue{kv}
}
