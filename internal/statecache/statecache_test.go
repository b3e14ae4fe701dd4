package statecache

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// naive is a cache as a list, the least recently used key first.
type naive struct {
	max     int
	entries []entry
}

func (n *naive) find(key string) int {
	return slices.IndexFunc(n.entries, func(e entry) bool { return e.key == key })
}

// use moves a key to the end and returns its state.
func (n *naive) use(key string) *State {
	i := n.find(key)
	if i < 0 {
		return nil
	}
	e := n.entries[i]
	n.entries = append(slices.Delete(n.entries, i, i+1), e)
	return &n.entries[len(n.entries)-1].state
}

func (n *naive) learn(key string, s State) {
	if known := n.use(key); known != nil {
		if s.NativeMod >= known.NativeMod {
			*known = s
		}
		return
	}
	n.entries = append(n.entries, entry{key, s})
	if len(n.entries) > n.max {
		n.entries = n.entries[1:]
	}
}

func (n *naive) refresh(key string, s State) {
	if i := n.find(key); i >= 0 && s.NativeMod >= n.entries[i].state.NativeMod {
		n.entries[i].state = s
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 4).Draw(t, "size")
		c, model := New(size), &naive{max: size}
		keys := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", "f"})
		buf := make([]byte, 0, 8)
		rev := int64(0)
		step := func(do func(key []byte, s State)) func(*rapid.T) {
			return func(t *rapid.T) {
				rev++ // a state of its own for every step
				mod := rapid.Int64Range(1, 8).Draw(t, "native mod")
				do(append(buf[:0], keys.Draw(t, "key")...), State{NativeMod: mod, Stamp: rev})
				clear(buf[:1]) // the cache must not keep the caller's bytes
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"get": step(func(key []byte, _ State) {
				got, ok := c.Get(key)
				want := model.use(string(key))
				require.Equal(t, want != nil, ok)
				if ok {
					require.Equal(t, *want, got)
				}
			}),
			"learn":   step(func(key []byte, s State) { c.Learn(key, s); model.learn(string(key), s) }),
			"refresh": step(func(key []byte, s State) { c.Refresh(key, s); model.refresh(string(key), s) }),
			"":        func(t *rapid.T) { require.Equal(t, len(model.entries), c.entries()) },
		})
	})
}

// entries counts what is cached.
func (c *Cache) entries() (n int) {
	for i := range c.shards {
		n += c.shards[i].lru.Len()
	}
	return n
}

func TestSize(t *testing.T) {
	for _, tc := range []struct{ size, shards int }{
		{-1, 1}, {0, 1}, {1, 1}, {511, 1}, {512, 2}, {1025, 4}, {4095, 8}, {4096, 16}, {1 << 16, 16},
	} {
		c := New(tc.size)
		require.Len(t, c.shards, tc.shards, "size %d", tc.size)
		for i := range 3*tc.size + 10 {
			c.Learn(fmt.Appendf(nil, "key-%d", i), State{NativeMod: int64(i + 1)})
		}
		require.LessOrEqual(t, c.entries(), max(tc.size, 1))
		require.Greater(t, c.entries(), tc.size-tc.shards, "the shards fill")
	}
}

func TestColdKeysDoNotComeBack(t *testing.T) {
	c := New(2)
	c.Learn([]byte("a"), State{NativeMod: 1})
	c.Learn([]byte("b"), State{NativeMod: 2})
	c.Refresh([]byte("a"), State{NativeMod: 3})
	c.Refresh([]byte("x"), State{NativeMod: 4})
	c.Learn([]byte("c"), State{NativeMod: 5})
	_, ok := c.Get([]byte("a"))
	require.False(t, ok, "a refresh is no use")
	_, ok = c.Get([]byte("x"))
	require.False(t, ok, "a refresh does not insert")
}

// TestEqualHashes gives two keys one hash: the cache may forget, but never mix them up.
func TestEqualHashes(t *testing.T) {
	s := &New(8).shards[0]
	a, b := []byte("a"), []byte("b")
	s.learn(7, a, State{NativeMod: 9})
	_, ok := s.get(7, b)
	require.False(t, ok)
	s.refresh(7, b, State{NativeMod: 10})
	got, ok := s.get(7, a)
	require.True(t, ok)
	require.Equal(t, State{NativeMod: 9}, got)
	s.learn(7, b, State{NativeMod: 3})
	_, ok = s.get(7, a)
	require.False(t, ok)
	got, ok = s.get(7, b)
	require.True(t, ok)
	require.Equal(t, State{NativeMod: 3}, got)
}

func TestLookupsDoNotAllocate(t *testing.T) {
	c := New(1000)
	known, unknown := bytes.Repeat([]byte("k"), 200), bytes.Repeat([]byte("u"), 200)
	c.Learn(known, State{NativeMod: 1})
	mod := int64(1)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		mod++
		c.Get(known)
		c.Get(unknown)
		c.Refresh(known, State{NativeMod: mod})
		c.Refresh(unknown, State{NativeMod: mod})
		c.Learn(known, State{NativeMod: mod})
	}))
}

// TestConcurrentUseNeverGoesBack lets writers race with old and new knowledge of the same keys.
func TestConcurrentUseNeverGoesBack(t *testing.T) {
	const keys, rounds = 64, 200
	c := New(1 << 14)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			seen := make([]int64, keys)
			for r := range rounds {
				for k := range keys {
					key, s := fmt.Appendf(nil, "key-%d", k), State{NativeMod: int64(1 + r*(w+1))}
					s.Stamp = 2 * s.NativeMod
					if w%2 == 0 {
						c.Learn(key, s)
					} else {
						c.Refresh(key, s)
					}
					got, ok := c.Get(key)
					if ok && (got.NativeMod < seen[k] || got.Stamp != 2*got.NativeMod || w%2 == 0 && got.NativeMod < s.NativeMod) {
						t.Errorf("key %d: %+v after %d, having told %d", k, got, seen[k], s.NativeMod)
						return
					}
					seen[k] = got.NativeMod
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, keys, c.entries())
}

func BenchmarkCache(b *testing.B) {
	keys := make([][]byte, 10000)
	c := New(len(keys))
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "/registry/pods/namespace-%03d/pod-%07d", i/100, i)
		c.Learn(keys[i], State{NativeMod: 1})
	}
	for name, do := range map[string]func(key []byte, i int){
		"get":     func(key []byte, _ int) { c.Get(key) },
		"refresh": func(key []byte, i int) { c.Refresh(key, State{NativeMod: int64(i)}) },
		"learn":   func(key []byte, i int) { c.Learn(key, State{NativeMod: int64(i)}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					do(keys[i%len(keys)], i)
				}
			})
		})
	}
}
