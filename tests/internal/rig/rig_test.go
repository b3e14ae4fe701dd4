package rig

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	RunRole(nil)
	os.Exit(m.Run())
}

func TestClusters(t *testing.T) {
	for how, start := range map[string]func(ServerConfig) (*Server, error){"embedded": Embed, "processes": Process} {
		for kind, run := range map[string]func(Layout) (*Cluster, error){
			"plain": Layout.Plain,
			"meta":  func(l Layout) (*Cluster, error) { return l.Meta(2) },
		} {
			t.Run(how+" "+kind, func(t *testing.T) {
				layout := Layout{Start: start, Dir: t.TempDir(), CoordinatorDir: t.TempDir()}
				c, err := run(layout)
				require.NoError(t, err)
				s, err := c.Open(t.Context())
				require.NoError(t, err)
				_, err = s.Put(t.Context(), "key", "value")
				require.NoError(t, err)
				resp, err := s.Get(t.Context(), "key")
				require.NoError(t, err)
				require.Len(t, resp.Kvs, 1)
				require.NoError(t, s.Close())
				require.NoError(t, c.Stop())
				left, err := filepath.Glob(filepath.Join(layout.Dir, "*"))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	}
}

func TestServerEndsWithItsParent(t *testing.T) {
	child, err := Spawn(roleEtcd, ServerConfig{Name: "orphan", Dir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, child.stdin.Close()) // as the kernel does when the parent is killed
	done := make(chan error, 1)
	go func() { done <- child.cmd.Wait() }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(stopTimeout):
		t.Fatal("the server goes on")
	}
}

func TestSpawnReportsAChildThatFails(t *testing.T) {
	_, err := Spawn("no such role", nil)
	require.Error(t, err)
}

func TestNumbers(t *testing.T) {
	numbers, err := Numbers("members", "1,2,4", 1)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 4}, numbers)
	for _, list := range []string{"", "1,,2", "1,0", "x"} {
		_, err := Numbers("members", list, 1)
		require.ErrorContains(t, err, "-members: ", "%q", list)
	}
}
