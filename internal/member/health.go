package member

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// LookForStrays looks for foreign keys among the next most keys, from where it has stopped the last time or where a read has met one;
// behind the last key it begins anew. owned says which keys belong to the member. It returns a *ForeignKeyError for the first one.
func (m *Member) LookForStrays(ctx context.Context, owned func(key []byte) bool, most int64) error {
	m.mu.Lock()
	from := m.from
	m.mu.Unlock()
	if from == nil {
		from = []byte(record.FirstUserKey)
	}
	stray, next, err := topology.Stray(ctx, m.KV, owned, from, most)
	m.lookFrom(next)
	if stray != nil {
		return &ForeignKeyError{Member: m.Name, Key: stray}
	}
	return wire.Name(m.Name, err)
}

// lookFrom says where LookForStrays goes on; nil: nowhere else.
func (m *Member) lookFrom(key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key != nil {
		m.from = key
	}
}

// Foreign is the error of a read that has met a value without a header. LookForStrays will begin at its key.
func (m *Member) Foreign(key []byte) error {
	m.lookFrom(key)
	return &ForeignKeyError{Member: m.Name, Key: key}
}

// serializable reports whether any server may answer a transaction, as it is.
func serializable(req *pb.TxnRequest) bool {
	return len(req.Compare) == 0 && len(req.Success) > 0 && req.Success[0].GetRequestRange().GetSerializable()
}

// look notes a revision that the member answered at, linearizably. If it is below one that the member had shown before, its data are
// not what they were.
func (m *Member) look(shown, rev int64) {
	switch {
	case rev >= shown:
		m.newest.Raise(rev)
		m.old.Ends()
	case m.old.Begins():
		m.Logger.Error("a member has lost its data or has gone back to older ones; nothing works that needs it",
			zap.String("member", m.Name), zap.Int64("revision", rev), zap.Int64("was", shown))
	}
}

// WentBack reports whether the member's last linearizable answer was older than what it had shown before: it has lost data, or was
// restored, and nothing works that needs it.
func (m *Member) WentBack() bool { return m.old.Lasts() }

// NoteShown notes a member revision that the member's stream has shown.
func (m *Member) NoteShown(rev int64) { m.newest.Raise(rev) }

// NoteUnwatched notes that the member's stream broke off, and reports whether it was there before.
func (m *Member) NoteUnwatched() bool { return m.unwatched.Begins() }

// NoteWatched notes that the member's stream is there, and reports whether it was not before.
func (m *Member) NoteWatched() bool { return m.unwatched.Ends() }

// NotReached is the error of who waited until the member's stream came to rev. It names the member if the wait's context has ended;
// other errors, and nil, it returns as they are.
func (m *Member) NotReached(rev int64, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("metaetcd: member %s: its stream has not reached revision %d: %w", m.Name, rev, err)
	}
	return err
}

// ForeignKeyError says that a member holds a key that metaetcd did not write. Reads whose range includes it fail, and so do range
// deletes. The cure is to stop all clients, to delete the key on its member, and to see to it that nobody else can write there.
type ForeignKeyError struct {
	Member string
	Key    []byte
}

func (e *ForeignKeyError) Error() string {
	return fmt.Sprintf("metaetcd: member %s holds the key %q, which metaetcd did not write: stop all clients, delete it there, and let nobody else write to members", e.Member, e.Key)
}
