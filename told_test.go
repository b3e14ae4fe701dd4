package metaetcd

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// TestKnown: what was told is the highest of all that is told: acknowledged writes, compactions, and what was closed, in earlier logs too.
func TestKnown(t *testing.T) {
	c := &core{}
	require.Zero(t, c.known())
	c.tell(3)
	c.tell(2)
	require.EqualValues(t, 3, c.known())
	require.Zero(t, c.closed(), "it may not be closed")
	c.noteCompacted(5)
	require.EqualValues(t, 5, c.known(), "another process has compacted what this one has not closed")
	raise(&c.closedBefore, 9)
	c.log.Store(mergedlog.New(mergedlog.Config{Members: 1}))
	require.EqualValues(t, 9, c.closed(), "the new log has not begun")
	require.EqualValues(t, 9, c.known())
}
