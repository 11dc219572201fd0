package program

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// forgiving makes the flags of a command tree take what people write: a duration may be a plain
// number of seconds, and what is no number or duration is refused in words.
func forgiving(root *cobra.Command) {
	each := func(f *pflag.Flag) {
		switch f.Value.Type() {
		case "duration":
			f.Value = duration{f.Value}
		case "int", "int64", "uint", "uint16", "uint64":
			f.Value = number{f.Value}
		}
	}
	root.Flags().VisitAll(each)
	root.PersistentFlags().VisitAll(each)
	for _, child := range root.Commands() {
		forgiving(child)
	}
}

type duration struct{ pflag.Value }

// Set takes "15s", "1m30s", or "15" for 15 seconds.
func (d duration) Set(text string) error {
	if text != "" && strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	if d.Value.Set(text) != nil {
		return errors.New("use a time such as 500ms, 15s or 2m, or a number of seconds")
	}
	return nil
}

type number struct{ pflag.Value }

// Set takes a whole number.
func (n number) Set(text string) error {
	err := n.Value.Set(text)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "out of range"):
		return errors.New("the number is out of range")
	}
	return errors.New("use a whole number")
}
