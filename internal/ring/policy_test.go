package ring

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRoute(t *testing.T) {
	slash := func(n int) Policy { return Policy{Segments: n}.canonical() }
	for _, tt := range []struct {
		p      Policy
		key    string
		want   string
		shared bool
	}{
		{Policy{}, "", "", false},
		{Policy{}, "a/b/c", "a/b/c", false},
		{slash(1), "", "", false},
		{slash(1), "a", "a", false},
		{slash(1), "a/", "a/", true},
		{slash(1), "a/b/c", "a/", true},
		{slash(1), "/a", "/", true},
		{slash(2), "a/b", "a/b", false},
		{slash(2), "a/b/c/d", "a/b/", true},
		{slash(2), "//a", "//", true},
		{slash(3), "/registry/pods/default/nginx", "/registry/pods/", true},
		{Policy{Segments: 1, Separator: ':'}.canonical(), "a/b:c:d", "a/b:", true},
		{Policy{Segments: 1, Separator: 0xff}.canonical(), "a\xffb", "a\xff", true},
	} {
		n, shared := tt.p.route([]byte(tt.key))
		require.Equal(t, tt.want, tt.key[:n], "%+v %q", tt.p, tt.key)
		require.Equal(t, tt.shared, shared, "%+v %q", tt.p, tt.key)
	}
}

func TestCanonicalPolicy(t *testing.T) {
	for given, want := range map[Policy]Policy{
		{}:                            {},
		{Separator: ':'}:              {},
		{Segments: 2}:                 {Segments: 2, Separator: '/'},
		{Segments: 2, Separator: '/'}: {Segments: 2, Separator: '/'},
		{Segments: 2, Separator: ':'}: {Segments: 2, Separator: ':'},
	} {
		require.Equal(t, want, mustNew(t, []string{"a"}, 1, given).Policy(), "%+v", given)
	}
}

func TestPrefixSharesASlot(t *testing.T) {
	r := mustNew(t, memberNames(3), slots, Policy{Segments: 2})
	rapid.Check(t, func(t *rapid.T) {
		segment := rapid.StringMatching(`[a-z]{0,4}`)
		prefix := segment.Draw(t, "first") + "/" + segment.Draw(t, "second") + "/"
		rest := rapid.SliceOf(rapid.Byte())
		a := append([]byte(prefix), rest.Draw(t, "a")...)
		b := append([]byte(prefix), rest.Draw(t, "b")...)
		require.Equal(t, r.Slot(a), r.Slot(b))
	})
}
