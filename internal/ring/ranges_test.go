package ring

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

func TestMembersOf(t *testing.T) {
	const all = "everyone"
	for _, tt := range []struct {
		name     string
		segments int
		key, end string
		want     any // the keys whose members are expected, or all
	}{
		{"single key", 0, "a", "", []string{"a"}},
		{"range", 0, "a", "b", all},
		{"from key", 0, "a", "\x00", all},
		{"everything", 0, "\x00", "\x00", all},
		{"empty range", 0, "b", "b", []string(nil)},
		{"inverted range", 0, "b", "a", []string(nil)},
		{"one key as a range", 0, "a", "a\x00", []string{"a"}},
		{"two keys as a range", 0, "a", "a\x00\x00", []string{"a", "a\x00"}},
		{"the least infinite range", 0, "a", "a\x00\x01", all},

		{"single key below a prefix", 1, "a/b", "", []string{"a/"}},
		{"whole prefix", 1, "a/", "a0", []string{"a/"}},
		{"within a prefix", 1, "a/b", "a/c", []string{"a/"}},
		{"from within to the end of a prefix", 1, "a/b", "a0", []string{"a/"}},
		{"one key beyond a prefix", 1, "a/b", "a0\x00", []string{"a/", "a0"}},
		{"two keys beyond a prefix", 1, "a/b", "a0\x00\x00", []string{"a/", "a0", "a0\x00"}},
		{"from key below a prefix", 1, "a/b", "\x00", all},
		{"two prefixes", 1, "a/", "b0", all},
		{"all prefixes of a parent", 2, "a/", "a0", all},
		{"whole prefix of two segments", 2, "a/b/", "a/b0", []string{"a/b/"}},
		{"short key", 1, "a", "", []string{"a"}},
		{"short key alone as a range", 1, "a", "a\x00", []string{"a"}},
		{"short key to its prefix", 1, "a", "a/", all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustNew(t, memberNames(7), slots, Policy{Segments: tt.segments})
			var want []int
			if keys, ok := tt.want.([]string); ok {
				for _, key := range keys {
					want = append(want, r.MemberOf([]byte(key)))
				}
				slices.Sort(want)
				want = slices.Compact(want)
			} else {
				want = []int{0, 1, 2, 3, 4, 5, 6}
			}
			require.Equal(t, want, r.MembersOf([]byte(tt.key), []byte(tt.end)))
		})
	}
}

func TestMembersOfHighestPrefix(t *testing.T) {
	r := mustNew(t, memberNames(5), slots, Policy{Segments: 1, Separator: 0xff})
	for _, tt := range []struct {
		key, end string
		want     []int
	}{
		{"\xffa", "\x00", []int{r.MemberOf([]byte("\xff"))}},
		{"\xffa", "\xffb", []int{r.MemberOf([]byte("\xff"))}},
		{"a\xffb", "b", []int{r.MemberOf([]byte("a\xff"))}},
		{"a\xffb", "\x00", []int{0, 1, 2, 3, 4}},
	} {
		require.Equal(t, tt.want, r.MembersOf([]byte(tt.key), []byte(tt.end)), "%q to %q", tt.key, tt.end)
	}
}

// A member without slots is never asked, whatever the range.
func TestMembersOfLeavesOutMembersWithoutSlots(t *testing.T) {
	r := mustNew(t, memberNames(5), 1, Policy{})
	require.Equal(t, []int{r.Owner(0)}, r.MembersOf([]byte{0}, []byte{0}))
}

func FuzzMembersOf(f *testing.F) {
	f.Add([]byte("a/b"), []byte("a0\x00"), []byte("a/zzz"), 1)
	f.Add([]byte("a"), []byte("a\x00\x00"), []byte("a\x00"), 0)
	f.Add([]byte("\x01"), []byte("\x00"), []byte("\xff"), 2)
	rings := make([]*Ring, 4)
	for segments := range rings {
		rings[segments] = mustNew(f, memberNames(5), slots, Policy{Segments: segments})
	}
	f.Fuzz(func(t *testing.T, key, end, probe []byte, segments int) {
		r := rings[uint(segments)%uint(len(rings))]
		if members := r.MembersOf(key, end); contains(key, end, probe) {
			require.Contains(t, members, r.MemberOf(probe))
		}
	})
}

// The model asks every key of a small universe. It includes what decides: zeros, the separator and its successor.
func TestMembersOfIsExact(t *testing.T) {
	universe := enumerate([]byte{0, '/', '0', 'a'}, 5)
	var rings []*Ring
	for segments := range 4 {
		rings = append(rings, mustNew(t, memberNames(3), 8, Policy{Segments: segments}))
	}
	name := rapid.SliceOfN(rapid.SampledFrom([]byte{0, '/', '0', 'a'}), 0, 5)
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom(rings).Draw(t, "ring")
		key, end := name.Draw(t, "key"), name.Draw(t, "end")
		if rapid.Bool().Draw(t, "near") {
			end = append(slices.Clone(key), end...)
		}

		held := make([]bool, 3)
		ask := func(k []byte) {
			if contains(key, end, k) {
				held[r.MemberOf(k)] = true
			}
		}
		for _, k := range universe {
			ask(k)
		}
		// Infinite ranges need more keys than the universe has to show all their members.
		for _, k := range append(universe, key) {
			for range 3 {
				k = append(slices.Clip(k), 'a')
				ask(k)
			}
		}
		for n := range 200 {
			ask(append(slices.Clone(key), make([]byte, n)...))
			ask(append(keyrange.PrefixEnd(append(slices.Clone(key), '/')), make([]byte, n)...))
		}

		var want []int
		for m, ok := range held {
			if ok {
				want = append(want, m)
			}
		}
		require.Equal(t, want, r.MembersOf(key, end), "%+v %q to %q", r.Policy(), key, end)
	})
}

// contains is etcd's convention of ranges, spelled out.
func contains(key, end, k []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

// enumerate returns all keys of up to n bytes from the alphabet.
func enumerate(alphabet []byte, n int) [][]byte {
	keys, last := [][]byte{{}}, [][]byte{{}}
	for range n {
		var next [][]byte
		for _, k := range last {
			for _, b := range alphabet {
				next = append(next, append(slices.Clip(k), b))
			}
		}
		keys, last = append(keys, next...), next
	}
	return keys
}
