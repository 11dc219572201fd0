package daemon

import (
	"fmt"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
)

// forPeople reports whether a person looks at what the daemon says and has not asked for a log.
func forPeople(env *program.Env) bool {
	return program.IsTerminal(env.Stderr) &&
		env.Origins["log-level"] == program.OriginDefault && env.Origins["log-format"] == program.OriginDefault
}

// welcome is what a person reads when the daemon is ready.
func welcome(d *Daemon, took time.Duration) string {
	url := d.listening[0]
	endpoints := ""
	if url != defaultClientURL {
		endpoints = "--endpoints " + url + " "
	}
	var b strings.Builder
	fmt.Fprintf(&b, "kvd %s is ready after %s, as member %s\n", program.Version(), took.Round(time.Millisecond), d.config.Name)
	fmt.Fprintf(&b, "  clients   %s\n", strings.Join(d.listening, ", "))
	fmt.Fprintf(&b, "  data      %s\n", d.DataDir())
	fmt.Fprintf(&b, "  try       kvctl %sset /hello world\n", endpoints)
	fmt.Fprintf(&b, "  or        curl -X PUT %s/v2/keys/hello -d value=world\n", url)
	return b.String()
}
