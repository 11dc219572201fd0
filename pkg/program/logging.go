package program

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger returns a logger that writes to w. format is text, json or auto.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var severity slog.Level
	if err := severity.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--%s %q: use debug, info, warn or error", flagLogLevel, level)
	}
	options := &slog.HandlerOptions{Level: severity}
	switch {
	case format == "json", format == "auto" && !IsTerminal(w):
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case format == "text", format == "auto":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--%s %q: use text, json or auto", flagLogFormat, format)
}
