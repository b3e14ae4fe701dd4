package metaetcd_test

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd"
)

// The kind says what is wrong, and the fields what was expected.
func ExampleTopologyError() {
	clock, ash := dial("127.0.0.1:2379"), dial("127.0.0.1:3379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: clock, Members: []metaetcd.Member{{Name: "ash", Client: ash}}})
	check(err)
	check(c.Close())

	_, err = metaetcd.New(ctx, metaetcd.Config{Coordinator: clock, Members: []metaetcd.Member{{Name: "oak", Client: ash}}})
	if refused, ok := errors.AsType[*metaetcd.TopologyError](err); ok {
		fmt.Println(errors.Is(err, metaetcd.ErrRenamedMember), refused.Member, refused.Want)
	}
	// Output: true oak ash
}

// A member that is full refuses what is written to it. The error names it, and holds etcd's own.
func ExampleMemberError() {
	ash := dial("127.0.0.1:3379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: dial("127.0.0.1:2379"), Members: []metaetcd.Member{{Name: "ash", Client: ash}}})
	check(err)
	defer c.Close()
	full := etcds[ash]
	full.set(func() { full.full = true })
	defer full.set(func() { full.full = false })

	_, err = c.Put(ctx, "/k", "v")
	if e, ok := errors.AsType[*metaetcd.MemberError](err); ok {
		fmt.Println(e.Member, errors.Is(err, rpctypes.ErrNoSpace))
	}
	// Output: ash true
}

// Another program has kept a counter on a member while no process of the meta cluster was there. New refuses most such members; reads find
// what it has not noticed.
func ExampleForeignKeyError() {
	ash := dial("127.0.0.1:3379")
	cfg := metaetcd.Config{Coordinator: dial("127.0.0.1:2379"), Members: []metaetcd.Member{{Name: "ash", Client: ash}}}
	c, err := metaetcd.New(ctx, cfg)
	check(err)
	check(c.Close())
	_, err = ash.Put(ctx, "/counter", "\x00\x00\x00\x00\x00\x00\x00\x07")
	check(err)

	c, err = metaetcd.New(ctx, cfg)
	check(err)
	defer c.Close()
	_, err = c.Get(ctx, "/counter")
	if foreign, ok := errors.AsType[*metaetcd.ForeignKeyError](err); ok {
		fmt.Printf("delete %s on %s\n", foreign.Key, foreign.Member)
	}
	// Output: delete /counter on ash
}

// The coordinator's addresses lead to another etcd cluster.
func ExampleWrongCoordinatorError() {
	clock := dial("127.0.0.1:2379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: clock, Members: []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}}})
	check(err)
	defer c.Close()
	moved := etcds[clock]
	moved.set(func() { moved.other = 12345 })

	_, err = c.Revision(ctx)
	if wrong, ok := errors.AsType[*metaetcd.WrongCoordinatorError](err); ok {
		fmt.Println(wrong.Got)
	}
	// Output: 12345
}

// The coordinator has got the data of another one: somebody has restored a backup to the wrong machine.
func ExampleForeignCoordinatorError() {
	clock, another := dial("127.0.0.1:2379"), dial("127.0.0.1:5379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: clock, Members: []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}}})
	check(err)
	defer c.Close()
	other, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: another, Members: []metaetcd.Member{{Name: "oak", Client: dial("127.0.0.1:4379")}}})
	check(err)
	check(other.Close())
	etcds[clock].Restore(etcds[another].Save())

	_, err = c.Revision(ctx)
	_, ok := errors.AsType[*metaetcd.ForeignCoordinatorError](err)
	fmt.Println(ok)
	// Output: true
}

// Names that begin with byte 0 are metaetcd's own.
func Example_reservedKey() {
	c := open()
	defer c.Close()
	_, err := c.Put(ctx, "\x00mine", "v")
	fmt.Println(errors.Is(err, metaetcd.ErrReservedKey))
	// Output: true
}

// The client is closed while a member has a write and does not answer.
func Example_unknownOutcome() {
	ash := dial("127.0.0.1:3379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: dial("127.0.0.1:2379"), Members: []metaetcd.Member{{Name: "ash", Client: ash}}})
	check(err)
	silent := etcds[ash]
	silent.set(func() { silent.held = true })

	ended := make(chan error)
	go func() {
		_, err := c.Put(ctx, "/k", "v")
		ended <- err
	}()
	<-silent.asked
	check(c.Close())
	fmt.Println(errors.Is(<-ended, metaetcd.ErrUnknownOutcome))
	// Output: true
}
