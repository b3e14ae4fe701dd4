package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// health asks the coordinator for the clock and every member for its records, all at once.
func (c *core) health(ctx context.Context) error {
	if _, err := c.feedFor(ctx); err != nil {
		return err
	}
	errs := make([]error, len(c.members)+1)
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() { _, errs[i] = m.readRecords(ctx) })
	}
	if _, _, err := c.clock.Read(ctx); err != nil {
		errs[len(c.members)] = fmt.Errorf("metaetcd: coordinator: %w", err)
	}
	wg.Wait()
	return c.orOver(ctx, errors.Join(errs...))
}
