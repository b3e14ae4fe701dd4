package metaetcdtest

import (
	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
)

// Option configures New and Plain.
type Option func(*options)

type options struct {
	sharding     metaetcd.Sharding
	servers      int
	coordinators int
	noFsync      bool
	adjust       []func(*embed.Config)
	clients      []func(*clientv3.Config)
	logger       *zap.Logger
}

func newOptions(opts []Option) *options {
	o := &options{servers: 1, coordinators: 1, logger: zap.NewNop()}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// WithSharding sets the sharding policy of the meta cluster; by default keys are placed one by one.
func WithSharding(s metaetcd.Sharding) Option {
	return func(o *options) { o.sharding = s }
}

// WithServers makes every member, and the etcd of Plain, a cluster of n servers; by default it is one.
func WithServers(n int) Option {
	return func(o *options) { o.servers = max(n, 1) }
}

// WithCoordinatorServers makes the coordinator a cluster of n servers; by default it is one.
func WithCoordinatorServers(n int) Option {
	return func(o *options) { o.coordinators = max(n, 1) }
}

// WithUnsafeNoFsync lets the members acknowledge writes that are not on disk yet: faster, and safe where only processes and
// not machines die, as in most tests.
func WithUnsafeNoFsync() Option {
	return func(o *options) { o.noFsync = true }
}

// WithEtcdConfig changes the configuration of every etcd server just before it is started, the coordinator's included.
// Addresses, names and directories are the package's own and must stay as they are.
func WithEtcdConfig(adjust func(*embed.Config)) Option {
	return func(o *options) { o.adjust = append(o.adjust, adjust) }
}

// WithClientConfig changes the configuration of every etcd client of a node just before it is opened. By default such a client
// reconnects within half a second: tests restart servers far more often than the world does. Without these DialOptions it
// does as clients do by default.
func WithClientConfig(adjust func(*clientv3.Config)) Option {
	return func(o *options) { o.clients = append(o.clients, adjust) }
}

// WithLogger makes the etcd servers and the meta clients log to lg; by default they are silent.
func WithLogger(lg *zap.Logger) Option {
	return func(o *options) { o.logger = lg }
}
