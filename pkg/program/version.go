package program

import (
	"runtime/debug"
	"strings"
)

// version is set at link time by release builds: -ldflags "-X github.com/kvd-io/kvd/pkg/program.version=1.2.3".
var version string

// Version returns the version of this build: the linked one, else the module's, else "0.1.0-dev"
// with the commit it was built from.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "0.1.0-dev"
	}
	if v := strings.TrimPrefix(info.Main.Version, "v"); v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return "0.1.0-dev+" + setting.Value[:12]
		}
	}
	return "0.1.0-dev"
}
