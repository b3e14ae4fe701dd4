package ring

import "bytes"

// DefaultSeparator ends a segment of a key where a Policy names no other byte.
const DefaultSeparator = '/'

// Policy says which part of a key decides where the key lives. The zero Policy takes the whole key.
//
// With Segments n > 0 it is everything up to and including the n-th Separator, so that the keys below such a prefix
// share a member; a key with fewer separators counts as a whole.
type Policy struct {
	Segments  int
	Separator byte // 0: DefaultSeparator
}

// canonical fills in the default and drops what has no effect.
func (p Policy) canonical() Policy {
	switch {
	case p.Segments == 0:
		return Policy{}
	case p.Separator == 0:
		p.Separator = DefaultSeparator
	}
	return p
}

// route returns the length of the part of key that decides. With shared, every key that begins with that part goes
// the same way; otherwise only key itself is known to.
func (p Policy) route(key []byte) (n int, shared bool) {
	if p.Segments == 0 {
		return len(key), false
	}
	for range p.Segments {
		i := bytes.IndexByte(key[n:], p.Separator)
		if i < 0 {
			return len(key), false
		}
		n += i + 1
	}
	return n, true
}
