package workload_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One plain etcd is what the check is made of, so it must pass: with several clients, with writes that are given up, and with
// one client lost.
func TestPlainEtcdPasses(t *testing.T) {
	etcd := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync())
	first := etcd.Client(t)
	_, err := first.Put(t.Context(), "g0/k0", "before the run")
	require.NoError(t, err)

	run := workload.Start(t, first)
	load := workload.Load{Groups: []string{"g0/", "g1/"}, Pace: time.Millisecond, Hasty: 10, Lists: true}
	full := load
	full.Shapes, full.Listens, full.Deletes = true, true, true
	full.Pairs, full.Tellers = map[string][2]string{"g0/": {"g0/left", "g1/left"}}, 2
	bank, err := run.Join("founder", first).OpenBank(t.Context(), []string{"a/account", "b/account", "c/account"}, 100)
	require.NoError(t, err)
	full.Bank = bank
	var clients []*workload.Client
	for i, name := range []string{"a", "b", "c"} {
		c := run.Join(name, etcd.Client(t))
		c.Work([]workload.Load{full, load, full}[i])
		clients = append(clients, c)
	}
	goOn := func() {
		t.Helper()
		from := run.Told()
		time.Sleep(300 * time.Millisecond)
		require.Eventually(t, func() bool { return run.Told() >= from+200 }, workload.Patience, time.Millisecond)
	}
	goOn()
	clients[1].Lose()
	late := run.Join("late", etcd.Client(t))
	late.Work(load)
	late.Probe("g0/probe", time.Millisecond)
	goOn()
	h := run.Finish()
	for _, err := range h.Violations() {
		// A watch that etcd creates while it answers an older request for progress may be told of that answer before its first
		// events: v3rpc sends Created and the rest from two channels.
		require.ErrorIs(t, err, workload.ErrBookmarkable)
	}
	bank.Check(t, h)
	require.Greater(t, len(h.Events()), 100)
	require.Greater(t, len(h.Reads), 100)
}
