package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Load says what the workers of a client do.
type Load struct {
	Groups []string      // one worker for each; its requests touch one group only, but for pairs
	Pace   time.Duration // a worker's mean rest between two requests
	Hasty  int           // one in so many writes is given up after a moment; 0: none
	Lists  bool          // one more worker lists everything, at present and past revisions

	Pairs   map[string][2]string // of a group: two keys that are written together; missing: left and right in the group itself
	Bank    *Bank                // move money as well, by
	Tellers int                  // so many further workers
	Deletes bool                 // delete groups as well
	Shapes  bool                 // list in every shape, also groups, and in transactions that write
	Listens bool                 // one more worker lists and watches from there, gives up and goes on
}

// counterKey ends the keys that Increment counts on.
const counterKey = "/counter"

// patienceOfHasty is how long a hasty write waits: anything from one millisecond to 256, so that on any machine some are given
// up before they are sent and some after.
func patienceOfHasty() time.Duration { return time.Millisecond << rand.N(9) }

// Work starts workers, which end with the run or the client.
func (c *Client) Work(l Load) {
	for _, g := range l.Groups {
		c.workers.Go(func() { c.loop(l.Pace, func(ctx context.Context) { c.one(ctx, l, g) }) })
	}
	for range l.Tellers {
		c.workers.Go(func() {
			c.loop(l.Pace, func(ctx context.Context) { _, _ = c.Transfer(ctx, l.Bank.some(2+rand.N(2))...) })
		})
	}
	if l.Lists {
		c.workers.Go(func() { c.loop(4*l.Pace, c.list) })
	}
	if l.Shapes {
		c.workers.Go(func() { c.loop(2*l.Pace, func(ctx context.Context) { c.listShape(ctx, l) }) })
	}
	if l.Listens {
		c.workers.Go(func() { c.loop(4*l.Pace, func(ctx context.Context) { c.listen(ctx, l) }) })
	}
}

func (c *Client) loop(pace time.Duration, request func(ctx context.Context)) {
	for c.resting.Err() == nil {
		request(c.ctx)
		select {
		case <-time.After(rand.N(2*pace + 1)):
		case <-c.resting.Done():
		}
	}
}

// one makes one request in a group. Errors are in the record.
func (c *Client) one(ctx context.Context, l Load, group string) {
	if l.Hasty > 0 && rand.N(l.Hasty) == 0 {
		hasty, cancel := context.WithTimeout(ctx, patienceOfHasty())
		defer cancel()
		ctx = hasty
	}
	key := fmt.Sprintf("%sk%d", group, rand.N(4))
	pair, ok := l.Pairs[group]
	if !ok {
		pair = [2]string{group + "left", group + "right"}
	}
	switch n := rand.N(100); {
	case n < 30:
		_, _ = c.Put(ctx, key)
	case n < 45:
		_ = c.Swap(ctx, key)
	case n < 55:
		_ = c.Delete(ctx, key)
	case n < 65:
		_ = c.PutBoth(ctx, pair[0], pair[1])
	case n < 85:
		_ = c.Increment(ctx, strings.TrimSuffix(group, "/")+counterKey)
	case n < 88 && l.Deletes:
		_ = c.DeleteGroup(c.ctx, group+"k") //nolint:contextcheck // not bounded by the load's end
	default:
		_, _ = c.Get(ctx, key)
	}
}

func (c *Client) list(ctx context.Context) {
	switch rand.N(3) {
	case 0:
		_ = c.List(ctx, 0)
	case 1:
		_ = c.ListKnown(ctx)
	default:
		_ = c.List(ctx, c.past())
	}
}

// past is some revision of the run.
func (c *Client) past() int64 {
	base := c.run.Base()
	return base + rand.N(c.run.told.Load()-base+1)
}

// listShape lists something in some way.
func (c *Client) listShape(ctx context.Context, l Load) {
	group := l.Groups[rand.N(len(l.Groups))]
	if rand.N(8) == 0 {
		_ = c.PutBetweenLists(ctx, group+"k0")
		return
	}
	var prefix string
	var rev int64
	if rand.N(2) == 0 {
		prefix = group
	}
	if rand.N(2) == 0 {
		rev = c.past()
	}
	shapes := []Shape{{}, {KeysOnly: true}, {CountOnly: true}, {Limit: 1 + rand.Int64N(10)}, {Limit: 1 + rand.Int64N(10), KeysOnly: true}}
	_, _ = c.ListSome(ctx, prefix, rev, shapes[rand.N(len(shapes))])
}

// longestListened bounds how long a watch lives that is given up.
const longestListened = time.Second

// listen lists and watches from there. The watch lasts to the end, or it is given up and another one goes on.
func (c *Client) listen(ctx context.Context, l Load) {
	var prefix string
	var rev int64
	if rand.N(3) == 0 {
		prefix = l.Groups[rand.N(len(l.Groups))]
	}
	if rand.N(3) == 0 {
		rev = c.past()
	}
	list, err := c.ListSome(ctx, prefix, rev, Shape{})
	if err != nil {
		return
	}
	w := c.watch(&Stream{Client: c.Name, Prefix: prefix, From: list.Rev + 1, Listed: true, First: list.KVs}) //nolint:contextcheck // it outlives the call
	for rand.N(4) > 0 {
		select {
		case <-time.After(rand.N(longestListened)):
		case <-c.resting.Done():
		}
		w = c.watch(&Stream{Client: c.Name, Prefix: prefix, From: w.giveUp() + 1, Resumed: true}) //nolint:contextcheck // it outlives the call
	}
	c.mu.Lock()
	c.listeners = append(c.listeners, w)
	c.mu.Unlock()
}

// Count starts workers that do nothing but count on a group's counter.
func (c *Client) Count(group string, workers int, pace time.Duration) {
	for range workers {
		c.workers.Go(func() {
			c.loop(pace, func(ctx context.Context) { _ = c.Increment(ctx, strings.TrimSuffix(group, "/")+counterKey) })
		})
	}
}

// counted is the value of a counter: its number, and which write it is.
func counted(n int64, unique string) string { return fmt.Sprintf("%d %s", n, unique) }

// Number is what a counter of this value stands at; -1: it is none.
func Number(value []byte) int64 {
	text, _, _ := strings.Cut(string(value), " ")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Probe starts a worker that only puts and reads one key, in turn.
func (c *Client) Probe(key string, pace time.Duration) {
	c.workers.Go(func() {
		c.loop(pace, func(ctx context.Context) {
			_, _ = c.Put(ctx, key)
			_, _ = c.Get(ctx, key)
		})
	})
}
