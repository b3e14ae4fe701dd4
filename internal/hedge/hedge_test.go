package hedge_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/hedge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errPassing, errFinal = errors.New("passing"), errors.New("final")

func passing(err error) bool { return errors.Is(err, errPassing) }

// hang is a server that does not answer.
func hang(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestALateRequestIsSentBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p hedge.Pace
		for range 50 {
			p.Note(10 * time.Millisecond)
		}
		require.Equal(t, 50*time.Millisecond, p.Late())
		var n atomic.Int32
		began := time.Now()
		got, err := hedge.Request[int]{Pace: &p, Passing: passing, Send: func(ctx context.Context) (int, error) {
			if n.Add(1) < 3 {
				return hang(ctx)
			}
			time.Sleep(time.Millisecond)
			return 3, nil
		}}.Do(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, got)
		require.Equal(t, (50+75+1)*time.Millisecond, time.Since(began))
		synctest.Wait()
	})
}

// What is slow and not dead is sent few more requests, and is waited for.
func TestASlowServerIsNotOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p hedge.Pace
		var sent atomic.Int32
		slow := hedge.Request[int]{Pace: &p, Passing: passing, Send: func(ctx context.Context) (int, error) {
			sent.Add(1)
			time.Sleep(time.Minute)
			return 1, ctx.Err()
		}}
		_, err := slow.Do(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 8, sent.Load())
		time.Sleep(time.Hour)
	})
}

// Requests that take as long as they do now are not late, whatever that is.
func TestLateFollowsThePace(t *testing.T) {
	for _, took := range []time.Duration{0, time.Millisecond, 40 * time.Millisecond, 900 * time.Millisecond} {
		var p hedge.Pace
		for range 200 {
			p.Note(took + rand.N(took/4+1))
		}
		require.Greater(t, p.Late(), took+took/4)
		require.LessOrEqual(t, p.Late(), max(50*time.Millisecond, 4*took))
	}
	var p hedge.Pace
	p.Note(time.Hour)
	require.Equal(t, 2*time.Second, p.Late())
}

func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			errs []error // of the attempts; nil: it hangs
			want error
			sent int32
		}{
			{[]error{errPassing}, errPassing, 1},
			{[]error{errFinal}, errFinal, 1},
			{[]error{nil, errFinal}, errFinal, 2},
			{[]error{nil, errPassing, errFinal}, errFinal, 3}, // a passing one does not end what is out
		} {
			var p hedge.Pace
			var sent atomic.Int32
			_, err := hedge.Request[int]{Pace: &p, Passing: passing, Send: func(ctx context.Context) (int, error) {
				if err := c.errs[sent.Add(1)-1]; err != nil {
					return 0, err
				}
				return hang(ctx)
			}}.Do(t.Context())
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.sent, sent.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := hedge.Request[int]{Pace: new(hedge.Pace), Passing: passing, Send: hang, Strays: new(hedge.Strays)}.Do(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
	})
}

// Every answer is the call's or a stray's, once; and not too many strays are out.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p hedge.Pace
		var strays hedge.Strays
		var out, most atomic.Int32
		var mu sync.Mutex
		answers, next, lost := map[int]int{}, 0, 0
		note := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			answers[n]++
		}
		for range 300 {
			got, err := hedge.Request[int]{Pace: &p, Passing: passing, Strays: &strays, Stray: note, Send: func(ctx context.Context) (int, error) {
				most.Store(max(most.Load(), out.Add(1)))
				defer out.Add(-1)
				wait := time.Millisecond
				if rand.IntN(4) == 0 {
					wait = rand.N(time.Minute)
				}
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					mu.Lock()
					defer mu.Unlock()
					lost++
					return 0, ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				next++
				return next, nil
			}}.Do(t.Context())
			require.NoError(t, err)
			note(got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, answers, next)
		for n, times := range answers {
			require.Equal(t, 1, times, "answer %d", n)
		}
		require.LessOrEqual(t, most.Load(), int32(16))
		require.Positive(t, lost)
		require.Greater(t, next, 300)
	})
}
