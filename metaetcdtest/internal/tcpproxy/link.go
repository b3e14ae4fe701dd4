package tcpproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// readSize bounds one packet, in bytes.
	readSize = 32 << 10
	// queued bounds the packets that a delayed or cut direction holds before the sender feels back-pressure.
	queued = 4096
)

// link is one forwarded connection. Canceling its context resets both ends.
type link struct {
	proxy  *Proxy
	client *net.TCPConn
	target string

	ctx    context.Context
	cancel context.CancelFunc
}

// packet is what one read returned, and when.
type packet struct {
	data []byte
	at   time.Time
}

// run forwards both directions until both have ended or the link is reset.
func (l *link) run() {
	defer l.cancel()
	server, err := l.dial()
	if err != nil {
		reset(l.client)
		return
	}
	stop := context.AfterFunc(l.ctx, func() {
		reset(l.client)
		reset(server)
	})
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{l.client, server}, {server, l.client}} {
		packets := make(chan packet, queued)
		wg.Go(func() { l.read(way[0], packets) })
		wg.Go(func() { l.write(way[1], packets) })
	}
	wg.Wait()
	if stop() {
		_ = l.client.Close()
		_ = server.Close()
	}
}

// dial reaches the target, once bytes may pass at all.
func (l *link) dial() (*net.TCPConn, error) {
	if !l.pass() {
		return nil, l.ctx.Err()
	}
	var d net.Dialer
	conn, err := d.DialContext(l.ctx, "tcp", l.target)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// read queues what arrives until the end of the stream or the link.
func (l *link) read(from *net.TCPConn, packets chan<- packet) {
	defer close(packets)
	buf := make([]byte, readSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case packets <- packet{data: append([]byte(nil), buf[:n]...), at: time.Now()}:
			case <-l.ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write delivers packets in order, each when its delay is over and bytes may pass, and then the end of the stream.
func (l *link) write(to *net.TCPConn, packets <-chan packet) {
	for p := range packets {
		if !l.wait(p.at) || !l.pass() {
			return
		}
		if _, err := to.Write(p.data); err != nil {
			l.cancel()
			return
		}
	}
	if l.pass() {
		_ = to.CloseWrite()
	}
}

// wait returns once a packet that arrived at the given time has been delayed for long enough; false: the link has ended.
func (l *link) wait(at time.Time) bool {
	left := time.Until(at.Add(time.Duration(l.proxy.delay.Load())))
	if left <= 0 {
		return l.ctx.Err() == nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// pass returns once bytes may pass; false: the link has ended.
func (l *link) pass() bool {
	select {
	case <-l.proxy.gate():
		return l.ctx.Err() == nil
	case <-l.ctx.Done():
		return false
	}
}
