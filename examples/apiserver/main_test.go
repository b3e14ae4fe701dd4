package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// asProgram makes the test binary the program.
const asProgram = "METAETCD_APISERVER"

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

// program is a running apiserver.
type program struct {
	*exec.Cmd
	lines  *bufio.Scanner
	stderr strings.Builder
}

// launch starts the program with a directory for what is temporary.
func launch(t *testing.T, temporary string, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(os.Args[0], args...)}
	p.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+temporary)
	p.Stderr = &p.stderr
	_, err := p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	p.lines = bufio.NewScanner(out)
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}

// serves waits until the program says where it serves and that it is ready, and returns what the file with its credentials says.
func (p *program) serves(t *testing.T, kubeconfig string) *rest.Config {
	t.Helper()
	require.True(t, p.lines.Scan(), "it says nothing")
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("serving at %s; kubectl --kubeconfig %s get crds", config.Host, kubeconfig), p.lines.Text())
	info, err := os.Stat(kubeconfig)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077, "others can read the credentials")
	require.Eventually(t, func() bool { return get(config, "/readyz") == nil }, patience, pause, "not ready")
	return config
}

// stops interrupts the program, which ends in peace.
func (p *program) stops(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Process.Signal(os.Interrupt))
	done := make(chan error, 1)
	go func() { done <- p.Wait() }()
	select {
	case err := <-done:
		require.NoError(t, err, p.stderr.String())
	case <-time.After(patience):
		require.FailNow(t, "it does not end")
	}
}

// TestProgram is "go run .", and kubectl with the file that it names.
func TestProgram(t *testing.T) {
	temporary := t.TempDir()
	p := launch(t, temporary, "-listen", "127.0.0.1:0", "-members", "2")
	kubeconfig := filepath.Join(temporary, "metaetcd.kubeconfig")
	config := p.serves(t, kubeconfig)
	define(t, config)
	cli, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	require.NoError(t, create(t.Context(), cli, widget(0)))
	require.Len(t, listAll(t, cli), 1)
	stranger := rest.CopyConfig(config)
	stranger.BearerToken = "guessed"
	require.True(t, apierrors.IsUnauthorized(get(stranger, "/readyz")))
	p.stops(t)
	require.Error(t, get(config, "/readyz"))
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Len(t, left, 1, "the file with the credentials, and nothing else, stays")
}

// TestProgramKeepsItsData: what is in -data-dir is there again, for new credentials in the file of -kubeconfig.
func TestProgramKeepsItsData(t *testing.T) {
	data, kubeconfig := t.TempDir(), filepath.Join(t.TempDir(), "own.kubeconfig")
	args := []string{"-listen", "127.0.0.1:0", "-data-dir", data, "-kubeconfig", kubeconfig}
	var before map[string]string
	var token string
	for run := range 2 {
		p := launch(t, t.TempDir(), args...)
		config := p.serves(t, kubeconfig)
		cli, err := dynamic.NewForConfig(config)
		require.NoError(t, err)
		if run == 0 {
			define(t, config)
			require.NoError(t, create(t.Context(), cli, widget(0)))
			before, token = listAll(t, cli), config.BearerToken
		} else {
			require.NotEqual(t, token, config.BearerToken)
			require.Eventually(t, func() bool { // the definition is served a little after the server is ready
				_, err := cli.Resource(widgets).List(t.Context(), metav1.ListOptions{})
				return err == nil
			}, patience, pause)
			require.Equal(t, before, listAll(t, cli))
		}
		p.stops(t)
	}
}

func TestProgramRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"members without a coordinator": {[]string{"-member", "ash=127.0.0.1:1"}, "go together"},
		"a stray argument":              {[]string{"serve"}, "unknown argument"},
		"TLS for its own etcds":         {[]string{"-cacert", "ca.pem"}, "-coordinator and -member"},
		"a member without a name":       {[]string{"-coordinator", "127.0.0.1:1", "-member", "127.0.0.1:1"}, "name=endpoint"},
		"to be reached by others":       {[]string{"-listen", "0.0.0.0:0", "-coordinator", "127.0.0.1:1", "-member", "ash=127.0.0.1:1"}, "loopback"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-kubeconfig", filepath.Join(t.TempDir(), "kubeconfig")}, tt.args...)
			require.ErrorContains(t, run(t.Context(), args), tt.want)
			require.NoFileExists(t, args[1])
		})
	}
}
