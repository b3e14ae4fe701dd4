package topology

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of Error, for errors.Is.
var (
	ErrConfig             = errors.New("the configuration is invalid")
	ErrSameCluster        = errors.New("the etcd cluster is given twice (clusters need an --initial-cluster-token each)")
	ErrMissingMember      = errors.New("the member is missing from the configuration")
	ErrUnknownMember      = errors.New("the member is not part of the meta cluster")
	ErrRenamedMember      = errors.New("the member is recorded under another name")
	ErrSwappedMember      = errors.New("the client leads to another member")
	ErrForeignMember      = errors.New("the member belongs to another meta cluster")
	ErrLostMember         = errors.New("the member has lost its data")
	ErrNotEmpty           = errors.New("holds data that is not metaetcd's")
	ErrSlots              = errors.New("the slot count differs")
	ErrPolicy             = errors.New("the sharding policy differs")
	ErrWrongCoordinator   = errors.New("the coordinator is another etcd cluster than the recorded one")
	ErrForeignCoordinator = errors.New("the coordinator serves another meta cluster")
	ErrVersion            = errors.New("the etcd is too old")
	ErrFormat             = errors.New("its records have the format of another version of metaetcd, which this one cannot read")
	ErrNumbers            = errors.New("the members' topology records number the members differently")
)

var errCoordinatorNotEmpty = fmt.Errorf("the coordinator %w", ErrNotEmpty)

// Error says why a meta cluster cannot be opened with a configuration. Nothing was written, unless a process with
// another configuration was creating a meta cluster from the same etcds at the same time.
type Error struct {
	Kind      error  // one of the errors above: errors.Is finds it
	Member    string // the member it is about; empty: the coordinator, or the configuration as a whole
	Want, Got string // recorded, or demanded, and found; empty where the kind says it all
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("metaetcd: ")
	if e.Member != "" {
		b.WriteString("member " + e.Member + ": ")
	}
	if errors.Is(e.Kind, ErrConfig) && e.Got != "" {
		b.WriteString(e.Got) // what is wrong with it
		return b.String()
	}
	b.WriteString(e.Kind.Error())
	if e.Want != "" {
		b.WriteString(": want " + e.Want)
	}
	if e.Got != "" {
		b.WriteString(": got " + e.Got)
	}
	return b.String()
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }
