package client

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// observed is a client whose log lines, of every level, are kept.
func observed(t *testing.T, cfg metaetcd.Config) (*metaetcd.Client, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	cfg.Logger = zap.New(core)
	return open(t, cfg), logs
}

// text renders log lines with all their fields.
func text(t *testing.T, logs *observer.ObservedLogs) string {
	t.Helper()
	enc := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	var b strings.Builder
	for _, e := range logs.All() {
		line, err := enc.EncodeEntry(e.Entry, e.Context)
		require.NoError(t, err)
		b.WriteString(line.String())
	}
	return b.String()
}

// secret marks the keys and values of the tests of logs.
const secret = "s3cr3t"

// use asks a client for a bit of everything, with secret keys and values.
func use(t *testing.T, cli *metaetcd.Client) {
	t.Helper()
	ctx := within(t, patience)
	w := cli.Watch(t.Context(), secret, clientv3.WithPrefix())
	for i := range 20 {
		put(t, cli, fmt.Sprint(secret, i), secret)
	}
	take(t, w, 20)
	require.Len(t, list(t, cli), 20)
	_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Value(secret+"0"), "=", secret)).Then(clientv3.OpDelete(secret + "0")).Commit()
	require.NoError(t, err)
	_, err = cli.Get(ctx, secret, clientv3.WithRev(1000000))
	require.Error(t, err)
	_, err = cli.Delete(ctx, secret, clientv3.WithPrefix())
	require.NoError(t, err)
	_, err = cli.Put(ctx, "\x00"+secret, secret)
	require.Error(t, err)
	_, err = cli.Put(ctx, secret, secret, clientv3.WithLease(1))
	require.Error(t, err)
	_, err = cli.Put(ctx, secret, strings.Repeat(secret, 300<<10))
	require.Error(t, err)
	rev, err := cli.Revision(ctx)
	require.NoError(t, err)
	_, err = cli.Compact(ctx, rev)
	require.NoError(t, err)
	resp := takeResponse(t, cli.Watch(t.Context(), secret, clientv3.WithRev(1)))
	require.Error(t, resp.Err())
	require.NoError(t, cli.Health(ctx))
}

// TestLogsAreQuiet: in normal operation, which includes requests that fail by their own fault, there is nothing that an
// operator would have to read.
func TestLogsAreQuiet(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	cfg := cluster.Config()
	cfg.MemberTimeout = patience // a busy machine is not what this is about
	cli, logs := observed(t, cfg)
	use(t, cli)
	require.NoError(t, cli.Close())
	loud := logs.Filter(func(e observer.LoggedEntry) bool { return e.Level > zapcore.InfoLevel })
	require.Empty(t, text(t, loud))
	require.LessOrEqual(t, logs.Len(), 3, text(t, logs))
	require.NotContains(t, text(t, logs), secret)
}

// TestLogsTellOfFailures: failures are logged by the name of who failed, and no line has anything of the users in it.
func TestLogsTellOfFailures(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	cli, logs := observed(t, cluster.Config())
	put(t, cli, "before", secret)

	write := func() <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := cli.Put(within(t, patience), secret, secret)
			done <- err
		}()
		return done
	}
	cluster.Coordinator.Stop()
	cluster.Coordinator.Wipe()
	done := write()
	require.Eventually(t, func() bool { return logs.FilterMessageSnippet("the clock does not answer").Len() > 0 }, patience, tick)
	cluster.Coordinator.Start()
	require.NoError(t, <-done)
	for _, m := range cluster.Members {
		m.Refuse()
	}
	done = write()
	require.Eventually(t, func() bool { return logs.FilterMessageSnippet("a member's stream broke off").Len() > 0 }, patience, tick)
	for _, m := range cluster.Members {
		m.Heal()
	}
	require.NoError(t, <-done)
	put(t, cli, "after", secret)
	require.Contains(t, list(t, cli), "after="+secret)
	require.NoError(t, cli.Close())

	all := text(t, logs)
	require.NotContains(t, all, secret)
	require.Contains(t, all, `"the coordinator has a new clock","epoch":2`)
	require.Less(t, logs.Len(), 60, "lines must not come by the request: %s", all)
}
