package faults

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestMain(m *testing.M) {
	metaetcdtest.ServeProcess()
	if os.Getenv(mortalEnv) != "" {
		liveAndDie()
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func long() bool { return os.Getenv("METAETCD_LONG") != "" }

// rounds is how often something is broken: n times, or eight times as often.
func rounds(n int) int {
	if long() {
		return 8 * n
	}
	return n
}
