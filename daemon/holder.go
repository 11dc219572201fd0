package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portUse is how a TCP port is used, as far as the process table shows it.
type portUse int

const (
	unseen    portUse = iota // no socket that is in the table: only bound, or gone by now
	listening                // others are served on it
	calling                  // a connection to somebody else begins there
	lingering                // such a connection has ended, and the kernel keeps the port for a while
)

// lookAtPort says what keeps others off a port, and in a few words which process it is if proc
// lets this user see it. A connection to a server's port does not keep the next server off it:
// listeners share their address with what was accepted there. A connection that begins at the port
// does, and so does what is left of it.
func lookAtPort(proc string, port int) (use portUse, holder string) {
	const stateListen = "0A"
	inodes := map[portUse]map[string]bool{listening: {}, calling: {}}
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(filepath.Join(proc, "net", table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			// sl local_address rem_address st queues timer retransmits uid timeout inode
			fields := strings.Fields(line)
			if len(fields) < 10 {
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err != nil || int(n) != port {
				continue
			}
			seen := calling
			switch {
			case fields[3] == stateListen:
				seen = listening
			case fields[9] == "0": // no process has it any more
				if use == unseen {
					use = lingering
				}
				continue
			}
			inodes[seen][fields[9]] = true
		}
	}
	for _, live := range []portUse{listening, calling} {
		if len(inodes[live]) > 0 {
			return live, socketHolder(proc, inodes[live])
		}
	}
	return use, ""
}

// socketHolder names a process that holds one of the sockets, "nginx (pid 41)".
func socketHolder(proc string, inodes map[string]bool) string {
	const hidden = "a process that this user may not see"
	links, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return hidden
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		return fmt.Sprintf("%s (pid %s)", commandName(dir), filepath.Base(dir))
	}
	return hidden
}

// commandName returns the name of the program that the process in dir runs, without its
// arguments: they may hold secrets.
func commandName(dir string) string {
	if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		if program, _, _ := bytes.Cut(line, []byte{0}); len(program) > 0 {
			return filepath.Base(string(program))
		}
	}
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return "a process"
	}
	return strings.TrimSpace(string(name))
}
