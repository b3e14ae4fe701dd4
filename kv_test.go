package metaetcd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNextChunk(t *testing.T) {
	for _, tc := range []struct {
		keys int64
		size int
		want int64
	}{
		{10, 100, 80},
		{10, chunkBytes / 3, 30},
		{10, chunkBytes / 2, 10},
		{10, chunkBytes * 2, 10},
		{10, chunkBytes*2 + 1, 5},
		{1, chunkBytes * 9, 1},
	} {
		require.Equal(t, tc.want, nextChunk(tc.keys, tc.size), "%v", tc)
	}
}
