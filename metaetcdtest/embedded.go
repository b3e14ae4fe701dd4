package metaetcdtest

import (
	"go.etcd.io/etcd/server/v3/embed"
)

// instance is a running etcd server.
type instance interface {
	addrs() (client, peer string)
	ready() <-chan struct{} // closed when it serves
	ended() <-chan error    // tells why it ended by itself
	leads() bool
	stop() // waits until it has ended
}

// embedded is a server in this process.
type embedded struct{ etcd *embed.Etcd }

func startEmbedded(cfg *embed.Config) (instance, error) {
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, err
	}
	return embedded{etcd}, nil
}

func (e embedded) addrs() (client, peer string) {
	return e.etcd.Clients[0].Addr().String(), e.etcd.Peers[0].Addr().String()
}

func (e embedded) ready() <-chan struct{} { return e.etcd.Server.ReadyNotify() }
func (e embedded) ended() <-chan error    { return e.etcd.Err() }
func (e embedded) leads() bool            { return e.etcd.Server.Leader() == e.etcd.Server.MemberID() }

// stop does not wait for a server that never became ready.
func (e embedded) stop() {
	select {
	case <-e.etcd.Server.ReadyNotify():
	default:
		e.etcd.Server.Stop()
	}
	e.etcd.Close()
}
