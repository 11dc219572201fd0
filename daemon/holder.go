package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portHolder says which process keeps others off a TCP port, "nginx (pid 41)", as far as the
// process table under proc lets this user see it.
func portHolder(proc string, port int) (string, bool) {
	inodes := inodesAt(proc, port)
	if len(inodes) == 0 {
		return "", false
	}
	links, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return "", false
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		return fmt.Sprintf("%s (pid %s)", commandName(dir), filepath.Base(dir)), true
	}
	return "", false
}

// inodesAt returns the inodes of the sockets that listen on port or, if none does, of the
// connections that go out from it.
func inodesAt(proc string, port int) map[string]bool {
	const stateListen = "0A"
	listening, connected := map[string]bool{}, map[string]bool{}
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
			if fields[3] == stateListen {
				listening[fields[9]] = true
			} else {
				connected[fields[9]] = true
			}
		}
	}
	if len(listening) > 0 {
		return listening
	}
	return connected
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
