package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrTotal says that what transactions keep together was seen apart.
var ErrTotal = errors.New("money appeared or disappeared")

// Bank is accounts among which money moves, though it neither comes nor goes: whoever sees all of them at one revision sees the
// same total.
type Bank struct {
	Accounts []string
	opened   int64 // revision from which on the accounts are there
	total    int64
}

// OpenBank creates accounts of the same balance, all at one revision.
func (c *Client) OpenBank(ctx context.Context, accounts []string, balance int64) (*Bank, error) {
	b := &Bank{Accounts: accounts, total: balance * int64(len(accounts))}
	balances := make([]int64, len(accounts))
	for i := range balances {
		balances[i] = balance
	}
	effects, puts := c.balances(accounts, balances)
	a, err := c.call(ctx, "opening of accounts", effects, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).Then(puts...).Commit()
		if err == nil {
			a.rev, a.wrote = resp.Header.Revision, true
		}
		return a, err
	})
	b.opened = a.rev
	return b, err
}

// Transfer reads accounts at one revision and moves money from the first to each of the others, in one transaction, unless somebody
// else touched one of them meanwhile.
func (c *Client) Transfer(ctx context.Context, accounts ...string) (done bool, err error) {
	return c.TransferIf(ctx, nil, accounts...)
}

// TransferIf is Transfer on further conditions.
func (c *Client) TransferIf(ctx context.Context, conditions []clientv3.Cmp, accounts ...string) (done bool, err error) {
	kvs, err := c.getAll(ctx, accounts)
	if err != nil {
		return false, err
	}
	same := slices.Clone(conditions)
	balances := make([]int64, len(kvs))
	for i, kv := range kvs {
		same = append(same, clientv3.Compare(clientv3.ModRevision(accounts[i]), "=", kv.GetModRevision()))
		balances[i] = Number(kv.GetValue())
		if i > 0 {
			amount := 1 + rand.Int64N(10)
			balances[0], balances[i] = balances[0]-amount, balances[i]+amount
		}
	}
	effects, puts := c.balances(accounts, balances)
	a, err := c.call(ctx, "transfer", effects, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).If(same...).Then(puts...).Else(gets(accounts)...).Commit()
		if err != nil {
			return a, err
		}
		a.rev, a.wrote = resp.Header.Revision, resp.Succeeded
		if !resp.Succeeded {
			a.toldAll(accounts, resp)
		}
		return a, nil
	})
	return a.wrote, err
}

// balances are the effects of setting accounts to balances, and the operations that do so.
func (c *Client) balances(accounts []string, balances []int64) (effects []Effect, puts []clientv3.Op) {
	unique := c.run.Value(c.Name)
	for i, account := range accounts {
		e := Effect{Key: account, Value: counted(balances[i], fmt.Sprintf("%s.%d", unique, i))}
		effects, puts = append(effects, e), append(puts, clientv3.OpPut(e.Key, e.Value))
	}
	return effects, puts
}

// getAll reads keys in one transaction; nil: the key is absent.
func (c *Client) getAll(ctx context.Context, keys []string) (kvs []*mvccpb.KeyValue, err error) {
	_, err = c.call(ctx, "get of several keys", nil, func(ctx context.Context) (a answer, err error) {
		resp, err := c.store.Txn(ctx).Then(gets(keys)...).Commit()
		if err == nil {
			a.rev = resp.Header.Revision
			kvs = a.toldAll(keys, resp)
		}
		return a, err
	})
	return kvs, err
}

// toldAll notes the answers of a transaction that did nothing but get keys.
func (a *answer) toldAll(keys []string, resp *clientv3.TxnResponse) []*mvccpb.KeyValue {
	kvs := make([]*mvccpb.KeyValue, len(keys))
	for i, key := range keys {
		found := resp.Responses[i].GetResponseRange().Kvs
		a.told(a.rev, key, "", found...).Present = true
		if len(found) > 0 {
			kvs[i] = found[0]
		}
	}
	return kvs
}

func gets(keys []string) []clientv3.Op {
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpGet(key))
	}
	return ops
}

// some picks n accounts.
func (b *Bank) some(n int) []string {
	var accounts []string
	for _, i := range rand.Perm(len(b.Accounts))[:n] {
		accounts = append(accounts, b.Accounts[i])
	}
	return accounts
}

// Check fails the test, now, unless everybody who was told of all accounts was told the same total: by the events up to any
// revision, or by a list of everything at any.
func (b *Bank) Check(t testing.TB, h *History) {
	t.Helper()
	states, lists, errs := b.violations(h)
	if n := len(errs); n > 0 {
		t.Fatalf("%d wrong totals from %d to %d: %v", n, b.opened, h.Last, errors.Join(errs[:min(n, most)]...))
	}
	if lists == 0 {
		t.Fatalf("nobody listed all accounts: this test shows less than it should")
	}
	t.Logf("%d states rebuilt from watches and %d lists have the same total", states, lists)
}

func (b *Bank) violations(h *History) (states, lists int, errs []error) {
	log := h.Events()
	for _, s := range h.Streams {
		if s.whole() {
			begin, _ := slices.BinarySearchFunc(log, s.From, compareRevision)
			n, err := b.follow(h.First, byRevision(log[:begin]), byRevision(s.Log(h.Last)))
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s, err))
			}
			states += n
		}
	}
	for _, r := range h.Reads {
		if r.Key != "\x00" || r.RangeEnd != "\x00" || r.Rev < b.opened || r.Shape != (Shape{}) {
			continue
		}
		lists++
		if sum := b.sum(r.KVs); sum != b.total {
			errs = append(errs, fmt.Errorf("%w: %s's list at %d: %d instead of %d", ErrTotal, r.Client, r.Rev, sum, b.total))
		}
	}
	return states, lists, errs
}

// follow rebuilds the state at every revision of a log that begins after another one, and returns how many it found right, and
// the first that was not.
func (b *Bank) follow(first []*mvccpb.KeyValue, before, log []moment) (right int, err error) {
	now := map[string]int64{}
	for _, account := range b.Accounts {
		now[account] = 0
	}
	sum := int64(0)
	set := func(key string, balance int64) {
		if old, ok := now[key]; ok {
			sum += balance - old
			now[key] = balance
		}
	}
	for _, kv := range first {
		set(string(kv.Key), Number(kv.Value))
	}
	for i, m := range slices.Concat(before, log) {
		for _, ev := range m.events {
			if ev.Type == clientv3.EventTypeDelete {
				set(string(ev.Kv.Key), 0)
			} else {
				set(string(ev.Kv.Key), Number(ev.Kv.Value))
			}
		}
		if i < len(before) || m.rev < b.opened {
			continue
		}
		if sum != b.total {
			return right, fmt.Errorf("%w: the events up to %d make %d instead of %d", ErrTotal, m.rev, sum, b.total)
		}
		right++
	}
	return right, nil
}

// sum is the total of the accounts among some keys.
func (b *Bank) sum(kvs []*mvccpb.KeyValue) int64 {
	byKey := map[string]int64{}
	for _, kv := range kvs {
		byKey[string(kv.Key)] = Number(kv.Value)
	}
	sum := int64(0)
	for _, account := range b.Accounts {
		sum += byKey[account]
	}
	return sum
}
