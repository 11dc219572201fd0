package program

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// newLogger returns a logger that writes to w, in the form and from the level that flags say.
func newLogger(w io.Writer, flags *pflag.FlagSet, origins map[string]Origin) (*slog.Logger, error) {
	level, format := flags.Lookup(flagLogLevel).Value.String(), flags.Lookup(flagLogFormat).Value.String()
	var severity slog.Level
	if err := severity.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("%s %q (%s): use debug, info, warn or error", flagLogLevel, level, origins[flagLogLevel])
	}
	options := &slog.HandlerOptions{Level: severity, ReplaceAttr: durationsInWords}
	switch {
	case format == "json", format == "auto" && !IsTerminal(w):
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case format == "text", format == "auto":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, fmt.Errorf("%s %q (%s): use text, json or auto", flagLogFormat, format, origins[flagLogFormat])
}

// durationsInWords writes durations as 1m30s in every form of the log; JSON would have nanoseconds.
func durationsInWords(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
