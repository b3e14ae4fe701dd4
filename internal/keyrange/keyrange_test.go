package keyrange_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

func TestForms(t *testing.T) {
	for _, tt := range []struct {
		key, end                 string
		single, unbounded, empty bool
		in, out                  []string
	}{
		{key: "b", single: true, in: []string{"b"}, out: []string{"", "a", "b\x00", "c"}},
		{key: "", single: true, in: []string{""}, out: []string{"\x00", "a"}},
		{key: "b", end: "\x00", unbounded: true, in: []string{"b", "b\x00", "c", "\xff\xff"}, out: []string{"", "a\xff"}},
		{key: "\x00", end: "\x00", unbounded: true, in: []string{"\x00", "a"}, out: []string{""}},
		{key: "b", end: "d", in: []string{"b", "c", "c\xff"}, out: []string{"a", "d"}},
		{key: "b", end: "b\x00", in: []string{"b"}, out: []string{"b\x00"}},
		{key: "b", end: "b", empty: true, out: []string{"a", "b", "c"}},
		{key: "d", end: "b", empty: true, out: []string{"b", "c", "d"}},
		{key: "b", end: "\x00\x00", empty: true, out: []string{"b", "\x00"}},
	} {
		r := keyrange.Of([]byte(tt.key), []byte(tt.end))
		require.Equal(t, tt.single, r.Single(), "%v", r)
		require.Equal(t, tt.unbounded, r.Unbounded(), "%v", r)
		require.Equal(t, tt.empty, r.Empty(), "%v", r)
		for _, k := range tt.in {
			require.True(t, r.Contains([]byte(k)), "%v %q", r, k)
		}
		for _, k := range tt.out {
			require.False(t, r.Contains([]byte(k)), "%v %q", r, k)
		}
	}
}

func TestString(t *testing.T) {
	require.Equal(t, `"a"-"\x00"`, keyrange.From([]byte("a")).String())
	require.NotEqual(t, keyrange.Of([]byte(`a"-"b`), nil).String(), keyrange.Of([]byte("a"), []byte(`b"-"`)).String())
}

// letters are few, so that keys and ends meet; zero and 0xff have rules of their own.
var (
	letters = []byte{0, 1, 'a', 0xff}
	keys    = rapid.Map(rapid.SliceOfN(rapid.SampledFrom(letters), 0, 3), func(b []byte) []byte { return b })
	ranges  = rapid.Custom(func(t *rapid.T) keyrange.Range {
		return keyrange.Of(keys.Draw(t, "key"), keys.Draw(t, "end"))
	})
)

// universe has every key of up to four letters: with one more than the bounds have, no non-empty range misses all of them.
var universe = func() (all [][]byte) {
	all = [][]byte{{}}
	for from, n := 0, 0; n < 4; n++ {
		to := len(all)
		for _, k := range all[from:to] {
			for _, l := range letters {
				all = append(all, append(bytes.Clone(k), l))
			}
		}
		from = to
	}
	return all
}()

// in is the rule, as etcd's documentation has it.
func in(key []byte, r keyrange.Range) bool {
	k, lo, hi := string(key), string(r.Key), string(r.End)
	switch hi {
	case "":
		return k == lo
	case "\x00":
		return k >= lo
	}
	return lo <= k && k < hi
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, o, from := ranges.Draw(t, "r"), ranges.Draw(t, "o"), keys.Draw(t, "from")
		above := r.Above(from)
		var some, both bool
		for _, k := range universe {
			require.Equal(t, in(k, r), r.Contains(k), "%v contains %q", r, k)
			require.Equal(t, in(k, r) && bytes.Compare(k, from) >= 0, above.Contains(k), "%v above %q is %v: %q", r, from, above, k)
			some = some || in(k, r)
			both = both || in(k, r) && in(k, o)
		}
		require.Equal(t, !some, r.Empty(), "%v", r)
		require.Equal(t, both, r.Overlaps(o), "%v and %v", r, o)
		require.Equal(t, r.Overlaps(o), o.Overlaps(r))
	})
}

func TestPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := keys.Draw(t, "prefix")
		before := bytes.Clone(p)
		r := keyrange.Prefix(p)
		for _, k := range universe {
			require.Equal(t, bytes.HasPrefix(k, p), r.Contains(k), "%q has prefix %q", k, p)
		}
		require.Equal(t, clientv3.GetPrefixRangeEnd(string(p)), string(keyrange.PrefixEnd(p)))
		require.Equal(t, before, p)
	})
}
