package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestEverythingAtOnce: faults of all kinds in any order, two at a time.
func TestEverythingAtOnce(t *testing.T) {
	b := newBench(t, 3)
	for _, p := range b.processes {
		p.Work(b.load())
	}
	var trouble chaos
	trouble.bench = b
	for range rounds(15) {
		trouble.begin()
		time.Sleep(rand.N(200 * time.Millisecond))
		if n := len(trouble.ends); n > 1 || n > 0 && rand.N(2) == 0 {
			trouble.end(rand.N(len(trouble.ends)))
		}
		if len(trouble.ends) == 0 {
			trouble.refill()
			time.Sleep(rand.N(300 * time.Millisecond))
		}
	}
	for len(trouble.ends) > 0 {
		trouble.end(0)
	}
	trouble.refill()
	require.Less(t, b.writesAgain(), rebuildBound)
	b.finish()
	t.Logf("broken: %v", trouble.done)
}

// chaos is what is broken at the moment.
type chaos struct {
	*bench
	ends   []func() // of the faults that last
	broken [members + 1]bool
	done   map[string]int
	born   int
}

// begin breaks something.
func (c *chaos) begin() {
	c.t.Helper()
	var name string
	switch node := rand.N(members + 1); {
	case rand.N(5) == 0 && len(c.processes) > 1:
		name = "a process dies"
		c.kill()
	case rand.N(5) == 0:
		name = "answers get lost"
		c.loseAnswers()
	case c.broken[node]:
		return
	default:
		name = c.breakNode(node)
	}
	if c.done == nil {
		c.done = map[string]int{}
	}
	c.done[name]++
}

func (c *chaos) end(i int) {
	f := c.ends[i]
	c.ends = slices.Delete(c.ends, i, i+1)
	f()
}

// breakNode breaks the coordinator (0) or a member.
func (c *chaos) breakNode(i int) string {
	c.t.Helper()
	n := c.cluster.Nodes()[i]
	c.broken[i] = true
	last := func(end func()) {
		c.ends = append(c.ends, func() {
			end()
			c.broken[i] = false
		})
	}
	switch kind := rand.N(5); {
	case kind == 0:
		n.Cut()
		last(n.Heal)
		return n.Name() + " is cut off"
	case kind == 1:
		cutFarAway(n)
		last(func() { n.Refuse(); n.Heal() })
		return n.Name() + " is cut off and resets"
	case kind == 2:
		n.Delay(rand.N(40 * time.Millisecond))
		last(func() { n.Delay(0) })
		return n.Name() + " is slow"
	case kind == 3 && i == 0:
		n.Stop()
		n.Wipe()
		last(n.Start)
		return n.Name() + " is lost"
	default:
		n.Stop()
		last(n.Start)
		return n.Name() + " restarts"
	}
}

// loseAnswers loses one in twenty of a process's answers.
func (c *chaos) loseAnswers() {
	p := c.processes[rand.N(len(c.processes))]
	p.wire.lose.Store(50)
	c.ends = append(c.ends, func() { p.wire.lose.Store(0) })
}

// kill kills a process in the middle of a write or of a transaction, or on its way to one. The first one lives: the others' records are compared with
// its own.
func (c *chaos) kill() {
	i := 1 + rand.N(len(c.processes)-1)
	p := c.processes[i]
	c.processes = slices.Delete(c.processes, i, i+1)
	p.wire.onDeath = func() {}
	p.wire.armed.Store(1 + rand.Int32N(int32(afterTidying)))
	c.ends = append(c.ends, func() {
		p.wire.dead.Store(true)
		p.Lose()
		go p.end()
	})
}

// refill starts processes in the place of those that died.
func (c *chaos) refill() {
	c.t.Helper()
	for len(c.processes) < 3 {
		c.born++
		young := c.open()
		c.join(young, fmt.Sprintf("young%d", c.born))
		young.Work(c.load())
	}
}
