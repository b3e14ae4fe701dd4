// Package statecache remembers what a process last knew of the native state of keys on their members, so that a
// write can pin the state it relies on without a read before it.
//
// What is cached may be out of date at any time: a write that is pinned to it is refused by the member then, and
// reads. The cache promises only that it never goes back: while a key stays cached, its knowledge never becomes
// older. Which keys stay is decided by what the process itself uses; the stream of everybody's writes keeps
// them fresh (Refresh) but brings in no others.
package statecache

import (
	"hash/maphash"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// State is what was known of a key at one revision of its member.
type State struct {
	// NativeMod and NativeCreate are the member's revisions of the key. NativeCreate is 0 if the key is absent;
	// NativeMod is then the member revision of that knowledge, of a delete or of a read.
	NativeMod, NativeCreate int64

	// Stamp (ModRevision), Create, Version and Lease are the user's view of the key.
	Stamp, Create, Version, Lease int64
}

const (
	maxShards  = 16
	shardFloor = 256 // smaller shards would forget much before the cache is full
)

// Cache is a bounded map from user keys to their States that forgets what was least recently used. Its methods
// may be used concurrently, keep no reference to the key, and allocate only to insert.
type Cache struct {
	seed   maphash.Seed
	shards []shard // a power of two
}

// shard is a part of the cache. Entries are found by the hash of the key. Of two keys with the same hash only
// one is cached.
type shard struct {
	mu  sync.Mutex
	lru *simplelru.LRU[uint64, *entry]
	_   [48]byte // keeps the locks on cache lines of their own
}

type entry struct {
	key   string
	state State
}

// New returns a cache of at most maxEntries keys; at least one is kept.
func New(maxEntries int) *Cache {
	n := 1
	for n < maxShards && maxEntries/(2*n) >= shardFloor {
		n *= 2
	}
	c := &Cache{seed: maphash.MakeSeed(), shards: make([]shard, n)}
	for i := range c.shards {
		c.shards[i].lru, _ = simplelru.NewLRU[uint64, *entry](max(maxEntries/n, 1), nil) // fails only without a size
	}
	return c
}

// Get returns what is known of a key and counts as a use of it.
func (c *Cache) Get(key []byte) (State, bool) {
	h, s := c.locate(key)
	return s.get(h, key)
}

// Peek is Get, but no use of the key.
func (c *Cache) Peek(key []byte) (State, bool) {
	h, s := c.locate(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Peek(h); ok && e.key == string(key) {
		return e.state, true
	}
	return State{}, false
}

// Has reports whether anything is known of a key. It is no use of the key.
func (c *Cache) Has(key []byte) bool {
	_, ok := c.Peek(key)
	return ok
}

// Learn inserts or replaces what is known of a key, unless something newer is known, and counts as a use of it.
func (c *Cache) Learn(key []byte, state State) {
	h, s := c.locate(key)
	s.learn(h, key, state)
}

// Refresh replaces what is known of a key if the key is cached, unless something newer is known. It is no use of
// the key.
func (c *Cache) Refresh(key []byte, state State) {
	h, s := c.locate(key)
	s.refresh(h, key, state)
}

func (c *Cache) locate(key []byte) (hash uint64, s *shard) {
	hash = maphash.Bytes(c.seed, key)
	return hash, &c.shards[hash&uint64(len(c.shards)-1)]
}

func (s *shard) get(hash uint64, key []byte) (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Get(hash); ok && e.key == string(key) {
		return e.state, true
	}
	return State{}, false
}

func (s *shard) learn(hash uint64, key []byte, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Get(hash); ok && e.key == string(key) {
		e.update(state)
		return
	}
	s.lru.Add(hash, &entry{key: string(key), state: state})
}

func (s *shard) refresh(hash uint64, key []byte, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Peek(hash); ok && e.key == string(key) {
		e.update(state)
	}
}

// update never goes back.
func (e *entry) update(state State) {
	if state.NativeMod >= e.state.NativeMod {
		e.state = state
	}
}
