package main

// maxKeys is how many keys there can be.
const maxKeys = 12

// KV is a key's value as a member stores it. Version 0: there is none.
type KV struct {
	val, ver      int
	stamp, create int64
	nmod, ncreate int // the member's own revisions
}

// State is a value for every key.
type State [maxKeys]KV

// Event is a change of one key. A member's stream of a delete shows neither its stamp nor which operation it belongs to.
type Event struct {
	T      int64
	key    int
	del    bool
	kv     KV
	at     int  // the member's revision
	op     int  // which of the transaction's operations it belongs to
	ranged bool // to one that deletes a range,
	span   Keys // which is this
}

// Fields of a key that can be compared.
const (
	modField = iota
	versionField
	valueField
	createField
	numFields
)

func (kv *KV) field(f int) int64 {
	switch f {
	case modField:
		return kv.stamp
	case versionField:
		return int64(kv.ver)
	case valueField:
		return int64(kv.val)
	}
	return kv.create
}

// encode appends a read of all keys to an answer.
func (st *State) encode(ans []int64, keys int) []int64 {
	for k := range keys {
		if kv := &st[k]; kv.ver > 0 {
			ans = append(ans, int64(k), int64(kv.val), kv.stamp, kv.create, int64(kv.ver))
		}
	}
	return append(ans, -1)
}

// encode makes the answer to a read of one key.
func (kv *KV) encode() []int64 {
	if kv.ver == 0 {
		return []int64{0}
	}
	return []int64{int64(kv.val), kv.stamp, kv.create, int64(kv.ver)}
}
