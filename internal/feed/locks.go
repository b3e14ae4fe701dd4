package feed

import (
	"context"
	"time"

	"github.com/metaetcd/metaetcd/internal/ring"
)

// Resolver finishes transactions whose locks a feed shows, when their writers have gone. It belongs to that feed.
type Resolver interface {
	// Run works until ctx ends, with the feed. It is called once.
	Run(ctx context.Context)
	// Kick makes it look at the locks. It is cheap, never waits, and may be called before Run.
	Kick()
}

const (
	// MinPatience is how long others let a transaction's locks alone at first. Usual transactions hold them for less.
	MinPatience = 100 * time.Millisecond
	// MaxPatience bounds what a transaction asks for after its locks were taken from it.
	MaxPatience = 2 * time.Second
)

// AwaitUnlocked waits while transactions across members hold what an operation of one member needs, the keys' slots or the
// whole member: its stamp would be refused. It waits for MaxPatience at most, for a whole member MinPatience, and reports false for
// what is not free then, or when ctx ends: that is for the operation to find out. It fails as Wait does.
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
