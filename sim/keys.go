package main

// Keys is a set of keys.
type Keys uint16

// keysOf makes a set.
func keysOf(ks ...int) (s Keys) {
	for _, k := range ks {
		s |= 1 << k
	}
	return s
}

func (s Keys) has(k int) bool { return s>>k&1 == 1 }

// each lists the keys, ascending.
func (s Keys) each(yield func(int) bool) {
	for k := range maxKeys {
		if s.has(k) && !yield(k) {
			return
		}
	}
}

// on are those keys of a set that a member has.
func (w *World) on(member int, s Keys) (on Keys) {
	for k := range s.each {
		if w.memberOf(k) == member {
			on |= keysOf(k)
		}
	}
	return on
}

func (w *World) allKeys() Keys { return 1<<w.keys - 1 }
