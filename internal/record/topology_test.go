package record

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTopologyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := TopologyRecord{
			Format:        TopologyFormat,
			ClusterID:     rapid.Uint64().Draw(t, "cluster id"),
			Member:        rapid.String().Draw(t, "member"),
			Members:       rapid.SliceOfN(rapid.String(), 1, 5).Draw(t, "members"),
			Slots:         rapid.IntRange(1, 1<<16).Draw(t, "slots"),
			Segments:      rapid.IntRange(0, 9).Draw(t, "segments"),
			Separator:     rapid.Byte().Draw(t, "separator"),
			CoordinatorID: rapid.Uint64().Draw(t, "coordinator id"),
		}
		got, err := ParseTopology(want.Encode())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, want.Encode(), got.Encode())
	})
}

// The bytes are on users' disks: this encoding must be readable for ever.
func TestTopologyGolden(t *testing.T) {
	want := TopologyRecord{
		Format: 1, ClusterID: math.MaxUint64, Member: "b", Members: []string{"a", "b"}, Slots: 4096, Segments: 2, Separator: '/', CoordinatorID: 1,
	}
	const encoded = `{"format":1,"cluster_id":"18446744073709551615","member":"b","members":["a","b"],` +
		`"slots":4096,"segments":2,"separator":47,"coordinator_id":"1"}`
	require.Equal(t, encoded, string(want.Encode()))
	got, err := ParseTopology([]byte(encoded))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestEncodeSetsTheFormat(t *testing.T) {
	got, err := ParseTopology(TopologyRecord{Format: 7, Members: []string{"a"}, Slots: 1}.Encode())
	require.NoError(t, err)
	require.Equal(t, TopologyFormat, got.Format)
}

func TestParseTopologyRefuses(t *testing.T) {
	for name, encoded := range map[string]string{
		"nothing":             "",
		"other bytes":         "\x00\x01",
		"another JSON value":  "7",
		"cut short":           `{"format":1`,
		"no format":           `{"slots":1,"members":["a"]}`,
		"a negative format":   `{"format":-1,"slots":1,"members":["a"]}`,
		"an unknown field":    `{"format":1,"slots":1,"members":["a"],"shards":1}`,
		"a field of a kind":   `{"format":1,"slots":"1","members":["a"]}`,
		"a number as id":      `{"format":1,"slots":1,"members":["a"],"cluster_id":5}`,
		"a wide separator":    `{"format":1,"slots":1,"members":["a"],"separator":256}`,
		"no slots":            `{"format":1,"members":["a"]}`,
		"no members":          `{"format":1,"slots":1}`,
		"negative segments":   `{"format":1,"slots":1,"members":["a"],"segments":-1}`,
		"something behind it": `{"format":1,"slots":1,"members":["a"]}{}`,
	} {
		got, err := ParseTopology([]byte(encoded))
		require.ErrorIs(t, err, ErrMalformed, name)
		require.NotErrorIs(t, err, ErrTopologyFormat, name)
		require.Zero(t, got, name)
	}
}

func TestParseTopologyOfAnotherVersion(t *testing.T) {
	got, err := ParseTopology([]byte(`{"format":2,"slots":"many","shards":[]}`))
	require.ErrorIs(t, err, ErrTopologyFormat)
	require.NotErrorIs(t, err, ErrMalformed)
	require.EqualError(t, err, "metaetcd: unknown topology format: 2, this version knows 1")
	require.Equal(t, TopologyRecord{Format: 2}, got)
}

func FuzzParseTopology(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"format":2}`))
	f.Add(TopologyRecord{ClusterID: 1, Member: "a", Members: []string{"a"}, Slots: 1, CoordinatorID: 2}.Encode())
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
