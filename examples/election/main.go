// Command election lets several processes choose one of them as their leader, on a meta cluster, with the recipe of etcd's own
// client. Start it twice, kill the one that leads, and the other takes over when the lease of the dead one has ended:
//
//	election --name one --coordinator 127.0.0.1:2379 --member ash=127.0.0.1:12379 --member birch=127.0.0.1:22379
//	election --name two …
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd"
)

const openTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "election:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	name        string
	ttl         int
	coordinator string
	members     map[string]string // endpoints by name
}

func parse(args []string) (*options, error) {
	o := &options{members: map[string]string{}}
	fs := flag.NewFlagSet("election", flag.ContinueOnError)
	fs.StringVar(&o.name, "name", "", "what this process calls itself")
	fs.IntVar(&o.ttl, "ttl", 5, "seconds without a sign of life after which a leader counts as dead")
	fs.StringVar(&o.coordinator, "coordinator", "", "endpoint of the coordinator")
	fs.Func("member", "name=endpoint of a member; give it once for each", func(s string) error {
		name, endpoint, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want name=endpoint")
		}
		o.members[name] = endpoint
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if o.name == "" || o.coordinator == "" || len(o.members) == 0 {
		return nil, errors.New("--name, --coordinator and --member are needed")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	cli, closeAll, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for {
		if err := lead(ctx, cli, o, out); err != nil {
			return err
		}
	}
}

// lead campaigns, and returns when it has led and its session has ended, or with ctx.
func lead(ctx context.Context, cli *clientv3.Client, o *options, out io.Writer) error {
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(o.ttl), concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() {
		// So that the others need not wait for the lease to end. ctx may be over.
		s.Orphan()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(o.ttl)*time.Second)
		defer cancel()
		_, _ = cli.Revoke(last, s.Lease())
	}()
	e := concurrency.NewElection(s, "/election")
	fmt.Fprintln(out, o.name, "campaigns")
	if err := e.Campaign(s.Ctx(), o.name); err != nil { //nolint:contextcheck // it ends with ctx and with the session
		return errors.Join(ctx.Err(), ignore(err, context.Canceled)) // without ctx's end, it was the session's
	}
	fmt.Fprintln(out, o.name, "leads")
	<-s.Done()
	fmt.Fprintln(out, o.name, "does not lead any more")
	return ctx.Err()
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// open opens the meta cluster and installs it in an ordinary client, which the recipes of etcd want.
func (o *options) open(ctx context.Context) (_ *clientv3.Client, closeAll func() error, err error) {
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
	dial := func(endpoint string) (*clientv3.Client, error) {
		cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second})
		if err == nil {
			closers = append(closers, func() error { return ignore(cli.Close(), context.Canceled) })
		}
		return cli, err
	}
	var cfg metaetcd.Config
	if cfg.Coordinator, err = dial(o.coordinator); err != nil {
		return nil, nil, err
	}
	for name, endpoint := range o.members {
		cli, err := dial(endpoint)
		if err != nil {
			return nil, nil, err
		}
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: name, Client: cli})
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	meta, err := metaetcd.New(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, meta.Close)
	cli, err := dial(o.coordinator) // any server will do: it is asked for nothing
	if err != nil {
		return nil, nil, err
	}
	meta.Install(cli) //nolint:contextcheck // what is installed lives as long as its client
	return cli, closeAll, nil
}
