// Package tcpproxy forwards TCP connections to one target and misbehaves on demand: it delays what passes, swallows it, or
// resets every connection.
package tcpproxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy listens on a loopback port of its own, from Listen to Close, and forwards every connection to the target of the
// moment. Its address never changes, so that what it points to may come and go.
//
// All methods are safe for concurrent use.
type Proxy struct {
	ln    net.Listener
	delay atomic.Int64 // nanoseconds, each way

	wg sync.WaitGroup // the acceptor and every connection

	mu      sync.Mutex
	target  string // empty: nothing to forward to, connections are refused
	refuse  bool
	flowing chan struct{} // closed while bytes may pass
	links   map[*link]struct{}
}

// Listen returns a proxy on a free loopback port. Until SetTarget is called it refuses all connections.
func Listen() (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, flowing: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.flowing)
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the proxy's own address, host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Target is the address that new connections are forwarded to; empty when there is none.
func (p *Proxy) Target() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// SetTarget names the address that connections are forwarded to from now on and resets the present ones. With an empty
// address new connections are reset as well.
func (p *Proxy) SetTarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
	p.resetLocked()
}

// SetDelay makes everything that arrives from now on, in either direction, wait for d before it is passed on.
func (p *Proxy) SetDelay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut lets nothing pass any more, in silence: connections stay open, new ones are accepted and hang.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	if p.flowsLocked() {
		p.flowing = make(chan struct{})
	}
}

// Refuse resets every connection, with what was under way in it, and every new one until Heal.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
	p.resetLocked()
}

// Heal ends Cut and Refuse. What a Cut held back is delivered now.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	if !p.flowsLocked() {
		close(p.flowing)
	}
}

// Close resets every connection, stops listening and waits for all goroutines of the proxy.
func (p *Proxy) Close() error {
	err := p.ln.Close()
	p.mu.Lock()
	p.refuse = true
	p.resetLocked()
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

func (p *Proxy) flowsLocked() bool {
	select {
	case <-p.flowing:
		return true
	default:
		return false
	}
}

func (p *Proxy) resetLocked() {
	for l := range p.links {
		l.cancel()
	}
}

// gate is closed as soon as bytes may pass.
func (p *Proxy) gate() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flowing
}

func (p *Proxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		client := conn.(*net.TCPConn)
		l := p.admit(client)
		if l == nil {
			reset(client)
			continue
		}
		p.wg.Go(func() {
			l.run()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// admit registers a new connection; nil means that it is to be refused.
func (p *Proxy) admit(client *net.TCPConn) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.target == "" {
		return nil
	}
	l := &link{proxy: p, client: client, target: p.target}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	p.links[l] = struct{}{}
	return l
}

// reset closes a connection the hard way: the peer sees a reset instead of an end of file.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
