package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// asProgram makes the test binary the program.
const asProgram = "METAETCD_ELECTION"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		go func() { // it also ends with its parent
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const patience = 2 * time.Minute

// process is a running program, and the lines that it prints.
type process struct {
	*exec.Cmd
	lines chan string
}

func launch(t *testing.T, cluster *metaetcdtest.Cluster, name string) *process {
	t.Helper()
	args := []string{"--name", name, "--coordinator", cluster.Coordinator.Endpoint()}
	for _, m := range cluster.Members {
		args = append(args, "--member", m.Name()+"="+m.Endpoint())
	}
	p := &process{Cmd: exec.Command(os.Args[0], args...), lines: make(chan string, 16)}
	p.Env = append(os.Environ(), asProgram+"=1")
	p.Stderr = os.Stderr
	_, err := p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-read
		_ = p.Wait()
	})
	return p
}

// says waits for the next line.
func (p *process) says(t *testing.T, line string) {
	t.Helper()
	select {
	case got := <-p.lines:
		require.Equal(t, line, got)
	case <-time.After(patience):
		require.FailNow(t, "it says nothing", "want %q", line)
	}
}

// TestLeaderKilled: the leader is killed, and the other process takes over.
func TestLeaderKilled(t *testing.T) {
	cluster := metaetcdtest.New(t, 2, metaetcdtest.WithUnsafeNoFsync())
	one := launch(t, cluster, "one")
	one.says(t, "one campaigns")
	one.says(t, "one leads")
	two := launch(t, cluster, "two")
	two.says(t, "two campaigns")
	require.NoError(t, one.Process.Kill())
	two.says(t, "two leads")

	// One that ends in peace leaves at once.
	three := launch(t, cluster, "three")
	three.says(t, "three campaigns")
	require.NoError(t, two.Process.Signal(os.Interrupt))
	two.says(t, "two does not lead any more")
	three.says(t, "three leads")
}

func TestParseErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"no name":        {"--coordinator", "c:2379", "--member", "ash=a:2379"},
		"no coordinator": {"--name", "one", "--member", "ash=a:2379"},
		"no members":     {"--name", "one", "--coordinator", "c:2379"},
		"no endpoint":    {"--name", "one", "--coordinator", "c:2379", "--member", "ash"},
	} {
		_, err := parse(args)
		require.Error(t, err, name)
	}
}
