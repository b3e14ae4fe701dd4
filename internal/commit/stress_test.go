package commit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// storm is a run of several processes whose callers write the same keys while everything goes wrong.
type storm struct {
	*cluster
	processes []*process
	calm      chan struct{} // closed: no more faults

	mu      sync.Mutex
	highest int64 // stamp of an acknowledged write, of the present epoch
	epoch   int64
	writes  []write
}

// write is a call that has returned.
type write struct {
	value string // unlike any other's; "" of deletes
	key   string
	stamp int64
	epoch int64
	err   error
}

func TestStorm(t *testing.T) {
	runs := 60
	if testing.Short() {
		runs = 20
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, 1+seed%3, func(t *testing.T, c *cluster) { newStorm(c, uint64(seed)).run() })
		})
	}
}

func newStorm(c *cluster, seed uint64) *storm {
	rnd := rand.New(rand.NewPCG(seed, 1)) // the weather; what happens when is up to the scheduler all the same
	s := &storm{cluster: c, calm: make(chan struct{}), epoch: 1}
	short := func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(2*time.Millisecond)) }
	c.clock.delay = short
	weather := weather{
		lose:  []float64{0, 0, 0.02, 0.2}[rnd.IntN(4)],
		late:  []float64{0, 0.5}[rnd.IntN(2)],
		busy:  []float64{0, 0.05}[rnd.IntN(2)],
		slow:  []float64{0, 0, 0.01, 0.1}[rnd.IntN(4)],
		delay: short,
		calm:  s.calm,
	}
	for _, m := range c.members {
		m.server.Grant(7)
		m.setFault(weather.fault)
		m.setLooks(slowLooks)
	}
	for range 1 + rnd.IntN(2) {
		s.processes = append(s.processes, c.start(short, func(cfg *commit.Config) {
			cfg.Timeout = 2 * time.Second
			cfg.MaxTxnOps = []int{11, 16, 32, 128}[rnd.IntN(4)]
		}))
	}
	return s
}

// weather is how bad things are.
type weather struct {
	lose  float64 // a request or a reply is lost
	late  float64 // a request that was lost arrives all the same, when its sender does not expect it any more
	busy  float64 // the server refuses, without looking at it
	slow  float64 // the server takes seconds
	delay func() time.Duration
	calm  chan struct{}
}

func (w weather) fault(ctx context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
	time.Sleep(w.delay())
	select {
	case <-w.calm:
		return do()
	default:
	}
	if rand.Float64() < w.busy {
		return nil, []error{rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCNoSpace}[rand.IntN(2)]
	}
	if rand.Float64() < w.slow {
		select {
		case <-time.After(time.Duration(rand.ExpFloat64() * float64(time.Second))):
		case <-ctx.Done():
			if rand.Float64() < w.late {
				time.AfterFunc(time.Duration(rand.ExpFloat64()*float64(5*time.Second)), func() { _, _ = do() })
			}
			return nil, ctx.Err()
		}
	}
	if rand.Float64() < w.lose {
		if rand.Float64() < w.late {
			time.AfterFunc(w.delay()*20, func() { _, _ = do() })
		}
		return nil, errFault
	}
	resp, err := do()
	time.Sleep(w.delay())
	if rand.Float64() < w.lose {
		return nil, errFault
	}
	return resp, err
}

// slowLooks lets lookups take a while, some of them so long that their operations are parked, and some fail.
func slowLooks(ctx context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
	delay := rand.ExpFloat64() * float64(5*time.Millisecond)
	if rand.IntN(30) == 0 {
		delay *= 300
	}
	select {
	case <-time.After(time.Duration(delay)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if rand.IntN(20) == 0 {
		return nil, errFault
	}
	return do()
}

func (s *storm) run() {
	var callers sync.WaitGroup
	for i, p := range s.processes {
		for j := range 20 {
			callers.Go(func() { s.call(p, fmt.Sprintf("%d.%d", i, j)) })
		}
	}
	rebuilds := rand.IntN(3)
	for range rebuilds {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
		s.newEpoch()
	}
	callers.Wait()
	close(s.calm)
	time.Sleep(time.Minute) // what is late arrives, lanes recover
	s.settled(s.processes...)
	s.check()
	for _, p := range s.processes {
		require.NoError(s.t, p.log.Err())
		p.Close()
	}
	s.settled(s.processes...)
	s.everythingCloses()
}

// newEpoch replaces the clock.
func (s *storm) newEpoch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuild()
	s.epoch, s.highest = s.clock.epoch, 0
}

// call is a caller that writes for a while.
func (s *storm) call(p *process, name string) {
	for i := range 15 {
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if rand.IntN(4) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.ExpFloat64()*float64(50*time.Millisecond)))
		}
		s.one(ctx, p, fmt.Sprintf("%s.%d", name, i))
		cancel()
		if rand.IntN(5) == 0 {
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		}
	}
}

// one writes once, and notes what came of it.
func (s *storm) one(ctx context.Context, p *process, value string) {
	key := fmt.Sprintf("key-%d", rand.IntN(12))
	w := write{value: value, key: key}
	req := put(key, value)
	switch rand.IntN(12) {
	case 0:
		req, w.value = remove(key, ""), ""
	case 1:
		req, w.value = remove(key, key+"\x00\x00"), ""
	case 2:
		req = leased(key, value, 7)
	case 3:
		req = leased(key, value, 99)
	case 4, 5:
		if other := fmt.Sprintf("key-%d", rand.IntN(12)); s.ring.MemberOf([]byte(other)) == s.ring.MemberOf([]byte(key)) {
			req = beside(other, req)
		}
	}
	s.mu.Lock()
	floor, epoch := s.highest, s.epoch
	s.mu.Unlock()
	var r commit.Result
	for {
		member, op := s.op(req)
		if len(req.Success[0].GetRequestDeleteRange().GetRangeEnd()) > 0 {
			member = s.ring.MemberOf([]byte(key))
		}
		if rand.IntN(3) == 0 && op.Build != nil {
			_, op = s.lacks(req)
		}
		r, w.err = p.Do(ctx, member, op)
		if w.err != nil || r.Outcome.Landed {
			break
		}
	}
	if errors.Is(w.err, commit.ErrUnknown) {
		s.t.Errorf("an outcome stayed unknown: %v", w.err)
	}
	w.stamp, w.epoch = r.Stamp, r.Epoch
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, w)
	if w.err != nil || w.epoch != s.epoch {
		return
	}
	if epoch == s.epoch && w.stamp <= floor {
		s.t.Errorf("stamp %d after %d was acknowledged", w.stamp, floor)
	}
	s.highest = max(s.highest, w.stamp)
}

// check compares what callers were told with what the members' logs show.
func (s *storm) check() {
	puts, deletes := map[string][]landing{}, map[string][]landing{}
	for _, m := range s.members {
		last := map[string]int64{}
		for _, l := range m.puts {
			puts[l.value] = append(puts[l.value], l)
			if l.stamp <= last[l.key] {
				s.t.Errorf("%q was written at %d after %d", l.key, l.stamp, last[l.key])
			}
			last[l.key] = l.stamp
		}
		for _, l := range m.deletes {
			deletes[l.key] = append(deletes[l.key], l)
		}
	}
	s.checkMarks()
	for _, w := range s.writes {
		switch ls := puts[w.value]; {
		case w.value == "" && w.err == nil && len(s.marksOf(w.epoch, w.stamp)) == 0:
			s.t.Errorf("an acknowledged delete of %q at %d left nothing", w.key, w.stamp)
		case w.value == "":
		case len(ls) > 1:
			s.t.Errorf("%q landed %d times", w.value, len(ls))
		case w.err == nil && (len(ls) == 0 || ls[0].stamp != w.stamp || ls[0].epoch != w.epoch):
			s.t.Errorf("acknowledged %+v, landed %+v", w, ls)
		case w.err != nil && !slices.ContainsFunc(contextErrors, func(err error) bool { return errors.Is(w.err, err) }) && len(ls) > 0:
			s.t.Errorf("%q failed with %v, and landed", w.value, w.err)
		}
	}
}

// checkMarks checks that a stamp was marked only in its epoch, and that one that landed has left one mark, where it
// was sent. One that was given up or refused may be marked twice.
func (s *storm) checkMarks() {
	type place struct {
		member int
		rev    int64
	}
	places, landed := map[taken]map[place]bool{}, map[taken]bool{}
	for i, m := range s.members {
		for _, l := range m.marks {
			k := taken{l.epoch, l.stamp}
			if !s.clock.taken[k] {
				s.t.Errorf("stamp %d was marked in epoch %d, where nobody took it", l.stamp, l.epoch)
			}
			if places[k] == nil {
				places[k] = map[place]bool{}
			}
			places[k][place{i, l.rev}] = true
			landed[k] = landed[k] || l.kind.Landed()
		}
	}
	for k, at := range places {
		if landed[k] && len(at) > 1 {
			s.t.Errorf("stamp %d of epoch %d has left marks at %v", k.stamp, k.epoch, at)
		}
	}
}

// contextErrors leave it open whether a write lands.
var contextErrors = []error{context.Canceled, context.DeadlineExceeded}

// everythingCloses checks that the logs see all there is once the fences are up: no stamp is waited for.
func (s *storm) everythingCloses() {
	s.clock.mu.Lock()
	target, epoch := s.clock.next-1, s.clock.epoch
	s.clock.mu.Unlock()
	for _, p := range s.processes {
		for i, m := range s.members {
			require.NoError(s.t, m.raise(p, i)(context.Background(), epoch, target))
		}
	}
	time.Sleep(time.Second)
	for _, p := range s.processes {
		require.Equal(s.t, target, p.log.Closed())
		seen := map[string]bool{}
		for from := p.log.Floor(); ; {
			evs, next, err := p.log.Since(from, 100)
			require.NoError(s.t, err)
			if len(evs) == 0 {
				break
			}
			for _, ev := range evs {
				seen[eventName(ev)] = true
			}
			from = next
		}
		for _, m := range s.members {
			for _, l := range m.puts {
				require.True(s.t, seen[fmt.Sprint(l.stamp, l.key)], "the log lacks the put of %q at %d", l.key, l.stamp)
			}
		}
	}
}

func eventName(ev *mergedlog.Event) string { return fmt.Sprint(ev.Rev, string(ev.Kv.Key)) }
