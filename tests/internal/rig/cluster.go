package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Layout says how servers are started and where they keep their data.
type Layout struct {
	Start          func(ServerConfig) (*Server, error) // Embed or Process
	Dir            string                              // of members and plain etcds; empty: the system's temporary directory
	CoordinatorDir string                              // a tmpfs: the coordinator's writes are not meant to cost anything
	Cgroup         func(name string) (string, error)   // control groups for members and plain etcds; nil: none
	MaxTxnOps      uint                                // --max-txn-ops of members and plain etcds; 0: etcd's default
}

// Cluster is the running servers of a target.
type Cluster struct {
	Target
	servers []*Server
	dirs    []string
}

// Plain starts one etcd.
func (l Layout) Plain() (*Cluster, error) { return l.run("", "plain") }

// Meta starts a coordinator and the given number of members.
func (l Layout) Meta(members int) (*Cluster, error) {
	return l.run("coordinator", MemberNames(members)...)
}

// MemberNames are the names of so many members.
func MemberNames(members int) []string {
	names := make([]string, members)
	for i := range names {
		names[i] = fmt.Sprintf("member-%d", i)
	}
	return names
}

func (l Layout) run(coordinator string, names ...string) (_ *Cluster, err error) {
	c := &Cluster{Target: Target{MaxTxnOps: l.MaxTxnOps}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if coordinator != "" {
		if c.Coordinator, err = c.start(l.Start, l.CoordinatorDir, ServerConfig{Name: coordinator}); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		cfg := ServerConfig{Name: name, MaxTxnOps: l.MaxTxnOps}
		if l.Cgroup != nil {
			if cfg.Cgroup, err = l.Cgroup(name); err != nil {
				return nil, err
			}
		}
		endpoint, err := c.start(l.Start, l.Dir, cfg)
		if err != nil {
			return nil, err
		}
		c.Members = append(c.Members, Address{Name: name, Endpoint: endpoint})
	}
	return c, nil
}

// start runs a server in a new directory below parent and returns its endpoint.
func (c *Cluster) start(start func(ServerConfig) (*Server, error), parent string, cfg ServerConfig) (string, error) {
	dir, err := os.MkdirTemp(parent, "metaetcd-bench-")
	if err != nil {
		return "", err
	}
	c.dirs = append(c.dirs, dir)
	cfg.Dir = filepath.Join(dir, cfg.Name)
	s, err := start(cfg)
	if err != nil {
		return "", err
	}
	c.servers = append(c.servers, s)
	return s.Endpoint, nil
}

// Lessor is the server that keeps the timers of leases: the coordinator, or the plain etcd.
func (c *Cluster) Lessor() *Server { return c.servers[0] }

// Member is the server of the i-th member of a meta cluster.
func (c *Cluster) Member(i int) *Server { return c.servers[1+i] }

// Stop ends the servers and removes their data.
func (c *Cluster) Stop() error {
	errs := make([]error, len(c.servers))
	var wg sync.WaitGroup
	for i, s := range c.servers {
		wg.Go(func() { errs[i] = s.Stop() })
	}
	wg.Wait()
	for _, dir := range c.dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
