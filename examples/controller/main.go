// Command controller is a small but real controller on a meta cluster: users write how many instances of an app they want, and
// it creates and deletes them.
//
//	controller --coordinator 127.0.0.1:2379 --member ash=10.0.0.1:2379 --member birch=10.0.0.2:2379,10.0.0.3:2379
//
// With TLS, the same files for all connections, or others for some:
//
//	controller --cacert ca.pem --cert me.pem --key me-key.pem \
//	    --coordinator https://clock:2379 \
//	    --member ash=https://ash:2379 \
//	    --member "birch=https://birch:2379;cacert=birch-ca.pem;cert=birch.pem;key=birch-key.pem"
//
// Without --member the coordinator's endpoints are used as a plain etcd: the controller does not see the difference.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd"
)

const openTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	prefix      string
	coordinator connection
	members     map[string]connection
}

func parse(args []string) (*options, error) {
	var files tlsFiles
	var coordinator string
	var members []string
	o := &options{members: map[string]connection{}}
	fs := flag.NewFlagSet("controller", flag.ContinueOnError)
	fs.StringVar(&o.prefix, "prefix", "/controller/", "prefix of the keys that are looked after")
	fs.StringVar(&coordinator, "coordinator", "", "endpoints of the coordinator: endpoint[,endpoint…][;cacert=file][;cert=file][;key=file]")
	fs.Func("member", "name=endpoints of a member, as with --coordinator; give it once for each", func(s string) error {
		members = append(members, s)
		return nil
	})
	fs.StringVar(&files.cacert, "cacert", "", "certificates of the authorities that servers are verified with")
	fs.StringVar(&files.cert, "cert", "", "certificate to identify with")
	fs.StringVar(&files.key, "key", "", "key of the certificate")
	err := fs.Parse(args)
	if err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	// Members are parsed last: the default files may come after them.
	if o.coordinator, err = parseConnection(coordinator, files); err != nil {
		return nil, fmt.Errorf("--coordinator: %w", err)
	}
	for _, m := range members {
		name, rest, _ := strings.Cut(m, "=")
		if _, twice := o.members[name]; twice {
			return nil, fmt.Errorf("--member: %q is there twice", name)
		}
		if o.members[name], err = parseConnection(rest, files); err != nil {
			return nil, fmt.Errorf("--member %s: %w", m, err)
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	kv, watcher, closeAll, err := o.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	return NewController(kv, watcher, o.prefix, log).Run(ctx)
}

// open connects to the meta cluster, or to the plain etcd if there are no members.
func (o *options) open(ctx context.Context, log *zap.Logger) (kv clientv3.KV, w clientv3.Watcher, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var errs []error
		for _, c := range slices.Backward(closers) {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	dial := func(c connection) (*clientv3.Client, error) {
		cli, err := c.dial()
		if err == nil {
			closers = append(closers, cli.Close)
		}
		return cli, err
	}

	cfg := metaetcd.Config{Logger: log}
	if cfg.Coordinator, err = dial(o.coordinator); err != nil {
		return nil, nil, nil, err
	}
	if len(o.members) == 0 {
		return cfg.Coordinator, cfg.Coordinator, closeAll, nil
	}
	for name, conn := range o.members {
		cli, err := dial(conn)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("member %s: %w", name, err)
		}
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: name, Client: cli})
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	meta, err := metaetcd.New(ctx, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, meta.Close)
	return meta, meta, closeAll, nil
}
