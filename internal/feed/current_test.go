package feed

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// TestKnown: what was told is the highest of all that is told: acknowledged writes, compactions, and what was closed, in earlier logs too.
func TestKnown(t *testing.T) {
	c := &Current{}
	require.Zero(t, c.Known())
	c.Tell(3)
	c.Tell(2)
	require.EqualValues(t, 3, c.Known())
	require.Zero(t, c.Closed(), "it may not be closed")
	c.Compacted.Raise(5)
	require.EqualValues(t, 5, c.Known(), "another process has compacted what this one has not closed")
	c.closedBefore.Raise(9)
	c.log.Store(mergedlog.New(mergedlog.Config{Members: 1}))
	require.EqualValues(t, 9, c.Closed(), "the new log has not begun")
	require.EqualValues(t, 9, c.Known())
}
