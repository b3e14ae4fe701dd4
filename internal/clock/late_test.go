package clock_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

// hanging loses some requests and some answers in silence: whoever waits for them waits until its own end.
type hanging struct {
	requests, answers float64 // how many of them
}

func (h hanging) intercept(ctx context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	time.Sleep(rand.N(4 * time.Millisecond))
	if rand.Float64() < h.requests {
		<-ctx.Done()
		return nil, etcdfake.ErrLost
	}
	resp, err := do()
	if rand.Float64() < h.answers {
		<-ctx.Done()
		return nil, etcdfake.ErrLost
	}
	if rand.Float64() < h.answers {
		time.Sleep(rand.N(time.Second)) // or it is very late
	}
	return resp, err
}

// A coordinator of which some servers hang costs callers a moment, not the time that a request may take.
func TestLateAddsAreSentBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, 1), within(t)
		var ended lastStamp
		all := newIssued()
		cfg := w.config(nil)
		cfg.Coordinator = w.coordinator.Client(hanging{0.1, 0.1}.intercept)
		cfg.Alone = false
		cfg.Highest = ended.get
		cfg.Unused = func(first, k, epoch int64) { all.add(first, k, epoch) }
		c := w.openConfig(cfg)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range 40 {
					before, start := ended.get(), time.Now()
					first, epoch, err := c.Take(ctx, 3)
					require.NoError(t, err)
					require.Greater(t, first, before, "a stamp is not above one that was taken before")
					ended.raise(first + 2)
					all.add(first, 3, epoch)
					require.Less(t, time.Since(start), 9*time.Second, "a request may take 10 s")
				}
			})
		}
		wg.Wait()
		require.Empty(t, all.twice)
		require.Len(t, all.epochs, 1, "the clock was rebuilt")
	})
}
