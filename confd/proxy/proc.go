package proxy

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// procDir is where the kernel tells of processes.
const procDir = "/proc"

// readStat returns the parent and the start time from a process's stat file. Its second field, the
// name in parentheses, may hold anything.
func readStat(dir string) (parent int, started string, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, "", false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return 0, "", false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[19], err == nil
}
