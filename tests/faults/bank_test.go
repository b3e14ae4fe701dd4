package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// atOnce is how many processes are on their way to death at the same time.
	atOnce = 16
	// rested is how many times as many accounts there are as those processes need, so that each finds some that nobody died over
	// a moment ago.
	rested = 2
	// pastLists is how many past revisions are listed at the end.
	pastLists = 200
)

// step is a step of a transfer over all members, and what becomes of a transfer whose writer dies there.
type step struct {
	at       moment
	survives int32 // requests that come to the moment before
	name     string
	happens  bool
}

var steps = []step{
	{afterLock, 0, "one member is locked", false},
	{beforeLock, members - 1, "one member is not locked", false},
	{afterLock, members - 1, "all members are locked", false},
	{beforeTxnStamp, 0, "the stamp is taken", false},
	{beforeDecision, 0, "nothing is decided", false},
	{afterDecision, 0, "it is decided", true},
	{beforePart, 0, "no other part is sent", true},
	{afterPart, 0, "one other part has landed", true},
	{beforePart, members - 2, "one part is not sent", true},
	{afterPart, members - 2, "all parts have landed", true},
	{beforeTidying, 0, "the decision is still there", true},
	{afterTidying, 0, "nothing is left to do", true},
}

// TestDeathInATransfer: processes die at every step of transfers over all members, between the first lock and the last part. The
// others finish them or give them up, soon; nobody ever sees half of one.
func TestDeathInATransfer(t *testing.T) {
	b := newBench(t, 2)
	bank := b.openBank(rested * atOnce)
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 3 * pace, Lists: true})
	}
	deaths := b.dieInTransfers(bank, rounds(6), false)
	b.listPast()
	h := b.finish()
	bank.Check(t, h)
	locks.requireReleased()
	requireFates(t, h, deaths)
}

// TestDeathInATransferOfMembers: the same, where whole members are locked.
func TestDeathInATransferOfMembers(t *testing.T) {
	b := newBench(t, 2)
	bank := b.openBank(rested * atOnce)
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 3 * pace, Lists: true})
	}
	deaths := b.dieInTransfers(bank, rounds(2), true)
	h := b.finish()
	bank.Check(t, h)
	locks.requireReleased()
	requireFates(t, h, deaths)
}

// TestTransfersWhileAMemberRestarts: one member after the other restarts while processes die in transfers.
func TestTransfersWhileAMemberRestarts(t *testing.T) {
	b := newBench(t, 2)
	b.transfersBeside(func() {
		for _, m := range b.cluster.Members {
			m.Stop()
			time.Sleep(rand.N(500 * time.Millisecond))
			m.Start()
			b.writesAgain()
			time.Sleep(rand.N(500 * time.Millisecond))
		}
	})
}

// TestTransfersWhileTheCoordinatorIsLost: the coordinator comes back with nothing while processes die in transfers.
func TestTransfersWhileTheCoordinatorIsLost(t *testing.T) {
	b := newBench(t, 2)
	b.transfersBeside(func() {
		for range 3 {
			b.cluster.Coordinator.Stop()
			b.cluster.Coordinator.Wipe()
			time.Sleep(rand.N(200 * time.Millisecond))
			b.cluster.Coordinator.Start()
			b.writesAgain()
			time.Sleep(rand.N(500 * time.Millisecond))
		}
	})
}

// transfersBeside moves money, with deaths in between, while something else is broken, which mends itself.
func (b *bench) transfersBeside(trouble func()) {
	b.t.Helper()
	bank := b.openBank(rested * atOnce)
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 2 * pace, Lists: true})
	}
	dying := make(chan []death, 1)
	go func() { dying <- b.dieInTransfers(bank, rounds(2), false) }()
	time.Sleep(rand.N(100 * time.Millisecond))
	for range rounds(1) {
		away := workload.Span{Begin: time.Now()}
		trouble()
		away.End = time.Now()
		locks.excused(away)
	}
	deaths := <-dying
	b.listPast()
	h := b.finish()
	bank.Check(b.t, h)
	locks.requireReleased()
	requireFates(b.t, h, deaths)
}

// openBank opens accounts, the given number of them on every member, each in a slot of its own.
func (b *bench) openBank(perMember int) *workload.Bank {
	b.t.Helper()
	var names []string
	for _, m := range b.cluster.Members {
		names = append(names, m.Name())
	}
	r, err := ring.New(names, topology.DefaultSlots, ring.Policy{Segments: sharding.Segments, Separator: '/'})
	require.NoError(b.t, err)
	byMember, slots := make([][]string, members), map[int]bool{}
	for i, missing := 0, members*perMember; missing > 0; i++ {
		account := []byte(fmt.Sprintf("account%d/balance", i))
		m, slot := r.MemberOf(account), r.Slot(account)
		if len(byMember[m]) == perMember || slots[slot] {
			continue
		}
		byMember[m], slots[slot] = append(byMember[m], string(account)), true
		missing--
	}
	var accounts []string // the i-th of each member are neighbours
	for i := range perMember {
		for m := range byMember {
			accounts = append(accounts, byMember[m][i])
		}
	}
	bank, err := b.processes[0].OpenBank(b.t.Context(), accounts, 1000)
	require.NoError(b.t, err)
	return bank
}

// death is a process that died at a step of a transfer.
type death struct {
	step
	process string
}

// dieInTransfers lets n processes die at every step, some at a time.
func (b *bench) dieInTransfers(bank *workload.Bank, n int, wholeMembers bool) []death {
	b.t.Helper()
	triples := make(chan []string, len(bank.Accounts)/members)
	for i := 0; i < len(bank.Accounts); i += members {
		triples <- bank.Accounts[i : i+members]
	}
	begin := time.Now()
	var mu sync.Mutex
	var deaths []death
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Duration(n)*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range n {
		for _, s := range steps {
			g.Go(func() error {
				accounts := <-triples
				d := death{s, fmt.Sprintf("at %d-%d when %s #%d", s.at, s.survives, s.name, i)}
				err := b.dieInTransfer(ctx, d, accounts, wholeMembers)
				triples <- accounts
				mu.Lock()
				defer mu.Unlock()
				deaths = append(deaths, d)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		b.t.Errorf("a process should have died: %v", err)
	}
	b.t.Logf("%d processes died within %s", len(deaths), time.Since(begin))
	return deaths
}

// dieInTransfer opens a process that moves money among accounts until it dies.
func (b *bench) dieInTransfer(ctx context.Context, d death, accounts []string, wholeMembers bool) error {
	p, err := b.start(ctx)
	if err != nil {
		return err
	}
	p.Client = b.run.Join(d.process, p.meta)
	died := make(chan struct{})
	p.wire.onDeath = func() { close(died) }
	p.wire.survives.Store(d.survives)
	p.wire.armed.Store(int32(d.at))
	var conditions []clientv3.Cmp
	if wholeMembers { // a compare of a range, which is empty, on all members
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision("nobody/"), "=", 0).WithPrefix())
	}
	var work sync.WaitGroup
	work.Go(func() {
		for p.wire.armed.Load() != int32(never) && ctx.Err() == nil {
			_, _ = p.TransferIf(ctx, conditions, accounts...)
		}
	})
	defer work.Wait()
	defer p.Lose() //nolint:contextcheck // it ends what has no context
	select {
	case <-died:
		go p.end()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", d.process, ctx.Err())
	}
}

// requireFates requires that the transfers of the dead happened if they were decided, and only then.
func requireFates(t *testing.T, h *workload.History, deaths []death) {
	t.Helper()
	happened := map[string]int{}
	for _, d := range deaths {
		landed, _ := unknown(h, d.process)
		if landed > 0 {
			happened[d.name]++
		}
		require.True(t, d.happens || landed == 0, "%s: a transfer that was not decided happened", d.process)
		require.True(t, landed > 0 || d.at != afterDecision, "%s: a transfer that was decided did not happen", d.process)
	}
	t.Logf("%d deaths at %d steps; transfers that nobody was told of happened: %v", len(deaths), len(steps), happened)
}

// listPast ends the load, and has a process that has seen nothing of it list many past revisions.
func (b *bench) listPast() {
	b.t.Helper()
	for _, p := range b.processes {
		p.Rest()
	}
	young := b.open()
	b.join(young, "young")
	from, to := b.run.Base(), b.run.Told()
	for rev := from; rev <= to; rev += max((to-from)/pastLists, 1) {
		require.NoError(b.t, young.List(b.t.Context(), rev))
	}
}
