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

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// atOnce is how many processes are on their way to death at the same time.
	atOnce = 3
	// perMember is how many accounts there are on every member: more than those processes need, so that each finds some that nobody
	// died over a moment ago. They are opened in one transaction.
	perMember = 42
	// agony is how long a process may take to come to the steps that it dies at, after the first of them; less than its requests wait.
	agony = time.Second
	// life is how long it may take to come to the first.
	life = 10 * time.Second
	// pastLists is how many past revisions are listed at the end.
	pastLists = 48
)

// TestDeathInATransfer: processes die at every step of transfers over all members, between the first lock and the last part. The
// others finish them or give them up, soon; nobody ever sees half of one.
func TestDeathInATransfer(t *testing.T) {
	b := newBench(t, 2)
	bank := b.openBank()
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 3 * pace, Lists: true})
	}
	deaths := b.dieInTransfers(bank, rounds(12), false)
	b.listPast()
	h := b.finish()
	bank.Check(t, h)
	locks.requireReleased()
	requireFates(t, h, deaths)
}

// TestDeathInATransferOfMembers: the same, where whole members are locked.
func TestDeathInATransferOfMembers(t *testing.T) {
	b := newBench(t, 2)
	bank := b.openBank()
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 3 * pace, Lists: true})
	}
	atEveryStep := 2
	if long() {
		atEveryStep = 50
	}
	deaths := b.dieInTransfers(bank, atEveryStep, true)
	h := b.finish()
	bank.Check(t, h)
	locks.requireReleased()
	requireFates(t, h, deaths)
}

// TestTransfersWhileAMemberRestarts: one member after the other restarts while processes die in transfers.
func TestTransfersWhileAMemberRestarts(t *testing.T) {
	b := newBench(t, 2)
	b.transfersBeside(func(i int) {
		m := b.cluster.Members[i]
		m.Stop()
		time.Sleep(rand.N(500 * time.Millisecond))
		m.Start()
		b.writesAgain()
	})
}

// TestTransfersWhileTheCoordinatorIsLost: the coordinator comes back with nothing while processes die in transfers.
func TestTransfersWhileTheCoordinatorIsLost(t *testing.T) {
	b := newBench(t, 2)
	b.transfersBeside(func(int) {
		b.cluster.Coordinator.Stop()
		b.cluster.Coordinator.Wipe()
		time.Sleep(rand.N(200 * time.Millisecond))
		b.cluster.Coordinator.Start()
		b.writesAgain()
	})
}

// transfersBeside moves money, with deaths in between, while something else is broken as often as there are members, and mended
// each time.
func (b *bench) transfersBeside(trouble func(i int)) {
	b.t.Helper()
	bank := b.openBank()
	locks := b.watchLocks()
	for _, p := range b.processes {
		p.Work(workload.Load{Bank: bank, Tellers: 2, Pace: 2 * pace, Lists: true})
	}
	dying := make(chan []death, 1)
	go func() { dying <- b.dieInTransfers(bank, rounds(2), false) }()
	for i := range rounds(1) * members {
		time.Sleep(rand.N(500 * time.Millisecond))
		locks.while(func() { trouble(i % members) })
	}
	deaths := <-dying
	b.listPast()
	h := b.finish()
	bank.Check(b.t, h)
	locks.requireReleased()
	requireFates(b.t, h, deaths)
}

// openBank opens accounts on every member, each in a slot of its own.
func (b *bench) openBank() *workload.Bank {
	b.t.Helper()
	r := b.ring()
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

// death is a transfer that its process died over.
type death struct {
	fate
	process string
}

// dieInTransfers lets processes die, some at a time, until n transfers or more were left behind at every step; in each process, they
// get stuck at all steps, or, if whole members are locked, at one.
func (b *bench) dieInTransfers(bank *workload.Bank, n int, wholeMembers bool) []death {
	b.t.Helper()
	begin := time.Now()
	triples := make(chan []string, len(bank.Accounts)/members)
	for i := 0; i < len(bank.Accounts); i += members {
		triples <- bank.Accounts[i : i+members]
	}
	todo := &deaths{left: map[step]int{}}
	for _, s := range steps {
		todo.left[s] = n
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute+time.Duration(n)*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for range atOnce {
		g.Go(func() error {
			for {
				name, next := todo.next(wholeMembers)
				if len(next) == 0 {
					return nil
				}
				fates, err := b.dieAt(ctx, name, next, triples, wholeMembers)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				todo.add(name, fates)
			}
		})
	}
	if err := g.Wait(); err != nil {
		b.t.Errorf("a process should have died: %v; still to come: %v", err, todo.left)
	}
	b.t.Logf("%d processes died over %d transfers within %s", todo.processes, len(todo.all), time.Since(begin))
	return todo.all
}

// deaths is what has happened and what is still to come.
type deaths struct {
	mu        sync.Mutex
	left      map[step]int
	all       []death
	processes int
}

// next says which steps a process is to die at, and its name; none: enough have died. As decisions are removed together, only one
// of the steps around that is among them.
func (d *deaths) next(one bool) (name string, next []step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var tidying bool
	for _, i := range rand.Perm(len(steps)) {
		s := steps[i]
		tidies := s.at == beforeTidying || s.at == afterTidying
		if d.left[s] <= 0 || tidying && tidies {
			continue
		}
		tidying = tidying || tidies
		next = append(next, s)
		if one {
			break
		}
	}
	d.processes++
	return fmt.Sprintf("mortal%d", d.processes), next
}

func (d *deaths) add(process string, fates []fate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range fates {
		d.left[f.step]--
		d.all = append(d.all, death{f, process})
	}
}

// dieAt opens a process that makes a transfer for each step, and dies when all are stuck there, or those that came so far.
func (b *bench) dieAt(ctx context.Context, name string, steps []step, triples chan []string, wholeMembers bool) ([]fate, error) {
	p, err := b.start(ctx)
	if err != nil { // a server is away
		time.Sleep(10 * pace)
		return nil, ctx.Err()
	}
	p.Client = b.run.Join(name, p.meta)
	doom := newDoom(steps...)
	p.wire.doom.Store(doom)
	var conditions []clientv3.Cmp
	if wholeMembers { // a compare of a range, which is empty, on all members
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision("nobody/"), "=", 0).WithPrefix())
	}
	var work sync.WaitGroup
	for range steps {
		accounts := <-triples
		work.Go(func() {
			for done, err := false, error(nil); !done && err == nil; {
				done, err = p.TransferIf(ctx, conditions, accounts...)
			}
			triples <- accounts
		})
	}
	finished := make(chan struct{}) // not so if one is stuck
	go func() {
		work.Wait()
		close(finished)
	}()
	select {
	case <-doom.first:
	case <-finished:
	case <-time.After(life):
	}
	select {
	case <-doom.all:
	case <-time.After(agony): // parts may be under way though all is finished
	}
	p.wire.dead.Store(true)
	p.Lose()
	<-finished
	go p.end()
	return doom.died(), ctx.Err()
}

// requireFates requires that the transfers of the dead happened if they were decided, and only then.
func requireFates(t *testing.T, h *workload.History, deaths []death) {
	t.Helper()
	happened := map[string]bool{}
	for _, ev := range h.Events() {
		happened[string(ev.Kv.Value)] = true
	}
	byKey := map[string]*workload.Write{}
	for _, w := range h.Writes {
		for _, e := range w.Effects {
			byKey[w.Client+e.Key] = w
		}
	}
	count := map[string]int{}
	for _, d := range deaths {
		w := byKey[d.process+d.key]
		require.NotNil(t, w, "%s died over a transfer of %s that it never made", d.process, d.key)
		require.Equal(t, d.happens, happened[w.Effects[0].Value], "%s, of whose writer nothing was heard when %s: whether it happened", w, d.name)
		count[d.name]++
	}
	t.Logf("deaths at each step: %v", count)
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
	var g errgroup.Group
	g.SetLimit(8)
	for rev := from; rev <= to; rev += max((to-from)/pastLists, 1) {
		g.Go(func() error { return young.List(b.t.Context(), rev) })
	}
	require.NoError(b.t, g.Wait())
}
