package metaetcdtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	// stopTimeout is what a server has for ending in order. What it has acknowledged outlives a kill as well.
	stopTimeout = 10 * time.Second
	// pollInterval is how often a server that starts is asked whether it serves.
	pollInterval = 50 * time.Millisecond
)

// process is a server that runs as a process of its own, of any version. It takes from its configuration what every version has
// a flag for.
type process struct {
	cmd          *exec.Cmd
	client, peer string
	serves       chan struct{}
	failed       chan error    // holds the error until somebody asks
	gone         chan struct{} // closed when the process has ended
	asked        chan struct{} // closed when nobody waits any more for it to serve
	cli          *clientv3.Client
}

func startProcess(binary string, cfg *embed.Config) (instance, error) {
	client, err := freeAddr()
	if err != nil {
		return nil, err
	}
	peer, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{client}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		return nil, err
	}
	p := &process{
		cmd: exec.Command(binary, flags(cfg, client, peer)...), client: client, peer: peer, cli: cli,
		serves: make(chan struct{}), failed: make(chan error, 1), gone: make(chan struct{}), asked: make(chan struct{}),
	}
	p.cmd.SysProcAttr = endWithParent()
	p.cmd.Env = append(p.cmd.Environ(), serveEnv+"=1")
	var last tail
	p.cmd.Stderr = &last
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	go func() {
		p.failed <- fmt.Errorf("%s: %w\n%s", binary, p.cmd.Wait(), last)
		close(p.gone)
	}()
	go p.waitReady()
	return p, nil
}

// tail keeps the end of what is written to it.
type tail []byte

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-tailBytes):]
	return len(p), nil
}

// Ports of servers are below those that the system gives to whoever asks for any.
const (
	firstPort = 10_000
	lastPort  = 32_767
)

// freeAddr is an address that nobody listens on, and that nobody is likely to take before the server does.
func freeAddr() (string, error) {
	var last error
	for range 100 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort))))
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
		last = err
	}
	return "", last
}

func flags(cfg *embed.Config, client, peer string) []string {
	args := []string{
		"--name=" + cfg.Name,
		"--data-dir=" + cfg.Dir,
		"--listen-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer,
		"--advertise-client-urls=" + join(cfg.AdvertiseClientUrls),
		"--initial-advertise-peer-urls=" + join(cfg.AdvertisePeerUrls),
		"--initial-cluster=" + cfg.InitialCluster,
		"--initial-cluster-token=" + cfg.InitialClusterToken,
		"--enable-grpc-gateway=" + strconv.FormatBool(cfg.EnableGRPCGateway),
		"--unsafe-no-fsync=" + strconv.FormatBool(cfg.UnsafeNoFsync),
		"--quota-backend-bytes=" + strconv.FormatInt(cfg.QuotaBackendBytes, 10),
		"--heartbeat-interval=" + strconv.FormatUint(uint64(cfg.TickMs), 10),
		"--election-timeout=" + strconv.FormatUint(uint64(cfg.ElectionMs), 10),
		"--max-txn-ops=" + strconv.FormatUint(uint64(cfg.MaxTxnOps), 10),
		"--max-request-bytes=" + strconv.FormatUint(uint64(cfg.MaxRequestBytes), 10),
		"--snapshot-count=" + strconv.FormatUint(cfg.SnapshotCount, 10),
		"--log-level=error",
	}
	if cfg.AutoCompactionRetention != "" {
		args = append(args, "--auto-compaction-mode="+cfg.AutoCompactionMode, "--auto-compaction-retention="+cfg.AutoCompactionRetention)
	}
	return args
}

func join(urls []url.URL) string {
	var list []string
	for _, u := range urls {
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

// waitReady asks until the server answers a linearizable read, or that it would answer to a user: then it has a leader, and has
// applied what its log holds.
func (p *process) waitReady() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-p.gone:
		case <-p.asked:
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		p.cli.ActiveConnection().ResetConnectBackoff()
		if _, err := p.cli.Get(ctx, "\x00", clientv3.WithCountOnly()); err == nil || errors.Is(err, rpctypes.ErrUserEmpty) {
			close(p.serves)
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (p *process) addrs() (client, peer string) { return p.client, p.peer }
func (p *process) ready() <-chan struct{}       { return p.serves }
func (p *process) ended() <-chan error          { return p.failed }

func (p *process) leads() bool {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	status, err := p.cli.Status(ctx, p.client)
	return err == nil && status.Leader == status.Header.MemberId
}

func (p *process) stop() {
	_ = thaw(p.cmd.Process)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.await()
}

// kill ends the process as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.await()
}

// await returns when the process has ended, and frees what belongs to it.
func (p *process) await() {
	close(p.asked)
	<-p.gone
	_ = p.cli.Close()
}
