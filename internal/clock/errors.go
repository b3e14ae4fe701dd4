package clock

import (
	"errors"
	"fmt"

	"github.com/metaetcd/metaetcd/internal/record"
)

// ErrClosed ends whatever waits for a clock that was closed.
var ErrClosed = errors.New("metaetcd: the clock is closed")

// errNotOpen is what Take and Read answer before Open has succeeded.
var errNotOpen = errors.New("metaetcd: the clock is not open")

// errStartOver ends an attempt to rebuild that another process or another loss of the coordinator overtook.
var errStartOver = errors.New("metaetcd: rebuilding the clock starts over")

// WrongCoordinatorError says that the etcd which answers as the coordinator is another cluster than the one that was
// recorded when the meta cluster was created. It is never taken for a coordinator that lost its data.
type WrongCoordinatorError struct {
	Want, Got uint64 // etcd cluster ids
}

func (e *WrongCoordinatorError) Error() string {
	return fmt.Sprintf("metaetcd: wrong coordinator: etcd cluster id %x, recorded is %x", e.Got, e.Want)
}

// ForeignCoordinatorError says that the coordinator is used by somebody else: it holds a key that is not metaetcd's,
// or the clock of another meta cluster.
type ForeignCoordinatorError struct {
	Key     []byte // the first foreign key; nil: none
	Cluster uint64 // the meta cluster that the clock belongs to; 0: unknown
}

func (e *ForeignCoordinatorError) Error() string {
	if e.Key != nil {
		return fmt.Sprintf("metaetcd: the coordinator is not metaetcd's alone: it holds the key %q", e.Key)
	}
	return fmt.Sprintf("metaetcd: the coordinator serves another meta cluster: %x", e.Cluster)
}

// permanent says whether an error will not go away by trying again.
func permanent(err error) bool {
	_, wrong := errors.AsType[*WrongCoordinatorError](err)
	_, foreign := errors.AsType[*ForeignCoordinatorError](err)
	return wrong || foreign || errors.Is(err, record.ErrMalformed) || errors.Is(err, errNotOpen)
}
