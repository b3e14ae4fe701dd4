package lease

import (
	"maps"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
)

// Book is what this process knows of the members' lease records. The members' streams keep it up to date; it may be
// behind, and what relies on it is guarded by the records themselves. Safe for concurrent use.
type Book struct {
	mu    sync.RWMutex
	pages []page

	appeared map[grant]struct{} // grants of which a stream has shown a living record, until takeAppeared
	news     chan struct{}      // has a token when there are such
}

// page is a member's records. What the book was told of a revision it does not take back for an older one.
type page struct {
	rev     int64 // of the last change that was followed
	entries map[int64]entry
}

type entry struct {
	rec record.LeaseRecord
	rev int64 // member revision at which it was so
}

// NewBook returns an empty book.
func NewBook(members int) *Book {
	b := &Book{pages: make([]page, members), appeared: map[grant]struct{}{}, news: make(chan struct{}, 1)}
	for i := range b.pages {
		b.pages[i].entries = map[int64]entry{}
	}
	return b
}

// Load replaces all records of a member by those that it had at a member revision.
func (b *Book) Load(member int, rev int64, kvs []*mvccpb.KeyValue) error {
	p := page{rev: rev, entries: make(map[int64]entry, len(kvs))}
	for _, kv := range kvs {
		rec, err := record.ParseLease(kv.Value)
		if err != nil {
			return err
		}
		p.entries[record.LeaseOf(kv.Key)] = entry{rec, rev}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages[member] = p
	return nil
}

// Follow takes a change of a record from the member's stream; one that was deleted has no value.
func (b *Book) Follow(member int, rev int64, kv *mvccpb.KeyValue) {
	rec, err := record.ParseLease(kv.Value)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &b.pages[member]
	if rev <= p.rev {
		return
	}
	p.rev = rev
	id := record.LeaseOf(kv.Key)
	if err == nil && !rec.Dead && p.entries[id].rec != rec {
		b.appeared[grant{id, rec.Grant}] = struct{}{}
		lifetime.Wake(b.news)
	}
	b.setLocked(p, id, rev, rec, err == nil)
}

// takeAppeared returns the grants of which a stream has shown a new living record since the last time.
func (b *Book) takeAppeared() []grant {
	b.mu.Lock()
	defer b.mu.Unlock()
	gs := slices.Collect(maps.Keys(b.appeared))
	clear(b.appeared)
	return gs
}

// Learn takes what a linearizable read, or a write, at a member revision told of a record.
func (b *Book) Learn(member int, rev, id int64, rec record.LeaseRecord, present bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := &b.pages[member]; rev > p.rev {
		b.setLocked(p, id, rev, rec, present)
	}
}

func (b *Book) setLocked(p *page, id, rev int64, rec record.LeaseRecord, present bool) {
	if p.entries[id].rev > rev {
		return
	}
	if present {
		p.entries[id] = entry{rec, rev}
	} else {
		delete(p.entries, id)
	}
}

// Get returns a member's record of a lease.
func (b *Book) Get(member int, id int64) (record.LeaseRecord, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e, ok := b.pages[member].entries[id]
	return e.rec, ok
}

// Living returns the record of a lease if some member has a living one.
func (b *Book) Living(id int64) (record.LeaseRecord, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for i := range b.pages {
		if e, ok := b.pages[i].entries[id]; ok && !e.rec.Dead {
			return e.rec, true
		}
	}
	return record.LeaseRecord{}, false
}

// grant is one grant of a lease.
type grant struct{ id, grant int64 }

// all returns every grant that some member has a record of.
func (b *Book) all() []grant {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := map[grant]struct{}{}
	for i := range b.pages {
		for id, e := range b.pages[i].entries {
			all[grant{id, e.rec.Grant}] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(all))
}

// state says whether some member has a record of a grant, and whether one of them is dead.
func (b *Book) state(g grant) (present, dead bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for i := range b.pages {
		if e, ok := b.pages[i].entries[g.id]; ok && e.rec.Grant == g.grant {
			present, dead = true, dead || e.rec.Dead
		}
	}
	return present, dead
}

// Count returns how many leases the first member has.
func (b *Book) Count() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.pages[0].entries)
}
