package linearizability

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rounds is how many histories are made: n, or, with METAETCD_LONG set, twenty times as many.
func rounds(n int) int {
	if os.Getenv("METAETCD_LONG") != "" {
		return 20 * n
	}
	return n
}
