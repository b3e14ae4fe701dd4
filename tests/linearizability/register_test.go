package linearizability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// method is what a request does to a register.
type method int

const (
	get       method = iota
	put              // the output is the value before
	blindPut         // without an output
	swap             // puts value if the register holds expected; the output is what it holds otherwise
	remove           // the output is the value before
	removeIf         // removes if the register holds expected; the output is what it holds otherwise
	manyTimes        // number of methods
)

// registerInput is a request on one key. Values are never empty: that is an absent key.
type registerInput struct {
	method   method
	key      int
	value    string
	expected string
}

type registerOutput struct {
	done  bool // of swap and removeIf
	value string
}

// registerModel is a register for each key.
func registerModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[int][]porcupine.Operation{}
			for _, op := range history {
				k := op.Input.(registerInput).key
				byKey[k] = append(byKey[k], op)
			}
			var parts [][]porcupine.Operation
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			in := input.(registerInput)
			out, known := output.(registerOutput)
			return in.step(state.(string), out, known)
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

func (in registerInput) step(now string, out registerOutput, known bool) (ok bool, next string) {
	next = now
	holds := now == in.expected
	switch in.method {
	case put, blindPut:
		next = in.value
	case remove:
		next = ""
	case swap:
		if holds {
			next = in.value
		}
	case removeIf:
		if holds {
			next = ""
		}
	}
	switch {
	case !known || in.method == blindPut:
		return true, next
	case in.method == swap || in.method == removeIf:
		return out.done == holds && (holds || out.value == now), next
	}
	return out.value == now, next
}

// registerUser remembers what it saw last.
type registerUser struct {
	serial *atomic.Int64
	seen   map[int]string
}

const registers = 24

func registerKey(k int) string { return fmt.Sprintf("register/%d", k) }

func (u *registerUser) request(ctx context.Context, kv clientv3.KV, rng *rand.Rand) (any, any, error) {
	in := registerInput{method: method(rng.IntN(int(manyTimes))), key: rng.IntN(registers)}
	if rng.IntN(3) == 0 {
		in.key = 0 // one is hot
	}
	if in.method == put || in.method == blindPut || in.method == swap {
		in.value = fmt.Sprint(u.serial.Add(1))
	}
	if in.method == swap || in.method == removeIf {
		in.expected = u.seen[in.key]
	}
	out, err := in.do(ctx, kv)
	if err == nil && (in.method == get || !out.done) {
		u.seen[in.key] = out.value
	}
	return in, out, err
}

// do makes the request.
func (in registerInput) do(ctx context.Context, kv clientv3.KV) (out registerOutput, err error) {
	key := registerKey(in.key)
	switch in.method {
	case get:
		resp, err := kv.Get(ctx, key)
		if err == nil && len(resp.Kvs) > 0 {
			out.value = string(resp.Kvs[0].Value)
		}
		return out, err
	case put:
		resp, err := kv.Put(ctx, key, in.value, clientv3.WithPrevKV())
		if err == nil && resp.PrevKv != nil {
			out.value = string(resp.PrevKv.Value)
		}
		return out, err
	case blindPut:
		_, err := kv.Put(ctx, key, in.value)
		return out, err
	case remove:
		resp, err := kv.Delete(ctx, key, clientv3.WithPrevKV())
		if err == nil && len(resp.PrevKvs) > 0 {
			out.value = string(resp.PrevKvs[0].Value)
		}
		return out, err
	}
	compare := clientv3.Compare(clientv3.Value(key), "=", in.expected)
	if in.expected == "" {
		compare = clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	change := clientv3.OpDelete(key)
	if in.method == swap {
		change = clientv3.OpPut(key, in.value)
	}
	resp, err := kv.Txn(ctx).If(compare).Then(change).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return out, err
	}
	out.done = resp.Succeeded
	if !out.done {
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			out.value = string(kvs[0].Value)
		}
	}
	return out, nil
}

// TestRegisters: puts, gets, swaps and deletes of single keys are linearizable, also where some are given up.
func TestRegisters(t *testing.T) {
	_, clients := open(t, metaetcd.Sharding{Slots: 512})
	var serial atomic.Int64
	history := drive(t, clients, rounds(200), func() user {
		return &registerUser{serial: &serial, seen: map[int]string{}}
	})
	check(t, registerModel(), history)
}
