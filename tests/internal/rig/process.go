package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// roleEnv names what a re-executed benchmark binary is to be. Its configuration is the first line of standard input, and the
// rest of standard input is its parent's life: a child ends when it ends, however that happens.
const roleEnv = "METAETCD_BENCH_ROLE"

const roleEtcd = "etcd"

const stopTimeout = 30 * time.Second

// A Role is what a child process does: it gets its configuration and a context that ends with the parent's interest. The
// answer, one line, goes to the parent; cleanup runs when the context has ended.
type Role func(ctx context.Context, config []byte) (answer string, cleanup func() error, err error)

// RunRole must be the first call of main. In a child process it does not return.
func RunRole(roles map[string]Role) {
	name := os.Getenv(roleEnv)
	if name == "" {
		return
	}
	role := roles[name]
	if name == roleEtcd {
		role = etcdRole
	}
	if err := runRole(role); err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", filepath.Base(os.Args[0]), name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runRole(role Role) error {
	if role == nil {
		return errors.New("no such role")
	}
	in := bufio.NewReader(os.Stdin)
	config, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	answer, cleanup, err := role(ctx, config)
	if err != nil {
		return err
	}
	fmt.Println(answer)
	<-ctx.Done()
	return cleanup()
}

func etcdRole(_ context.Context, config []byte) (string, func() error, error) {
	var cfg ServerConfig
	if err := json.Unmarshal(config, &cfg); err != nil {
		return "", nil, err
	}
	if cfg.Cgroup != "" {
		// 0 means the process that writes it.
		if err := os.WriteFile(filepath.Join(cfg.Cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			return "", nil, fmt.Errorf("join the control group: %w", err)
		}
		cfg.Cgroup = ""
	}
	s, err := Embed(cfg)
	if err != nil {
		return "", nil, err
	}
	return s.Endpoint, s.Stop, nil
}

// Child is a re-execution of this binary.
type Child struct {
	Answer string // the line that its role returned
	cmd    *exec.Cmd
	stdin  io.Closer
}

// Spawn starts this binary again in the given role and waits for its answer.
func Spawn(role string, config any) (*Child, error) {
	line, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &Child{cmd: cmd, stdin: stdin}
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	answer, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process %s ended without an answer", role), c.Stop())
	}
	c.Answer = strings.TrimSpace(answer)
	return c, nil
}

// Stop asks the child to end, and makes it end.
func (c *Child) Stop() error {
	_ = c.stdin.Close()
	kill := time.AfterFunc(stopTimeout, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	return c.cmd.Wait()
}

// Kill ends the child without a word to anybody, by SIGKILL, and waits until it is gone.
func (c *Child) Kill() error {
	err := c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	return err
}

// Process starts a server as a process of its own and waits until it serves.
func Process(cfg ServerConfig) (*Server, error) {
	child, err := Spawn(roleEtcd, cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd %s: %w", cfg.Name, err)
	}
	return &Server{Endpoint: child.Answer, PID: child.cmd.Process.Pid, stop: child.Stop}, nil
}
