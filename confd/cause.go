package confd

import "slices"

// causeKeysMax is how many keys a cause names.
const causeKeysMax = 8

// cause is which keys changed that made a file what it is to be. The zero value is none.
type cause struct {
	keys  []string // the first causeKeysMax, in the order in which they changed
	more  bool     // there are others
	other bool     // something else may have changed too: a store that was read anew, a template
}

func (c *cause) add(key string) {
	switch {
	case slices.Contains(c.keys, key):
	case len(c.keys) == causeKeysMax:
		c.more = true
	default:
		c.keys = append(c.keys, key)
	}
}

// take adds what other holds, and empties it.
func (c *cause) take(other *cause) {
	for _, key := range other.keys {
		c.add(key)
	}
	c.more, c.other = c.more || other.more, c.other || other.other
	*other = cause{}
}

// names are the keys, nil if they are not the whole cause, and "..." behind the last if there are others.
func (c cause) names() []string {
	switch {
	case c.other || len(c.keys) == 0:
		return nil
	case c.more:
		return append(slices.Clone(c.keys), "...")
	}
	return slices.Clone(c.keys)
}

// attributes are the keys as the log has them, beside others.
func (c cause) attributes(others ...any) []any {
	if names := c.names(); names != nil {
		others = append(others, "keys", names)
	}
	return others
}
