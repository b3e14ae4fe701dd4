// Package backoff spaces attempts that fail in a row.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

const (
	shortest = 5 * time.Millisecond
	longest  = 320 * time.Millisecond
)

// Backoff counts failures. Waits double from 5 to 320 milliseconds and are jittered by half. The zero value is ready;
// it is not for concurrent use.
type Backoff struct{ failures int }

// Reset forgets the failures.
func (b *Backoff) Reset() { b.failures = 0 }

// Wait notes a failure and waits. It returns false when ctx ended first.
func (b *Backoff) Wait(ctx context.Context) bool {
	d := min(longest, shortest<<min(b.failures, 10))
	b.failures++
	return lifetime.Pause(ctx, d/2+rand.N(d/2)) == nil
}
