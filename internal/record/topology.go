package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// TopologyFormat is the format of everything that this version keeps on members: the header and all reserved records.
const TopologyFormat = 2

// ErrTopologyFormat reports a member that another version of metaetcd has initialised.
var ErrTopologyFormat = errors.New("metaetcd: unknown topology format")

// TopologyRecord is what a member knows about the meta cluster that it belongs to. It is JSON, for operators to read.
// The ids are strings there, because many readers of JSON keep no more than 53 bits of a number.
type TopologyRecord struct {
	Format        int              `json:"format"`                // set by Encode
	ClusterID     uint64           `json:"cluster_id,string"`     // the meta cluster's own
	Member        string           `json:"member"`                // the name of the member that holds the record
	Members       []TopologyMember `json:"members"`               // all members
	Compacted     int              `json:"compacted"`             // the number of the member whose record `compacted` counts
	Slots         int              `json:"slots"`                 // the number of slots
	Segments      int              `json:"segments"`              // the sharding policy; 0: by the whole key
	Separator     byte             `json:"separator"`             // what ends a segment
	CoordinatorID uint64           `json:"coordinator_id,string"` // the cluster id of the coordinator's etcd
}

// TopologyMember is a member's number and name. Whatever is stored names members by their numbers, which are never given
// again: places in the order of names would change when a member comes or goes.
type TopologyMember struct {
	Number int    `json:"number"` // 1 to MaxMembers
	Name   string `json:"name"`
}

// MaxMembers bounds the numbers of members.
const MaxMembers = 1<<16 - 1

// Encode encodes t in TopologyFormat. Equal records have equal bytes. Names must be valid UTF-8.
func (t TopologyRecord) Encode() []byte {
	t.Format = TopologyFormat
	b, _ := json.Marshal(t) // strings and integers can always be encoded
	return b
}

// ParseTopology decodes Encode. It fails with ErrTopologyFormat, and then returns nothing but the Format, if another
// version wrote the record, and with ErrMalformed if none did.
func ParseTopology(b []byte) (TopologyRecord, error) {
	var probe struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return TopologyRecord{}, fmt.Errorf("%w: topology: %w", ErrMalformed, err)
	}
	switch {
	case probe.Format < 1:
		return TopologyRecord{}, fmt.Errorf("%w: topology without a format", ErrMalformed)
	case probe.Format != TopologyFormat:
		return TopologyRecord{Format: probe.Format}, fmt.Errorf("%w: %d, this version knows %d", ErrTopologyFormat, probe.Format, TopologyFormat)
	}
	var t TopologyRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return TopologyRecord{}, fmt.Errorf("%w: topology: %w", ErrMalformed, err)
	}
	if t.Slots < 1 || t.Segments < 0 || len(t.Members) == 0 {
		return TopologyRecord{}, fmt.Errorf("%w: topology with %d slots, %d segments, %d members", ErrMalformed, t.Slots, t.Segments, len(t.Members))
	}
	if err := t.checkNumbers(); err != nil {
		return TopologyRecord{}, err
	}
	return t, nil
}

// checkNumbers refuses members whose numbers do not tell them apart, and a member for `compacted` that is none of them.
func (t TopologyRecord) checkNumbers() error {
	seen := map[int]bool{}
	for _, m := range t.Members {
		if m.Number < 1 || m.Number > MaxMembers || seen[m.Number] {
			return fmt.Errorf("%w: topology with the member %q of number %d", ErrMalformed, m.Name, m.Number)
		}
		seen[m.Number] = true
	}
	if !seen[t.Compacted] {
		return fmt.Errorf("%w: topology with `compacted` on member number %d", ErrMalformed, t.Compacted)
	}
	return nil
}
