package ring

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const slots = 4096

func mustNew(t require.TestingT, names []string, slots int, p Policy) *Ring {
	r, err := New(names, slots, p)
	require.NoError(t, err)
	return r
}

func memberNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("member-%d", i)
	}
	return names
}

// owners returns the name of each slot's owner.
func owners(r *Ring) []string {
	names := r.Names()
	table := make([]string, r.Slots())
	for slot := range table {
		table[slot] = names[r.Owner(slot)]
	}
	return table
}

func drawNames(lo, hi int) *rapid.Generator[[]string] {
	return rapid.SliceOfNDistinct(rapid.StringN(1, 8, -1), lo, hi, rapid.ID[string])
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		names []string
		slots int
		p     Policy
		want  string
	}{
		{"no names", nil, slots, Policy{}, "metaetcd: no members"},
		{"empty name", []string{"a", ""}, slots, Policy{}, "metaetcd: a member without a name"},
		{"same name twice", []string{"a", "b", "a"}, slots, Policy{}, `metaetcd: two members with the name "a"`},
		{"not UTF-8", []string{"a\xff"}, slots, Policy{}, `metaetcd: member name "a\xff" is not valid UTF-8`},
		{"no slots", []string{"a"}, 0, Policy{}, "metaetcd: 0 slots, want 1 to 65536"},
		{"too many slots", []string{"a"}, MaxSlots + 1, Policy{}, "metaetcd: 65537 slots, want 1 to 65536"},
		{"negative segments", []string{"a"}, slots, Policy{Segments: -1}, "metaetcd: sharding by -1 segments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New(tt.names, tt.slots, tt.p)
			require.EqualError(t, err, tt.want)
			require.Nil(t, r)
		})
	}
}

// Placement is a wire format. If this test fails, existing clusters would look for their keys in the wrong places.
func TestGolden(t *testing.T) {
	r := mustNew(t, []string{"a", "b", "c"}, slots, Policy{})
	for key, want := range map[string]int{
		"":                                   2457,
		"\x01":                               1840,
		"a":                                  3675,
		"foo":                                2623,
		"/registry/pods/default/nginx":       3477,
		"\xff\xff":                           3725,
		"a key that is longer than 32 bytes": 2118,
	} {
		require.Equal(t, want, r.Slot([]byte(key)), "slot of %q", key)
	}
	require.Equal(t, []int{0, 1, 0, 0, 1, 2, 0, 1, 1, 2, 2, 0, 2, 0, 2, 0}, r.owner[:16])

	byPrefix := mustNew(t, []string{"a", "b", "c"}, slots, Policy{Segments: 3})
	require.Equal(t, 2319, byPrefix.Slot([]byte("/registry/pods/default/nginx")))

	for _, tt := range []struct {
		names []string
		slots int
		sum   string
	}{
		{[]string{"a"}, 16, "5e3efcbe01e60d610f641d15d6dec14bffc96c396cc631352a3f3b745bef7c56"},
		{[]string{"a", "b", "c"}, slots, "e55744babf916e50c5364e41c21f62ac002daab4350f59874552de526cba78ed"},
		{memberNames(10), slots, "6212a357d2b55d930051b5a2ef9dc9f829874f7f4bab58e7f83f877a159b19d0"},
		{[]string{"east", "west", "süd"}, MaxSlots, "e780c4d9e99f62e0462f60759c78d7ffdc16fe419697e4c2e762ccf5ea62a5bd"},
	} {
		sum := sha256.New()
		for _, name := range owners(mustNew(t, tt.names, tt.slots, Policy{})) {
			fmt.Fprintln(sum, name)
		}
		require.Equal(t, tt.sum, hex.EncodeToString(sum.Sum(nil)), "owners among %q", tt.names)
	}
}

func TestPlacementIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := drawNames(1, 6).Draw(t, "names")
		shuffled := rapid.Permutation(names).Draw(t, "shuffled")
		before := slices.Clone(shuffled)

		a, b := mustNew(t, names, 256, Policy{}), mustNew(t, shuffled, 256, Policy{})
		require.Equal(t, a.Names(), b.Names())
		require.Equal(t, owners(a), owners(b))
		require.True(t, slices.IsSorted(a.Names()))
		require.Equal(t, before, shuffled, "New must not reorder its argument")
	})
}

func TestEverySlotIsOwnedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := drawNames(1, 6).Draw(t, "names")
		n := rapid.IntRange(1, 300).Draw(t, "slots")
		r := mustNew(t, names, n, Policy{})
		require.Equal(t, n, r.Slots())

		owned := 0
		for m := range names {
			for _, slot := range r.SlotsOf(m) {
				require.Equal(t, m, r.Owner(slot))
				owned++
			}
			require.True(t, slices.IsSorted(r.SlotsOf(m)))
		}
		require.Equal(t, n, owned)
	})
}

func TestSlotsMoveOnlyToTheNewMember(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := drawNames(2, 8).Draw(t, "names")
		before := owners(mustNew(t, names[1:], 512, Policy{}))
		after := owners(mustNew(t, names, 512, Policy{}))
		for slot := range before {
			if after[slot] != before[slot] {
				require.Equal(t, names[0], after[slot], "slot %d", slot)
			}
		}
	})
}

// The load of n members is binomial: 4096 slots deviate from the mean by sqrt((n-1)/4096), relative to it.
func TestBalance(t *testing.T) {
	for _, n := range []int{3, 5, 10} {
		relative := math.Sqrt(float64(n-1) / slots)
		t.Run(fmt.Sprintf("the usual names, %d members", n), func(t *testing.T) {
			requireBalanced(t, memberNames(n), 2.5*relative)
		})
		t.Run(fmt.Sprintf("any names, %d members", n), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			for range 50 {
				names := make([]string, n)
				for i := range names {
					names[i] = fmt.Sprintf("%x", rng.Uint64())
				}
				requireBalanced(t, names, 4*relative)
			}
		})
	}
}

func requireBalanced(t *testing.T, names []string, tolerance float64) {
	t.Helper()
	r := mustNew(t, names, slots, Policy{})
	mean := float64(slots) / float64(len(names))
	for m, name := range r.Names() {
		require.InEpsilon(t, mean, len(r.SlotsOf(m)), tolerance, "%s among %q", name, names)
	}
}

// Keys of the usual shapes must fill the slots evenly too: a chi-squared test against the uniform distribution.
func TestKeysSpreadOverSlots(t *testing.T) {
	const keys = 64 * slots
	r := mustNew(t, memberNames(3), slots, Policy{})
	counts := make([]int, slots)
	for i := range keys {
		counts[r.Slot(fmt.Appendf(nil, "/registry/pods/ns-%d/pod-%d", i%100, i))]++
	}
	var chi float64
	for _, n := range counts {
		d := float64(n) - keys/slots
		chi += d * d / (keys / slots)
	}
	const freedom = slots - 1
	require.InDelta(t, freedom, chi, 5*math.Sqrt(2*freedom))
}

// Placement follows names; numbers are what is stored.
func TestNumbers(t *testing.T) {
	r, err := New([]string{"b", "a", "c"}, 64, Policy{})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, r.Numbers(0, 1, 2), "in the order of names")
	numbers := []int{9, 2, 4}
	x := r.Numbered(numbers)
	numbers[0] = 1
	require.Equal(t, []int{4, 9}, x.Numbers(2, 0))
	require.Equal(t, 2, r.Number(1))
	for i := range 3 {
		m, err := x.Member(x.Number(i))
		require.NoError(t, err)
		require.Equal(t, i, m)
	}
	_, err = x.Member(1)
	require.EqualError(t, err, "metaetcd: no member has the number 1, the members have [9 2 4]")
	require.Equal(t, r.owner, x.owner)
}

func TestReturnedSlicesAreTheCallers(t *testing.T) {
	r := mustNew(t, []string{"a", "b"}, 64, Policy{})
	r.Names()[0] = "z"
	r.SlotsOf(0)[0] = -1
	r.MembersOf([]byte("a"), []byte{0})[0] = -1
	require.Equal(t, []string{"a", "b"}, r.Names())
	require.NotContains(t, r.SlotsOf(0), -1)
	require.Equal(t, []int{0, 1}, r.MembersOf([]byte("a"), []byte{0}))
}

func TestLookupsDoNotAllocate(t *testing.T) {
	key := []byte("/registry/pods/default/nginx")
	for _, p := range []Policy{{}, {Segments: 3}} {
		r := mustNew(t, memberNames(3), slots, p)
		require.Zero(t, testing.AllocsPerRun(100, func() { r.Slot(key) }))
		require.Zero(t, testing.AllocsPerRun(100, func() { r.MemberOf(key) }))
	}
}
