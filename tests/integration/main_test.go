package integration

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lasting is how long a load lasts: d, or, with METAETCD_LONG set, twelve times as long.
func lasting(d time.Duration) time.Duration {
	if os.Getenv("METAETCD_LONG") != "" {
		return 12 * d
	}
	return d
}
