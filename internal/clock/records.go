package clock

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Everything that metaetcd keeps on the coordinator has a name in [Prefix, prefixEnd). The clock's own records are
// those in [clockPrefix, clockEnd); they come and go as one.
const (
	Prefix    = "\x00metaetcd/"
	prefixEnd = "\x00metaetcd0"

	clockPrefix = Prefix + "clock/"
	clockEnd    = Prefix + "clock0"

	keyIncarnation = clockPrefix + "incarnation"
	keyClaim       = clockPrefix + "claim"
	keyEpoch       = clockPrefix + "epoch"

	digitPrefix = clockPrefix + "w_"
	digitEnd    = clockPrefix + "w`"
)

// digits is the number of keys whose versions spell the clock.
const digits = 12

// MaxTake is the largest number of stamps that one Take may ask for: what one transaction can add.
const MaxTake = 1<<digits - 1

// digitKeys holds the digits' names; that of weight 2^i is at i, and they sort by i.
var digitKeys = func() (keys [digits][]byte) {
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%s%02d", digitPrefix, i)
	}
	return keys
}()

// incarnationRecord names one life of the coordinator's data: a wiped coordinator gets another nonce.
type incarnationRecord struct {
	Nonce   string `json:"nonce"`
	Cluster uint64 `json:"cluster,string"` // the meta cluster's id
}

// epochRecord makes the digits a clock: it stands at Base plus what the digits say. Every add compares it byte by byte.
type epochRecord struct {
	Epoch   int64  `json:"epoch"`
	Base    int64  `json:"base"`
	Nonce   string `json:"nonce"`
	Cluster uint64 `json:"cluster,string"`
}

func (r incarnationRecord) encode() []byte { return mustMarshal(r) }

func (r epochRecord) encode() []byte { return mustMarshal(r) }

// mustMarshal cannot fail: the records hold nothing but numbers and strings.
func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func encodeClaim(epoch int64) []byte { return strconv.AppendInt(nil, epoch, 10) }

// records is what the coordinator holds of the clock, apart from the digits. What is missing is zero.
type records struct {
	incarnation    incarnationRecord
	incarnationRaw []byte
	claim          int64
	claimRaw       []byte
	epoch          epochRecord
	epochRaw       []byte
}

// cluster is the meta cluster that the records belong to; 0: there are none.
func (r *records) cluster() uint64 {
	if r.epochRaw != nil {
		return r.epoch.Cluster
	}
	return r.incarnation.Cluster
}

// check refuses records of another meta cluster than mine.
func (r *records) check(mine uint64) error {
	if (r.epochRaw != nil || r.incarnationRaw != nil) && r.cluster() != mine {
		return &ForeignCoordinatorError{Cluster: r.cluster()}
	}
	return nil
}

func parseRecords(kvs []*mvccpb.KeyValue) (*records, error) {
	r := &records{}
	for _, kv := range kvs {
		var err error
		switch string(kv.Key) {
		case keyIncarnation:
			r.incarnationRaw, err = kv.Value, json.Unmarshal(kv.Value, &r.incarnation)
		case keyEpoch:
			r.epochRaw, err = kv.Value, json.Unmarshal(kv.Value, &r.epoch)
		case keyClaim:
			r.claimRaw = kv.Value
			r.claim, err = strconv.ParseInt(string(kv.Value), 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: coordinator's %q: %w", record.ErrMalformed, kv.Key, err)
		}
	}
	return r, nil
}

// sumDigits returns what the digits of a clock add to its base; ok is false when some are missing.
func sumDigits(kvs []*mvccpb.KeyValue) (sum int64, ok bool) {
	if len(kvs) != digits {
		return 0, false
	}
	for i, kv := range kvs {
		sum += (kv.Version - 1) << i
	}
	return sum, true
}

// appendDigitPuts appends the puts that add k to the clock.
func appendDigitPuts(ops []*pb.RequestOp, k int64) []*pb.RequestOp {
	for rest := uint64(k); rest != 0; rest &= rest - 1 {
		ops = append(ops, digitPuts[bits.TrailingZeros64(rest)])
	}
	return ops
}

// digitPuts raise the digits' versions and leave their values alone. They are shared by all requests.
var digitPuts = func() (ops [digits]*pb.RequestOp) {
	for i := range ops {
		ops[i] = request.Put(&pb.PutRequest{Key: digitKeys[i], IgnoreValue: true})
	}
	return ops
}()
