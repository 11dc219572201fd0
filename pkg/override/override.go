// Package override keeps what operators want of single instances of services: to be drained, in
// maintenance, or of another weight, whatever their checks say.
//
// It knows the wish, the key it is kept at, and the copy of it on the host. What follows from it is
// for whoever registers the instance.
package override

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kvd-io/kvd/pkg/registry"
)

// Mode is how an instance is to be registered while it runs and is healthy.
type Mode string

// The modes.
const (
	Ready       Mode = "ready"       // as it is: the same as no override
	Drain       Mode = "drain"       // no new work; what is under way goes on
	Maintenance Mode = "maintenance" // out of use, and its checks do not matter
)

// Override is what an operator wants of one instance: the JSON value of its key. The zero Override
// wants nothing.
type Override struct {
	Mode   Mode      `json:"mode"`             // "" is Ready
	Weight int       `json:"weight,omitempty"` // instead of the record's, 1 to registry.WeightMax; 0 leaves it
	Reason string    `json:"reason,omitempty"` // for people
	By     string    `json:"by,omitempty"`     // who wants it, for people
	At     time.Time `json:"at,omitzero"`      // since when
}

const textBytesMax = 256 // of Reason and of By

// IsZero reports whether the override changes nothing about an instance.
func (o Override) IsZero() bool { return (o.Mode == "" || o.Mode == Ready) && o.Weight == 0 }

// String is what is wanted, for people: "drain, weight 10: kernel update"; "ready" if nothing is.
func (o Override) String() string {
	var parts []string
	if o.Mode != "" && o.Mode != Ready {
		parts = append(parts, string(o.Mode))
	}
	if o.Weight != 0 {
		parts = append(parts, fmt.Sprintf("weight %d", o.Weight))
	}
	if len(parts) == 0 {
		return string(Ready)
	}
	text := strings.Join(parts, ", ")
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}

// Validate reports everything that is wrong with the override, nil if nothing is.
func (o Override) Validate() error {
	var problems []error
	switch o.Mode {
	case "", Ready, Drain, Maintenance:
	default:
		problems = append(problems, fmt.Errorf("mode %.40q: must be %s, %s or %s", o.Mode, Ready, Drain, Maintenance))
	}
	if o.Weight < 0 || o.Weight > registry.WeightMax {
		problems = append(problems, fmt.Errorf("weight %d: must be 1 to %d, or 0 for its own", o.Weight, registry.WeightMax))
	}
	if year := o.At.UTC().Year(); year < 0 || year > 9999 {
		problems = append(problems, fmt.Errorf("at %v: the year must have four digits", o.At))
	}
	return errors.Join(append(problems, validateText("reason", o.Reason), validateText("by", o.By))...)
}

// validateText refuses what could break out of a line of a log or of a terminal.
func validateText(what, text string) error {
	if len(text) > textBytesMax {
		return fmt.Errorf("%s of %d bytes: at most %d are allowed", what, len(text), textBytesMax)
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			return fmt.Errorf("%s %q: control bytes are not allowed", what, text)
		}
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s %q: is not UTF-8", what, text)
	}
	return nil
}
