package write

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// rivals knows the slots where transactions of this process have met those of others lately. Of several processes that swap the state
// that they have all seen, one lands; each of the others costs a stamp, a request, and an event for every process. So who has lost waits
// for a random while before the next attempt there, and looks again: mostly somebody else has landed meanwhile, and that is known without
// asking the member. Blind puts never wait: they land on top of others. It is safe for concurrent use.
type rivals struct {
	mu    sync.Mutex
	slots map[int]int   // how many landings the wait may take; what is not there is quiet
	took  time.Duration // of attempts, smoothed
}

const (
	// mostLandings bounds the wait where many meet, and longestWait where landings are slow.
	mostLandings = 16
	longestWait  = 100 * time.Millisecond
)

// lost notes that an attempt that took some time has met another one.
func (r *rivals) lost(slots []int, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took += (took - r.took) / 8
	for _, s := range slots {
		r.slots[s] = min(2*r.slots[s]+1, mostLandings)
	}
}

// landed notes that an attempt that took some time has not.
func (r *rivals) landed(slots []int, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took += (took - r.took) / 8
	for _, s := range slots {
		if r.slots[s] /= 2; r.slots[s] == 0 {
			delete(r.slots, s)
		}
	}
}

// await waits for a random while where others were met. It fails with ctx's error.
func (r *rivals) await(ctx context.Context, slots []int) error {
	r.mu.Lock()
	landings := 0
	for _, s := range slots {
		landings = max(landings, r.slots[s])
	}
	wait := min(time.Duration(landings)*r.took, longestWait)
	r.mu.Unlock()
	if wait <= 0 || lifetime.Pause(ctx, rand.N(wait)) == nil {
		return nil
	}
	return ctx.Err()
}
