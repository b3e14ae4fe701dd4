package conformance

import (
	"context"
	"testing"

	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestModel runs random sequences of requests against one plain etcd and one meta cluster and demands the same answers and the
// same watch events, with revisions compared by rank. -rapid.checks and -rapid.steps set the number and the length of the
// sequences, -rapid.seed repeats one.
func TestModel(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, l)
			rapid.Check(t, p.sequence)
			t.Logf("%d requests; %d revisions passed without an event", p.ops, p.passed)
		})
	}
}

// sequence is one random sequence, from an empty keyspace. Watches that began anywhere in it are compared before each
// compaction, which takes previous values away, and at the end.
func (p *pair) sequence(t *rapid.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := p.reset(ctx); err != nil {
		t.Fatal(err)
	}
	ws := &watches{pair: p, ctx: ctx}
	t.Repeat(p.actions(ws))

	for range 2 {
		ws.draw(t)
	}
	ws.start(t, 0, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: p.revs.base + 1, PrevKv: true})
	ws.check(t)
}

// draw starts a random watch.
func (ws *watches) draw(t *rapid.T) {
	s := ws.pair.draw(t, func(g *generator) any { return g.watch() })
	ws.start(t, s.client, s.req.(*pb.WatchCreateRequest))
}

// actions are the steps of a sequence; each is listed as often as it is likely.
func (p *pair) actions(ws *watches) map[string]func(*rapid.T) {
	request := func(draw func(*generator) any) func(*rapid.T) {
		return func(t *rapid.T) { p.run(t, p.draw(t, draw)) }
	}
	put := request(func(g *generator) any { return g.put(keys) })
	get := request(func(g *generator) any { return g.get(keys) })
	txn := request(func(g *generator) any { return g.txn(g.among(), 2) })
	lease := request((*generator).leased)
	compact := request(func(g *generator) any { return g.compaction() })
	mixed := request(func(g *generator) any { return g.mixed() })
	crowd := func(t *rapid.T) {
		p.run(t, p.draw(t, func(g *generator) any { return g.crowd() }))
		p.revs.crowded()
		p.run(t, p.draw(t, func(g *generator) any { return g.disperse() }))
	}
	return map[string]func(*rapid.T){
		"put": put, "put again": put, "put more": put,
		"get": get, "get again": get, "get more": get,
		"txn": txn, "txn again": txn, "txn more": txn,
		"lease": lease, "lease again": lease,
		"put and delete": func(t *rapid.T) {
			mixed(t)
			p.revs.mixed[p.revs.current()] = true
		},
		"delete":     request(func(g *generator) any { return g.del(g.among()) }),
		"get stream": request(func(g *generator) any { return g.stream() }),
		"broken or crowd": func(t *rapid.T) {
			if rapid.IntRange(0, 9).Draw(t, "crowd") < 9 {
				p.run(t, p.draw(t, (*generator).broken))
				return
			}
			crowd(t)
		},
		"watch or compact": func(t *rapid.T) {
			if rapid.IntRange(0, 4).Draw(t, "watch") < 4 {
				ws.draw(t)
				return
			}
			ws.check(t)
			compact(t)
		},
	}
}
