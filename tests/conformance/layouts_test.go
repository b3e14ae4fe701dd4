package conformance

import (
	"strings"

	"github.com/metaetcd/metaetcd"
)

// layout is a meta cluster to compare with.
type layout struct {
	name     string
	members  int
	sharding metaetcd.Sharding
	group    func(key string) string // keys of one group share a member, as the sharding policy promises
}

var layouts = []layout{
	{name: "keys spread", members: 3, group: func(key string) string { return key }},
	{name: "prefixes spread", members: 3, sharding: metaetcd.Sharding{Segments: 1}, group: segment},
	{name: "one member", members: 1, group: func(string) string { return "" }},
}

// segment is the first path segment of a key, with its separator, or the whole key.
func segment(key string) string {
	if i := strings.IndexByte(key, '/'); i >= 0 {
		return key[:i+1]
	}
	return key
}
