package record

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var drawMember = rapid.Custom(func(t *rapid.T) TopologyMember {
	return TopologyMember{Number: rapid.IntRange(1, MaxMembers).Draw(t, "number"), Name: rapid.String().Draw(t, "name")}
})

func TestTopologyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := TopologyRecord{
			Format:        TopologyFormat,
			ClusterID:     rapid.Uint64().Draw(t, "cluster id"),
			Member:        rapid.String().Draw(t, "member"),
			Members:       rapid.SliceOfNDistinct(drawMember, 1, 5, func(m TopologyMember) int { return m.Number }).Draw(t, "members"),
			Slots:         rapid.IntRange(1, 1<<16).Draw(t, "slots"),
			Segments:      rapid.IntRange(0, 9).Draw(t, "segments"),
			Separator:     rapid.Byte().Draw(t, "separator"),
			CoordinatorID: rapid.Uint64().Draw(t, "coordinator id"),
		}
		want.Compacted = rapid.SampledFrom(want.Members).Draw(t, "compacted").Number
		got, err := ParseTopology(want.Encode())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, want.Encode(), got.Encode())
	})
}

// The bytes are on users' disks: this encoding must be readable for ever.
func TestTopologyGolden(t *testing.T) {
	want := TopologyRecord{
		Format: 2, ClusterID: math.MaxUint64, Member: "b", Members: []TopologyMember{{1, "a"}, {3, "b"}}, Compacted: 3, Slots: 4096, Segments: 2, Separator: '/', CoordinatorID: 1,
	}
	const encoded = `{"format":2,"cluster_id":"18446744073709551615","member":"b","members":[{"number":1,"name":"a"},{"number":3,"name":"b"}],` +
		`"compacted":3,"slots":4096,"segments":2,"separator":47,"coordinator_id":"1"}`
	require.Equal(t, encoded, string(want.Encode()))
	got, err := ParseTopology([]byte(encoded))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestEncodeSetsTheFormat(t *testing.T) {
	got, err := ParseTopology(TopologyRecord{Format: 7, Members: []TopologyMember{{1, "a"}}, Compacted: 1, Slots: 1}.Encode())
	require.NoError(t, err)
	require.Equal(t, TopologyFormat, got.Format)
}

func TestParseTopologyRefuses(t *testing.T) {
	for name, encoded := range map[string]string{
		"nothing":                   "",
		"other bytes":               "\x00\x01",
		"another JSON value":        "7",
		"cut short":                 `{"format":2`,
		"no format":                 `{"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1}`,
		"a negative format":         `{"format":-1,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1}`,
		"an unknown field":          `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1,"shards":1}`,
		"a field of a kind":         `{"format":2,"slots":"1","members":[{"number":1,"name":"a"}],"compacted":1}`,
		"a number as id":            `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1,"cluster_id":5}`,
		"a wide separator":          `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1,"separator":256}`,
		"no slots":                  `{"format":2,"members":[{"number":1,"name":"a"}],"compacted":1}`,
		"no members":                `{"format":2,"slots":1}`,
		"members by name":           `{"format":2,"slots":1,"members":["a"],"compacted":1}`,
		"a member without a number": `{"format":2,"slots":1,"members":[{"name":"a"}],"compacted":0}`,
		"too high a number":         `{"format":2,"slots":1,"members":[{"number":65536,"name":"a"}],"compacted":65536}`,
		"a number twice":            `{"format":2,"slots":1,"members":[{"number":1,"name":"a"},{"number":1,"name":"b"}],"compacted":1}`,
		"compacted nowhere":         `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":2}`,
		"negative segments":         `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1,"segments":-1}`,
		"something behind it":       `{"format":2,"slots":1,"members":[{"number":1,"name":"a"}],"compacted":1}{}`,
	} {
		got, err := ParseTopology([]byte(encoded))
		require.ErrorIs(t, err, ErrMalformed, name)
		require.NotErrorIs(t, err, ErrTopologyFormat, name)
		require.Zero(t, got, name)
	}
}

func TestParseTopologyOfAnotherVersion(t *testing.T) {
	got, err := ParseTopology([]byte(`{"format":1,"slots":"many","members":["a"]}`))
	require.ErrorIs(t, err, ErrTopologyFormat)
	require.NotErrorIs(t, err, ErrMalformed)
	require.EqualError(t, err, "metaetcd: unknown topology format: 1, this version knows 2")
	require.Equal(t, TopologyRecord{Format: 1}, got)
}

func FuzzParseTopology(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"format":3}`))
	f.Add(TopologyRecord{ClusterID: 1, Member: "a", Members: []TopologyMember{{1, "a"}}, Compacted: 1, Slots: 1, CoordinatorID: 2}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseTopology(b)
		if err != nil {
			return
		}
		again, err := ParseTopology(got.Encode())
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
