package faults

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// TestAnswersLost: one answer in twenty of all members and of the coordinator gets lost, after the request was served.
func TestAnswersLost(t *testing.T) {
	b := newBench(t, 3)
	for _, p := range b.processes {
		p.Work(b.load())
		p.wire.lose.Store(50)
	}
	time.Sleep(time.Duration(rounds(4)) * time.Second)
	require.Eventually(t, func() bool { return b.settled() > 0 }, workload.Patience, tick, "no outcome was unknown: this test shows less than it should")
	var lost int64
	for _, p := range b.processes {
		p.wire.lose.Store(0)
		lost += p.wire.lost.Load()
	}
	b.finish()
	t.Logf("%d answers lost, %d member transactions settled", lost, b.settled())
}
