package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

const pageSize = 500

// Lists come first: later tests add pods.
var tests = []test{
	{"list all in pages of 500, 1 reader", 1, 0.8, by(list)},
	{"list all in pages of 500, 4 readers", 4, 0, by(list)},
	{"get, 1 reader", 1, 0, by(get)},
	{"get, 64 readers", 64, 0, by(get)},
	{"GuaranteedUpdate, 1 writer", 1, 0, by(update)},
	{"GuaranteedUpdate, 64 writers", 64, 1, by(update)},
	{"GuaranteedUpdate seen by 100 cached watches, 16", 16, 0, fanOut},
	{"create, 1 writer", 1, 0, by(create)},
	{"create, 64 writers", 64, 1, by(create)},
}

// by is a test that starts nothing.
func by(op func(s *side) load.Op) func(context.Context, *side) (load.Op, func(), error) {
	return func(_ context.Context, s *side) (load.Op, func(), error) { return op(s), func() {}, nil }
}

func list(s *side) load.Op {
	return func(ctx context.Context, _ int) error {
		opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
		opts.Predicate.Limit = pageSize
		for n := 0; ; {
			var page example.PodList
			if err := s.store.GetList(ctx, "/pods/", opts, &page); err != nil {
				return err
			}
			n += len(page.Items)
			if opts.Predicate.Continue = page.Continue; page.Continue == "" {
				if n < len(s.data.Pods) {
					return fmt.Errorf("a list of %d pods", n)
				}
				return nil
			}
		}
	}
}

func get(s *side) load.Op {
	return func(ctx context.Context, _ int) error {
		return s.store.Get(ctx, s.randomKey(), storage.GetOptions{}, &example.Pod{})
	}
}

func update(s *side) load.Op {
	return func(ctx context.Context, _ int) error {
		return touch(ctx, s.store, s.randomKey(), newMark())
	}
}

func create(s *side) load.Op {
	run := newMark()
	var n atomic.Int64
	return func(ctx context.Context, _ int) error {
		pod := s.data.Pods[rand.IntN(len(s.data.Pods))].DeepCopy()
		pod.Name = fmt.Sprintf("%s-%d", run, n.Add(1))
		return s.store.Create(ctx, fmt.Sprintf("/pods/%s/%s", pod.Namespace, pod.Name), pod, &example.Pod{}, 0)
	}
}

func (s *side) randomKey() string { return s.data.PodKeys[rand.IntN(len(s.data.PodKeys))] }

// mark is the annotation that updates change.
const mark = "touched"

func newMark() string { return strconv.FormatUint(rand.Uint64(), 36) }

// touch marks a pod.
func touch(ctx context.Context, store storage.Interface, key, as string) error {
	return store.GuaranteedUpdate(ctx, key, &example.Pod{}, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		pod, ok := obj.(*example.Pod)
		if !ok {
			return nil, fmt.Errorf("not a pod: %T", obj)
		}
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, mark, as)
		return pod, nil
	}), nil)
}
