package read

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNextChunk(t *testing.T) {
	for _, tc := range []struct {
		n    int64
		keys int
		size int
		want int64
	}{
		{10, 10, 100, 160},              // not more than sixteen times as many
		{10, 10, chunkBytes / 3, 30},    // as many as are of the right size
		{10, 5, chunkBytes / 6, 30},     // judged by the keys there were
		{10, 10, chunkBytes * 2, 5},     // fewer
		{10, 1, chunkBytes * 9, 1},      // at least one
		{10, 0, 0, 10},                  // nothing to judge by
		{100, 100, chunkBytes + 5, 99},  // just too large
		{800, 100, chunkBytes / 4, 400}, // more than there were, fewer than asked for
	} {
		require.Equal(t, tc.want, nextChunk(tc.n, tc.keys, tc.size), "%v", tc)
	}
}
