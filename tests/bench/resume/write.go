package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	roleWrite = "write"
	// writers is how many puts may be on their way at once.
	writers = 256
	keys    = 1000
	prefix  = "/resume/"
)

func keyOf(i int) string { return fmt.Sprintf("%skeys/%04d", prefix, i) }

// writeConfig says what a writing process writes, until its parent has seen enough.
type writeConfig struct {
	rig.Target
	Keys []string
	Rate int // puts per second
	Size int // bytes of a value
}

// writeRole is a process that writes.
func writeRole(ctx context.Context, config []byte) (string, func() error, error) {
	var cfg writeConfig
	if err := json.Unmarshal(config, &cfg); err != nil {
		return "", nil, err
	}
	side, err := cfg.Open(ctx)
	if err != nil {
		return "", nil, err
	}
	offered := make(chan struct{}, writers)
	var wg sync.WaitGroup
	failures := make(chan error, writers)
	putting := context.WithoutCancel(ctx) // what has begun is ended
	value := string(make([]byte, cfg.Size))
	for w := range writers {
		wg.Go(func() {
			i := w
			for range offered {
				i = (i + writers) % len(cfg.Keys)
				if _, err := side.Put(putting, cfg.Keys[i], value); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Go(func() {
		defer close(offered)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		begun := time.Now()
		for given := 0; ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for due := int(time.Since(begun).Seconds() * float64(cfg.Rate)); given < due; given++ {
				select {
				case offered <- struct{}{}:
				default:
				}
			}
		}
	})
	return "writing", func() error {
		wg.Wait()
		select {
		case err = <-failures:
		default:
		}
		return errors.Join(err, side.Close())
	}, nil
}

// fill puts n values of a quarter of a KiB, spread over the keys, and returns the revision before the first.
func fill(ctx context.Context, target rig.Target, n int) (before int64, err error) {
	side, err := target.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, side.Close()) }()
	begin, err := side.Put(ctx, prefix+"begin", "")
	if err != nil {
		return 0, err
	}
	value := string(make([]byte, 256))
	return begin.Header.Revision, load.Each(ctx, writers, n, func(ctx context.Context, i int) error {
		_, err := side.Put(ctx, keyOf(i%keys), value)
		return err
	})
}

// watch starts n watches that end with the key end, and returns what waits for all of them and counts their events.
func watch(ctx context.Context, side *rig.Side, n int, from int64, of func(i int) (key string, opts []clientv3.OpOption), end string) func() (events int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	counts, errs := make([]int, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		key, opts := of(i)
		if from > 0 {
			opts = append(opts, clientv3.WithRev(from))
		}
		responses := side.Watch(ctx, key, append(opts, clientv3.WithCreatedNotify())...)
		if from == 0 {
			<-responses
		}
		wg.Go(func() {
			for resp := range responses {
				for _, ev := range resp.Events {
					counts[i]++
					if string(ev.Kv.Value) == end {
						return
					}
				}
				if errs[i] = resp.Err(); errs[i] != nil {
					return
				}
			}
			errs[i] = errors.New("the watch ended")
		})
	}
	return func() (int, error) {
		wg.Wait()
		cancel()
		sum := 0
		for _, c := range counts {
			sum += c
		}
		return sum, errors.Join(errs...)
	}
}
