package history

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// Config says whose history it is. All fields but MembersOf are required.
type Config struct {
	Log       *mergedlog.Log              // asked for nothing before its Start
	Members   []Member                    // by index
	SlotOf    func(key []byte) int        // slot of a user key
	Compacted func() int64                // the compacted revision as far as this process knows; 0: none
	MembersOf func(key, end []byte) []int // members that may hold keys of a range. Default: all
}

const (
	pageBytes  = 8 << 20  // what a replay keeps of one member before it shows some of it
	indexBound = 64 << 10 // entries of a member's index, each 32 bytes
)

// History reads the members' pasts. All methods may be used concurrently. They wait for members that do not answer,
// until their context ends.
type History struct {
	cfg        Config
	log        live
	pasts      []*past
	pageBytes  int64
	indexBound int
}

// live is what a history asks of its log.
type live interface {
	Began() int64
	Closed() int64
	Lo(member int, r int64) (lo, hi int64, ok bool)
}

// New returns the history behind a log. It reads nothing before it is asked.
func New(cfg Config) *History { return newHistory(cfg, pageBytes, indexBound) }

func newHistory(cfg Config, pageBytes int64, indexBound int) *History {
	h := &History{cfg: cfg, log: cfg.Log, pageBytes: pageBytes, indexBound: indexBound}
	all := make([]int, len(cfg.Members))
	for i, m := range cfg.Members {
		h.pasts = append(h.pasts, &past{Member: m, h: h, id: i, turn: make(chan struct{}, 1)})
		all[i] = i
	}
	if cfg.MembersOf == nil {
		h.cfg.MembersOf = func(_, _ []byte) []int { return all }
	}
	return h
}

// Lo returns the last revision of a member before any stamp above r. It fails with etcd's ErrCompacted if
// that is compacted, and with mergedlog.ErrNotClosed.
func (h *History) Lo(ctx context.Context, member int, r int64) (int64, error) {
	lo, err := h.pasts[member].lo(ctx, r)
	return lo, status(err)
}

// Snapshot returns base and tail at a closed revision r for each of the members, as the log's own Snapshot does. It
// fails with etcd's ErrCompacted if r is compacted.
func (h *History) Snapshot(ctx context.Context, r int64, members []int, key, end []byte) ([]mergedlog.MemberSnapshot, error) {
	snaps := make([]mergedlog.MemberSnapshot, len(members))
	g, ctx := errgroup.WithContext(ctx)
	for i, id := range members {
		g.Go(func() (err error) {
			snaps[i], err = h.pasts[id].snapshot(ctx, r, key, end)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, status(err)
	}
	return snaps, nil
}

func (p *past) snapshot(ctx context.Context, r int64, key, end []byte) (mergedlog.MemberSnapshot, error) {
	if len(end) == 0 {
		if rev, ok, err := p.atKey(ctx, r, key); ok || err != nil {
			return mergedlog.MemberSnapshot{Lo: rev}, err
		}
	}
	lo, hi, err := p.bracket(ctx, r)
	if err != nil {
		return mergedlog.MemberSnapshot{}, err
	}
	t := newReader(p, lo, hi, key, end)
	t.to = r
	for t.pos < t.target {
		err := t.read(ctx, none)
		if err == nil {
			break
		}
		ok, err := t.rebase(ctx, err, r)
		if err != nil {
			return mergedlog.MemberSnapshot{}, err
		}
		if ok {
			lo, t.events = t.pos, nil
		}
	}
	return mergedlog.MemberSnapshot{Lo: lo, Tail: t.events}, nil
}

// check refuses a revision that cannot be read. The one before the compacted revision can: a watch may begin behind
// it.
func (h *History) check(r int64) error {
	switch {
	case r > h.log.Closed():
		return mergedlog.ErrNotClosed
	case r < h.cfg.Compacted()-1:
		return h.overtaken(r)
	}
	return nil
}

// overtaken is the error of a reader of what comes after stamp r, when some of it is gone: the user compacted at r+2
// at least, whether this process has learned of it or not.
func (h *History) overtaken(r int64) error {
	return &watchhub.CompactedError{Rev: max(h.cfg.Compacted(), r+2)}
}

// status makes an error what etcd has for it.
func status(err error) error {
	if errors.As(err, new(*watchhub.CompactedError)) {
		return rpctypes.ErrGRPCCompacted
	}
	return err
}
