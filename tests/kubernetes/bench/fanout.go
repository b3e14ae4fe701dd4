package main

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

const watchers = 100

// fanOut is an update that ends when every watch of the cache has shown it.
func fanOut(ctx context.Context, s *side) (_ load.Op, _ func(), err error) {
	cached, stopCache, err := s.openCache(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := &audience{pending: map[string]*shown{}, ended: make(chan struct{})}
	done := func() {
		a.stop()
		stopCache()
	}
	present, err := cached.GetCurrentResourceVersion(ctx)
	if err != nil {
		done()
		return nil, nil, err
	}
	opts := storage.ListOptions{ResourceVersion: strconv.FormatUint(present, 10), Recursive: true, Predicate: storage.Everything}
	for range watchers {
		w, err := cached.Watch(ctx, "/pods/", opts)
		if err != nil {
			done()
			return nil, nil, err
		}
		a.join(w)
	}
	return func(ctx context.Context, worker int) error {
		as := newMark()
		all := a.expect(as)
		if err := touch(ctx, cached, s.data.PodKeys[worker], as); err != nil {
			return err
		}
		select {
		case <-all:
			return nil
		case <-a.ended:
			return errors.New("a watch ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}, done, nil
}

// audience is the watches, and which marks they have still to show. Safe for concurrent use.
type audience struct {
	watches []watch.Interface
	reading sync.WaitGroup
	ended   chan struct{} // closed when the first watch ends
	end     sync.Once

	mu      sync.Mutex
	pending map[string]*shown
}

// shown is how many watches have not shown a mark; all is closed when none is left.
type shown struct {
	left int
	all  chan struct{}
}

func (a *audience) join(w watch.Interface) {
	a.watches = append(a.watches, w)
	a.reading.Go(func() {
		defer a.end.Do(func() { close(a.ended) })
		for ev := range w.ResultChan() {
			if obj, err := meta.Accessor(ev.Object); err == nil { // a pod, or what the cache wraps around one
				a.show(obj.GetAnnotations()[mark])
			}
		}
	})
}

// expect is called before what makes the mark.
func (a *audience) expect(as string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &shown{left: len(a.watches), all: make(chan struct{})}
	a.pending[as] = s
	return s.all
}

func (a *audience) show(as string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.pending[as]
	if s == nil {
		return
	}
	if s.left--; s.left == 0 {
		delete(a.pending, as)
		close(s.all)
	}
}

func (a *audience) stop() {
	for _, w := range a.watches {
		w.Stop()
	}
	a.reading.Wait()
}
