package main

import (
	"context"
	"errors"
	"os"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// cluster is the servers of the tour, and a plain etcd to compare with.
type cluster struct {
	coordinator *server
	members     []*server
	plain       *server
}

// startCluster starts all servers at once.
func startCluster() (_ *cluster, err error) {
	c := &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	if c.coordinator, err = newServer("coordinator", memoryDir()); err != nil {
		return nil, err
	}
	for _, name := range []string{"ash", "birch", "cedar"} {
		m, err := newServer(name, "")
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
	}
	if c.plain, err = newServer("plain", ""); err != nil {
		return nil, err
	}
	return c, each(c.servers(), (*server).start)
}

const sharedMemory = "/dev/shm"

// memoryDir is for the coordinator, which keeps nothing that could not be rebuilt.
func memoryDir() string {
	if info, err := os.Stat(sharedMemory); err == nil && info.IsDir() {
		return sharedMemory
	}
	return ""
}

func (c *cluster) servers() []*server {
	all := append([]*server{c.coordinator}, c.members...)
	if c.plain != nil {
		all = append(all, c.plain)
	}
	return all
}

func (c *cluster) remove() error { return each(c.servers(), (*server).remove) }

// each does f to all servers at once.
func each(servers []*server, f func(*server) error) error {
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// client is one user of the meta cluster, as separate from others as another process would be.
type client struct {
	*metaetcd.Client
	name     string
	borrowed []*clientv3.Client
}

// open is all that it takes to use a meta cluster.
func (c *cluster) open(ctx context.Context, name string) (_ *client, err error) {
	user := &client{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, user.Close())
		}
	}()
	var cfg metaetcd.Config
	if cfg.Coordinator, err = user.dial(ctx, c.coordinator); err != nil {
		return nil, err
	}
	for _, m := range c.members {
		cli, err := user.dial(ctx, m)
		if err != nil {
			return nil, err
		}
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: m.name, Client: cli})
	}
	user.Client, err = metaetcd.New(ctx, cfg)
	return user, err
}

func (u *client) dial(ctx context.Context, s *server) (*clientv3.Client, error) {
	cli, err := s.dial(ctx)
	if err == nil {
		u.borrowed = append(u.borrowed, cli)
	}
	return cli, err
}

// Close closes the meta cluster's client and then the etcd clients that it borrowed. It may be called again.
func (u *client) Close() error {
	var errs []error
	if u.Client != nil {
		errs = append(errs, u.Client.Close())
	}
	for _, cli := range u.borrowed {
		errs = append(errs, cli.Close())
	}
	u.Client, u.borrowed = nil, nil
	return errors.Join(errs...)
}
