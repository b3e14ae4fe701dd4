package translate_test

import (
	"context"
	"errors"
	"maps"
	"math"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
)

const slots = 4

// tester is a *testing.T or a *rapid.T.
type tester interface {
	require.TestingT
	Helper()
}

// member is a member cluster with its reserved records.
type member struct {
	t    tester
	kv   pb.KVClient
	ring *ring.Ring
}

func newMember(t tester) *member {
	server := etcdfake.New(1)
	r, err := ring.New([]string{"m"}, slots, ring.Policy{})
	require.NoError(t, err)
	m := &member{t: t, kv: server.Client(nil), ring: r}
	m.put(record.KeyClock, record.ClockRecord{Epoch: 1}.Value())
	parser := mergedlog.NewParser(0)
	server.Watch(func(rev int64, evs []*mvccpb.Event) {
		requireOneFate(t, evs)
		requireParsed(t, parser, rev, evs)
	})
	m.put(record.KeyFence, record.Pair(1, 0))
	m.put(record.KeyLock, nil)
	for s := range slots {
		m.put(string(record.SlotKey(s)), record.Number(0))
	}
	for _, id := range leases[2:] {
		m.put(string(record.LeaseKey(id)), record.LeaseRecord{Grant: 1}.Encode())
	}
	return m
}

// requireOneFate demands that no revision of a member puts and deletes one key.
func requireOneFate(t require.TestingT, evs []*mvccpb.Event) {
	fate := map[string]mvccpb.Event_EventType{}
	for _, e := range evs {
		was, again := fate[string(e.Kv.Key)]
		require.False(t, again && was != e.Type, "%q is put and deleted in one revision", e.Kv.Key)
		fate[string(e.Kv.Key)] = e.Type
	}
}

// put writes a record as another process would, and returns the member revision.
func (m *member) put(key string, value []byte) int64 {
	m.t.Helper()
	resp, err := m.kv.Put(context.Background(), &pb.PutRequest{Key: []byte(key), Value: value})
	require.NoError(m.t, err)
	return resp.Header.Revision
}

func (m *member) send(req *pb.TxnRequest) *pb.TxnResponse {
	m.t.Helper()
	resp, err := m.kv.Txn(context.Background(), proto.Clone(req).(*pb.TxnRequest))
	require.NoError(m.t, err)
	return resp
}

func (m *member) get(key, end string) *pb.RangeResponse {
	m.t.Helper()
	resp, err := m.kv.Range(context.Background(), &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	require.NoError(m.t, err)
	return resp
}

func (m *member) state(key string) translate.State {
	m.t.Helper()
	s, err := translate.StateOf(m.get(key, ""))
	require.NoError(m.t, err)
	return s
}

// users returns the keyspace in the user's view. The member itself knows of no lease, and the entries of each name all keys
// that are attached to it.
func (m *member) users() etcd {
	m.t.Helper()
	e := etcd{}
	for _, kv := range m.get(record.FirstUserKey, "\x00").Kvs {
		require.Zero(m.t, kv.Lease, "the lease that the member knows of %q", kv.Key)
		require.NoError(m.t, record.ToUser(kv))
		e[string(kv.Key)] = kv
		if kv.Lease != 0 {
			require.Contains(m.t, m.attached(kv.Lease), string(kv.Key))
		}
	}
	return e
}

// attached are the entries of a lease.
func (m *member) attached(lease int64) []string {
	m.t.Helper()
	key, end := record.AttachedRange(lease)
	keys := []string{}
	for _, kv := range m.get(string(key), string(end)).Kvs {
		keys = append(keys, string(record.AttachedTo(kv.Key)))
	}
	return keys
}

// records are the leases' records.
func (m *member) records() map[int64][]byte {
	m.t.Helper()
	key, end := record.LeaseRange()
	rs := map[int64][]byte{}
	for _, kv := range m.get(string(key), string(end)).Kvs {
		rs[record.LeaseOf(kv.Key)] = kv.Value
	}
	return rs
}

// marks reads the stamps off a member revision's manifests, and the slots whose clocks it set.
func (m *member) marks(rev int64) (marks map[int64]manifest.Entry, clocks map[int]int64) {
	m.t.Helper()
	marks, clocks = map[int64]manifest.Entry{}, map[int]int64{}
	for _, kv := range m.get("\x00", "\x00").Kvs {
		if kv.ModRevision != rev {
			continue
		}
		switch record.KindOf(kv.Key) {
		case record.Slot:
			stamp, err := record.ParseNumber(kv.Value)
			require.NoError(m.t, err)
			clocks[record.SlotOf(kv.Key)] = stamp
		case record.Manifest, record.Nested:
			entries, err := manifest.Decode(kv.Value)
			require.NoError(m.t, err)
			for _, e := range entries {
				require.NotContains(m.t, marks, e.Stamp, "twice in a revision")
				marks[e.Stamp] = e
			}
		}
	}
	return marks, clocks
}

// known is what requests say that their sender knows to be closed.
const known = 7

// clock reads the highest stamp off the record. Whoever raises it says what it knows to be closed.
func (m *member) clock() int64 {
	m.t.Helper()
	c, err := record.ParseClock(m.get(record.KeyClock, "").Kvs[0].Value)
	require.NoError(m.t, err)
	if c.Highest > 1 { // as the member was made
		require.EqualValues(m.t, known, c.Closed)
	}
	return c.Highest
}

// requireParsed demands that a log can read what the member has committed.
func requireParsed(t require.TestingT, p *mergedlog.Parser, rev int64, evs []*mvccpb.Event) {
	r := mergedlog.MemberRevision{Rev: rev}
	for _, e := range evs {
		r.Events = append(r.Events, proto.Clone(e).(*mvccpb.Event))
	}
	_, _, err := p.Parse(&r)
	require.NoError(t, err)
}

// pair reads a record that holds an epoch and a number.
func (m *member) pair(key string) (epoch, n int64) {
	m.t.Helper()
	epoch, n, err := record.ParsePair(m.get(key, "").Kvs[0].Value)
	require.NoError(m.t, err)
	return epoch, n
}

// view is a state that a writer has read of a member at one of its revisions.
type view struct {
	rev    int64
	states map[string]translate.State
	user   etcd
	leases map[int64][]byte
}

func (m *member) look() *view {
	m.t.Helper()
	v := &view{states: map[string]translate.State{}, user: m.users(), leases: m.records()}
	for _, key := range alphabet {
		v.states[key] = m.state(key)
	}
	v.rev = m.get("\x00", "").Header.Revision
	return v
}

// evaluate is Plan.Evaluate with what the writer knows of leases.
func (v *view) evaluate(p *translate.Plan) (*translate.Run, error) {
	run, err := p.Evaluate(v)
	run.Records = v.leases
	return run, err
}

func (v *view) state(key []byte) translate.State { return v.states[string(key)] }
func (v *view) Get(key []byte) *mvccpb.KeyValue  { return v.states[string(key)].KV }
func (v *view) Range(r translate.Range) (kvs []*mvccpb.KeyValue) {
	for _, key := range v.user.keys(r.Key, r.End) {
		kvs = append(kvs, v.user[key])
	}
	return kvs
}

// forget makes the writer take a key for absent.
func (v *view) forget(key []byte) *view {
	less := &view{rev: v.rev, states: maps.Clone(v.states), user: maps.Clone(v.user), leases: v.leases}
	delete(less.states, string(key))
	delete(less.user, string(key))
	return less
}

// over lets a blind put of a key go over other writers' puts.
func (v *view) over(key []byte) *view {
	more := &view{rev: v.rev, states: maps.Clone(v.states), user: v.user, leases: v.leases}
	s := v.states[string(key)]
	s.NativeMod = 0
	more.states[string(key)] = s
	return more
}

func wrongEpoch(err error) (epoch int64, ok bool) {
	if wrong, ok := errors.AsType[*translate.WrongEpochError](err); ok {
		return wrong.Epoch, true
	}
	return 0, false
}

var infinity = record.Holder{ID: record.TxnID{1}}.Value()

const locked = math.MaxInt64 // as record.ParseNumber reads an infinite slot clock
