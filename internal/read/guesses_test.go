package read

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuessesRestAfterAWrongOne(t *testing.T) {
	var g guesses
	require.True(t, g.worthIt())
	g.was(true)
	require.True(t, g.worthIt())
	g.was(false)
	for range guessRest {
		require.False(t, g.worthIt())
	}
	require.True(t, g.worthIt())
}
