package mergedlog

import (
	"errors"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

// claimant reads members alone, at revisions that are settled there and not closed, and remembers what it read.
type claimant struct {
	*model
	claims []claim
}

type claim struct {
	member int
	rev    int64
	state  map[string]string
}

// read reads every member at all revisions above the closed one that it shows.
func (c *claimant) read() {
	for i := range c.w.members {
		for r := c.closed + 1; r <= c.at[i].Fence; r++ {
			snaps, err := c.log.SettledSnapshot(r, []int{i}, []byte{0}, []byte{0})
			if errors.Is(err, ErrEvicted) {
				require.True(c.t, c.tight)
				continue
			}
			if err != nil { // the same for what is above
				require.ErrorIs(c.t, err, ErrNotClosed)
				require.NotEmpty(c.t, c.locksSeen(), "a fence and no locks: revision %d is settled on member %d", r, i)
				break
			}
			c.claims = append(c.claims, claim{i, r, c.state(i, snaps[0])})
		}
		_, err := c.log.SettledSnapshot(max(c.closed, c.at[i].Fence)+1, []int{i}, []byte{0}, []byte{0})
		require.ErrorIs(c.t, err, ErrNotClosed)
	}
}

func (c *claimant) state(member int, s MemberSnapshot) map[string]string {
	state := c.base(member, s.Lo)
	for _, e := range s.Tail {
		if e.Type == mvccpb.Event_DELETE {
			delete(state, string(e.Kv.Key))
		} else {
			state[string(e.Kv.Key)] = kvString(e.Kv)
		}
	}
	return state
}

// check compares the claims with what has landed, when nothing can land any more.
func (c *claimant) check() {
	for _, x := range c.claims {
		want := c.stateAt(x.rev)
		maps.DeleteFunc(want, func(k, _ string) bool { return worldSlot([]byte(k))/100 != x.member })
		require.Equal(c.t, want, x.state, "member %d alone at %d", x.member, x.rev)
	}
}

// finish closes everything.
func (c *claimant) finish() {
	for c.w.claimed >= 0 {
		c.w.rebuild()
	}
	for i := range c.w.members {
		c.answerRaise(i, c.w.clock)
	}
	for i := range c.w.members {
		c.deliver(i, 1<<30)
	}
	c.w.finishDecided(c.w.clock)
	for i := range c.w.members {
		c.deliver(i, 1<<30)
	}
	require.Equal(c.t, c.w.clock, c.closed)
}

// TestSettledModel: among members that obey the protocol, nothing changes any more what a member shows of a settled revision.
func TestSettledModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &claimant{model: newModel(t)}
		for i := range c.w.members {
			c.open(i)
			for range c.w.draw(4) {
				c.w.step()
			}
		}
		c.startUp()
		for range rapid.SampledFrom([]int{20, 80, 300}).Draw(t, "steps") {
			c.step()
			if c.w.draw(4) == 0 {
				c.read()
			}
		}
		c.finish()
		c.check()
	})
}
