package render

import "context"

// Cause is a key that a line of the output comes from.
type Cause struct {
	Key string // of the store
	How How
}

// How says what a key has to do with a line.
type How string

// The ways in which a key makes a line.
const (
	HowValue    How = "value"     // its value is in the line: another value makes another line
	HowPresence How = "presence"  // its being there makes the line: the line is gone without the key, whatever its value
	HowDecides  How = "condition" // its value is not in the line but decides whether the line is there
)

// Explain returns which keys made line (from 1) of the output over tree, the most telling first.
func (t *Template) Explain(ctx context.Context, tree Tree, item any, line int) ([]Cause, error) {
	return nil, nil
}
