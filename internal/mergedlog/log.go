package mergedlog

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Errors of Append, final for the log: the client has to stop (the first three) or to begin with a new log.
var (
	// ErrForeignWrite reports a change of a member that metaetcd did not write.
	ErrForeignWrite = errors.New("metaetcd: a member holds a write that is not metaetcd's")
	// ErrClockBroken reports a write below what was closed, or a fence or clock that went back.
	ErrClockBroken = errors.New("metaetcd: the clock is broken")
	// ErrOutOfOrder reports a stream that repeated or split a member revision.
	ErrOutOfOrder = errors.New("metaetcd: a member's stream is out of order")
	// ErrOverrun reports that a member was compacted above what its stream had delivered.
	ErrOverrun = errors.New("metaetcd: compaction overtook a member's stream")
)

// Errors of the log's readers.
var (
	// ErrEvicted reports that the log does not reach back to a revision; the members' histories may.
	ErrEvicted = errors.New("metaetcd: revision is older than the log in memory")
	// ErrNotClosed reports a revision above the closed one.
	ErrNotClosed = errors.New("metaetcd: revision is not closed yet")
	// ErrNotFenced reports a Start above a member's fence.
	ErrNotFenced = errors.New("metaetcd: a member is not fenced at the starting revision")
	// ErrUntracked reports a question for the outcome of a stamp that is not tracked.
	ErrUntracked = errors.New("metaetcd: stamp is not tracked")
	// ErrForgotten reports that what became of a stamp was compacted before this process could look.
	ErrForgotten = errors.New("metaetcd: the member was compacted before its log showed what became of a write")
)

// MemberRevision is everything that a member committed at one of its revisions, in order: native events with
// native previous values. Without events it says that the stream has reached Rev.
type MemberRevision struct {
	Rev    int64
	Events []*mvccpb.Event
}

// MemberState is where a member's stream stands and what the member's records said there.
type MemberState struct {
	Rev   int64 // member revision
	Epoch int64 // of the member's fence record
	Fence int64
	Clock int64 // the highest stamp that reached the member
}

// Event is one change of one user key in the user's view. It is immutable. Keeping an Event keeps all those of its
// member revision in memory; whoever keeps one for long keeps Kv instead.
type Event struct {
	Rev          int64 // stamp
	Type         mvccpb.Event_EventType
	Kv           *mvccpb.KeyValue // of a delete only Key and ModRevision are set, as in etcd
	PrevKv       *mvccpb.KeyValue // of the revision before; nil if there was none, or a put created the key
	Member       int
	MemberRev    int64 // member revision of the landing
	NativeCreate int64 // native CreateRevision of a put
	Order        int   // place of the event's operation, in a transaction of several parts
}

// Config says what a log needs to know about its cluster.
type Config struct {
	Members int                  // number of members; they are named by their index
	SlotOf  func(key []byte) int // slot of a user key; for the log's own Doubts

	// MaxBytes bounds the memory of released events, counted by keys, values and a constant. What waits above W may take twice as much
	// again; beyond that the events of the lowest stamps are let go, as if they were evicted. What has waited, and watchers are about to
	// be given, stays in memory while all together is not more than three times MaxBytes: see Log.Needs. Default: 64 MiB.
	MaxBytes int64

	// Doubts are told what the streams show. Logs that follow one another share them. Default: the log's own.
	Doubts *Doubts

	// OnRecord is told the puts of the record `compacted`, and the puts and deletes of the records of leases, in the order of
	// each member's stream, and before anything of that member revision, or of a later one of the member, is visible. A
	// record that was deleted has no value. It is called by Append without locks: it may use the log, except for Append and
	// Open of the same member. Optional.
	OnRecord func(member int, rev int64, kv *mvccpb.KeyValue)
}

const (
	defaultMaxBytes = 64 << 20
	indexBound      = 256 << 10 // entries per member: five minutes of 800 batches per second
)

// Log is the merged log of one process.
//
// All methods may be used concurrently; the appends of one member have to come in order, and so from one
// goroutine. W, Highest and Epoch never decrease. Events at or below W are complete: no later Append adds one.
type Log struct {
	cfg Config

	closed  atomic.Int64
	highest atomic.Int64
	epoch   atomic.Int64
	fenced  atomic.Uint64
	locked  atomic.Int64 // locks held, on all members

	mu       sync.RWMutex
	members  []*member
	started  bool
	start    int64  // what Start was given
	minFence int64  // lowest fence seen over all members
	window   window // stamps above W
	partials partials
	memory   memory // released events
	waiters  waiters
	advanced chan struct{} // nil: nobody asked since the last advance
	unlocked chan struct{} // closed when a lock is released; nil: nobody asked since
	err      error         // terminal
}

// member is what the log knows about one member. The fields behind append are guarded by the log's mu.
type member struct {
	id     int
	append sync.Mutex // serializes Append; before mu
	parser parser

	MemberState
	log      int   // of Doubts.open
	ordered  int64 // highest fence that a transaction set at its own stamp, for its order
	locks    locks
	raises   []raise // answers of raises that the stream has not reached yet
	index    index
	tail     tail
	waiters  waiters // for the stream's position
	settling settling
}

// raise is the answer of a fence raise: F >= fence held at member revision rev, in that epoch.
type raise struct{ epoch, fence, rev int64 }

// New returns an empty log. Nothing is closed before Start.
func New(cfg Config) *Log { return newLog(cfg, indexBound) }

func newLog(cfg Config, bound int) *Log {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	cfg.MaxBytes = min(cfg.MaxBytes, math.MaxInt64/mostTimes)
	if cfg.Doubts == nil {
		cfg.Doubts = NewDoubts(cfg.Members, cfg.SlotOf)
	}
	l := &Log{cfg: cfg}
	l.memory.max, l.memory.most = cfg.MaxBytes, mostTimes*cfg.MaxBytes
	for i := range cfg.Members {
		l.members = append(l.members, &member{
			id:     i,
			parser: parser{member: i, onRecord: cfg.OnRecord},
			index:  index{bound: bound},
			locks:  locks{},
		})
	}
	return l
}

// Open says that the member's stream delivers everything after s.Rev, what the member's records are at s.Rev, and what is
// locked there. It comes once, before any Append of the member.
func (l *Log) Open(member int, s MemberState, held ...Lock) {
	m := l.members[member]
	m.append.Lock()
	defer m.append.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Rev = s.Rev
	l.noteClockLocked(m, s.Clock)
	m.index.base = s.Clock
	l.noteLocksLocked(m, held)
	l.noteFenceLocked(m, s.Epoch, s.Fence)
	m.log = l.cfg.Doubts.open(member, m.MemberState)
	l.noteReachedLocked(m)
	l.noteSettledLocked(m)
}

// Start makes c the closed revision. The caller has shown that every stamp <= c that lands at all was appended or
// lies before the streams' beginnings: every member's fence was seen at c or above (else ErrNotFenced), and no
// member had a stamp above c when its stream began (else ErrClockBroken). Events with stamps <= c are not
// released; they are in the tails of snapshots.
func (l *Log) Start(c int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case l.started:
		return fmt.Errorf("metaetcd: log was started at %d already", l.start)
	case l.minFence < c:
		return fmt.Errorf("%w: fences seen up to %d, start at %d", ErrNotFenced, l.minFence, c)
	}
	for i, m := range l.members {
		if m.index.base > c {
			return fmt.Errorf("%w: member %d began with stamp %d, start at %d", ErrClockBroken, i, m.index.base, c)
		}
	}
	l.started, l.start = true, c
	l.window.drop(c)
	l.partials.drop(c) // all their parts have landed, some before the streams began
	l.memory.floor = c + 1
	l.advanceLocked() // to c at least: the fences close it
	return nil
}

// FenceHolds says that a raise was answered: at member revision rev of the member, in that epoch, the fence was at
// or above fence. It counts once the member's stream has reached rev, and not at all if the stream is in another
// epoch then.
func (l *Log) FenceHolds(member int, epoch, fence, rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members[member]
	m.raises = append(m.raises, raise{epoch, fence, rev})
	l.noteReachedLocked(m)
	l.noteSettledLocked(m)
	l.advanceLocked()
}

// Closed returns W; 0 before Start.
func (l *Log) Closed() int64 { return l.closed.Load() }

// Highest returns the highest stamp that any stream has shown.
func (l *Log) Highest() int64 { return l.highest.Load() }

// Epoch returns the highest epoch that any stream has shown.
func (l *Log) Epoch() int64 { return l.epoch.Load() }

// FencedMarks counts the stamps, in all streams, that a fence refused which was raised because stamps were missing. Those that
// a locked member refused, or the fence that a transaction leaves at its own stamp, are not among them: they were not too slow.
func (l *Log) FencedMarks() uint64 { return l.fenced.Load() }

// Position returns where the member's stream stands: the fence as it counts, the clock as the highest stamp seen.
func (l *Log) Position(member int) MemberState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.members[member].MemberState
}

// Gap says what W waits for: the mark of missing, which is W+1. It is really missing only if it was handed out, for
// instance because it is at or below known, the highest stamp seen. Blocked means that an event, or a caller of
// WaitClosed, waits above W. Before Start nothing is missing (0). A stamp of which some part was seen, but not all, is
// not missing: no fence closes it, its transaction has to be finished (see Locks).
func (l *Log) Gap() (missing, known int64, blocked bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	known = l.highest.Load()
	w := l.closed.Load()
	if !l.started || l.partials.lowest() == w+1 {
		return 0, known, false
	}
	return w + 1, known, l.window.waits() > 0 || len(l.waiters) > 0
}

// Stats is what a log holds.
type Stats struct {
	Released int   // events at or below W in memory
	Bytes    int64 // their size
	Pending  int   // events above W; of those that were let go, stamps
	Waiting  int64 // the size of those that were not
}

// Stats returns what the log holds at present.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return Stats{Released: l.memory.events.len(), Bytes: l.memory.bytes, Pending: l.window.waits(), Waiting: l.window.bytes}
}

// Fail ends the log: every waiter and every later Append gets err. The first error stays; released events can
// still be read.
func (l *Log) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(err)
}

// Err returns the terminal error, nil while the log lives.
func (l *Log) Err() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.err
}
