package tcpproxy_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/metaetcdtest/internal/tcpproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is how long nothing may arrive while the proxy is cut.
const quiet = 100 * time.Millisecond

// patience bounds waits that must succeed. Only a failure takes that long.
const patience = time.Minute

// echo starts a server that sends everything back, and a proxy to it.
func echo(t *testing.T) *tcpproxy.Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	p, err := tcpproxy.Listen()
	require.NoError(t, err)
	p.SetTarget(ln.Addr().String())
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, ln.Close())
		wg.Wait()
	})
	return p
}

func dial(t *testing.T, p *tcpproxy.Proxy) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// requireRefused checks that a new connection is reset, however far it got.
func requireRefused(t *testing.T, p *tcpproxy.Proxy) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// roundTrip sends a byte and returns how long it took to come back.
func roundTrip(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	_, err := conn.Write([]byte{1})
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(start.Add(patience)))
	_, err = io.ReadFull(conn, make([]byte, 1))
	require.NoError(t, err)
	return time.Since(start)
}

func TestForwardsEverythingInOrder(t *testing.T) {
	conn := dial(t, echo(t))
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
}

func TestDelayIsAddedOncePerDirection(t *testing.T) {
	const delay = 200 * time.Millisecond
	p := echo(t)
	conn := dial(t, p)
	roundTrip(t, conn)
	p.SetDelay(delay)
	require.GreaterOrEqual(t, roundTrip(t, conn), 2*delay)

	// Packets on the way together are delayed together, not one after the other.
	start := time.Now()
	const packets = 20
	for range packets {
		_, err := conn.Write([]byte{1})
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
	}
	_, err := io.ReadFull(conn, make([]byte, packets))
	require.NoError(t, err)
	require.Less(t, time.Since(start), packets*delay)
}

func TestCutHoldsAndHealDelivers(t *testing.T) {
	p := echo(t)
	conn := dial(t, p)
	roundTrip(t, conn)

	p.Cut()
	p.Cut()
	fresh := dial(t, p)
	for _, c := range []net.Conn{conn, fresh} {
		_, err := c.Write([]byte{1})
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(quiet)))
		_, err = c.Read(make([]byte, 1))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
	}

	p.Heal()
	p.Heal()
	for _, c := range []net.Conn{conn, fresh} {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err)
		roundTrip(t, c)
	}
}

func TestRefuseResets(t *testing.T) {
	p := echo(t)
	conn := dial(t, p)
	roundTrip(t, conn)

	p.Refuse()
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	requireRefused(t, p)

	p.Heal()
	roundTrip(t, dial(t, p))
}

func TestRefuseDropsWhatACutHeldBack(t *testing.T) {
	p := echo(t)
	conn := dial(t, p)
	roundTrip(t, conn)
	p.Cut()
	_, err := conn.Write([]byte{1})
	require.NoError(t, err)
	p.Refuse()
	p.Heal()
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
}

func TestTargetMoves(t *testing.T) {
	p, q := echo(t), echo(t)
	target := p.Target()
	conn := dial(t, p)
	roundTrip(t, conn)

	p.SetTarget("")
	requireRefused(t, p)

	p.SetTarget(q.Target())
	require.NotEqual(t, target, p.Target())
	roundTrip(t, dial(t, p))
}
