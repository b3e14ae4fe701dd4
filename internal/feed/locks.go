package feed

import (
	"context"
	"time"

	"github.com/metaetcd/metaetcd/internal/ring"
)

const (
	// minPatience is how long others let a transaction's locks alone at first. Usual transactions hold them for less.
	MinPatience = 100 * time.Millisecond
	// maxPatience bounds what a transaction asks for after its locks were taken from it.
	MaxPatience = 2 * time.Second
)

// AwaitUnlocked waits while transactions across members hold what an operation of one member needs, the keys' slots or the
// whole member: its stamp would be refused. It does not wait for ever, and reports false for what is not free then: that is for
// the operation to find out.
func (c *Current) AwaitUnlocked(ctx context.Context, ring *ring.Ring, member int, whole bool, keys ...[]byte) (free bool, err error) {
	f, err := c.Wait(ctx)
	if err != nil || f.Log.Locked() == 0 {
		return true, err
	}
	if whole {
		ctx, cancel := context.WithTimeout(ctx, MinPatience)
		defer cancel()
		return f.Log.WaitAllUnlocked(ctx, member, 0) == nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, MaxPatience)
	defer cancel()
	slots := make([]int, len(keys))
	for i, k := range keys {
		slots[i] = ring.Slot(k)
	}
	return f.Log.WaitUnlocked(ctx, member, 0, slots...) == nil, nil
}
