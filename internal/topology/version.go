package topology

import (
	"context"
	"fmt"

	"github.com/metaetcd/metaetcd/internal/wire"
)

// Version asks one server of an etcd cluster for its version. It returns an empty one where the server does not tell.
type Version func(context.Context) (string, error)

// oldest is the oldest version of etcd that is supported. Older ones were never tested.
var oldest = struct{ major, minor int }{3, 5}

// requireVersion refuses an etcd cluster that is too old; member is empty for the coordinator.
func requireVersion(ctx context.Context, member string, version Version) error {
	if version == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	got, err := version(ctx)
	if err != nil {
		return wire.Name(member, err)
	}
	// One that is not told, or not a number, is not too old.
	var major, minor int
	if _, err := fmt.Sscanf(got, "%d.%d", &major, &minor); err != nil {
		return nil
	}
	if major > oldest.major || major == oldest.major && minor >= oldest.minor {
		return nil
	}
	return &Error{Kind: ErrVersion, Member: member, Want: fmt.Sprintf("%d.%d or later", oldest.major, oldest.minor), Got: got}
}
