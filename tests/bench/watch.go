package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// A moment of a put from which its event's way is counted.
type moment int

const (
	sincePut moment = iota // the put starts
	sinceAck               // the put is acknowledged; an event that is there before counts as zero
)

const watchedKey = "/bench/watched"

// watch puts the same key again and again, each time after all watchers have seen the last event, and measures the events'
// way to each watcher.
func watch(watchers int, since moment) prepareFunc {
	return func(_ context.Context, s *rig.Side) (round, error) {
		return func(ctx context.Context, d time.Duration) (*load.Result, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			arrivals := make(chan arrival, watchers)
			for range watchers {
				if err := startWatcher(ctx, s, arrivals); err != nil {
					return nil, err
				}
			}
			return measureEvents(ctx, s, watchers, d, since, arrivals)
		}, nil
	}
}

// arrival is the receipt of one event, or the end of a watcher.
type arrival struct {
	at  time.Time
	err error
}

// startWatcher returns when the watch exists. The watcher ends with ctx.
func startWatcher(ctx context.Context, s *rig.Side, arrivals chan<- arrival) error {
	events := s.Watch(ctx, watchedKey)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	go func() {
		for resp := range events {
			now := time.Now()
			for range resp.Events {
				arrivals <- arrival{at: now}
			}
			if err := resp.Err(); err != nil {
				arrivals <- arrival{err: err}
				return
			}
		}
	}()
	return nil
}

func measureEvents(ctx context.Context, s *rig.Side, watchers int, d time.Duration, since moment, arrivals <-chan arrival) (*load.Result, error) {
	r := &load.Result{}
	cpu := load.StartCPU()
	start := time.Now()
	for r.Elapsed = 0; r.Elapsed < d; r.Elapsed = time.Since(start) {
		from := time.Now()
		if _, err := s.Put(ctx, watchedKey, value); err != nil {
			return nil, err
		}
		if since == sinceAck {
			from = time.Now()
		}
		for range watchers {
			select {
			case a := <-arrivals:
				if a.err != nil {
					return nil, fmt.Errorf("watch: %w", a.err)
				}
				r.Latency.Add(a.at.Sub(from))
			case <-time.After(eventTimeout):
				return nil, errors.New("an event is missing")
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	r.Ops = r.Latency.Count()
	r.CPU = cpu.Busy()
	return r, nil
}

// eventTimeout is when an event counts as lost.
const eventTimeout = 10 * time.Second
