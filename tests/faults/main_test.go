package faults

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(mortalEnv) != "" {
		liveAndDie()
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// rounds is how often something is broken: n times, or, with METAETCD_LONG set, eight times as often.
func rounds(n int) int {
	if os.Getenv("METAETCD_LONG") != "" {
		return 8 * n
	}
	return n
}
