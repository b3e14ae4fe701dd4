package metaetcd

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// A configuration that cannot be is refused at once, by an error that names the field, before anything is contacted.
func TestConfigIsChecked(t *testing.T) {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"127.0.0.1:1"},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			t.Error("an etcd was contacted")
			return nil, errors.New("nobody there")
		})},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, cli.Close()) }()
	for says, change := range map[string]func(*Config){
		"Config.Coordinator is missing":                  func(cfg *Config) { cfg.Coordinator = nil },
		"no members":                                     func(cfg *Config) { cfg.Members = nil },
		`member "m" has no client`:                       func(cfg *Config) { cfg.Members[0].Client = nil },
		"a member without a name":                        func(cfg *Config) { cfg.Members[0].Name = "" },
		"-1 slots, want 1 to 65536":                      func(cfg *Config) { cfg.Sharding.Slots = -1 },
		"sharding by -1 segments":                        func(cfg *Config) { cfg.Sharding.Segments = -1 },
		"Config.MemberTxnOps is 19, and the least is 20": func(cfg *Config) { cfg.MemberTxnOps = 19 },
		"Config.MemberTxnOps is 1, and the least is 20":  func(cfg *Config) { cfg.MemberTxnOps = 1 },
		"Config.MemberTxnOps is negative: -1":            func(cfg *Config) { cfg.MemberTxnOps = -1 },
		"Config.MemberTimeout is negative: -1s":          func(cfg *Config) { cfg.MemberTimeout = -time.Second },
		"Config.CacheEntries is negative: -1":            func(cfg *Config) { cfg.CacheEntries = -1 },
		"Config.LogBytes is negative: -1":                func(cfg *Config) { cfg.LogBytes = -1 },
		"Config.ProgressInterval is negative: -1ms":      func(cfg *Config) { cfg.ProgressInterval = -time.Millisecond },
	} {
		cfg := Config{Coordinator: cli, Members: []Member{{Name: "m", Client: cli}}}
		change(&cfg)
		_, err := New(t.Context(), cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorAs(t, err, new(*TopologyError))
		require.ErrorContains(t, err, "metaetcd: "+says)
	}
}

func TestConfigDefaults(t *testing.T) {
	cfg := Config{Coordinator: &clientv3.Client{}}
	require.NoError(t, cfg.withDefaults())
	require.Equal(t, 128, cfg.MemberTxnOps)
	require.Equal(t, 2*time.Second, cfg.MemberTimeout)
	require.Equal(t, 65_536, cfg.CacheEntries)
	require.EqualValues(t, 64<<20, cfg.LogBytes)
	require.Equal(t, 10*time.Minute, cfg.ProgressInterval)
	require.Equal(t, Sharding{Slots: 4096}, cfg.Sharding)
	set := Config{Coordinator: cfg.Coordinator, MemberTxnOps: 20, MemberTimeout: 1, CacheEntries: 1, LogBytes: 1, ProgressInterval: 1}
	require.NoError(t, set.withDefaults())
	require.Equal(t, 20, set.MemberTxnOps)
	require.EqualValues(t, 1, set.LogBytes)
}
