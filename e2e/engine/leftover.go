package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const leftoverMax = 10 * time.Second // until what was killed is gone

// endLeftovers kills what runs with an argument that is a path at or below folder, and returns when all of it is
// gone: the shims of containers whose dockerd was killed while it made or removed them.
func endLeftovers(folder string) error {
	for end := time.Now().Add(leftoverMax); ; time.Sleep(10 * time.Millisecond) {
		pids, err := leftovers(folder)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %v of %s do not end within %v of SIGKILL", pids, folder, leftoverMax)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("process %d of %s: %w", pid, folder, err)
			}
		}
	}
}

// leftovers returns the processes with an argument that is a path at or below folder; zombies have none.
func leftovers(folder string) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && names(line, folder) { // else it has ended meanwhile
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// names reports whether a command line has a path at or below folder as an argument.
func names(line []byte, folder string) bool {
	for argument := range bytes.SplitSeq(line, []byte{0}) {
		if path := string(argument); path == folder || strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}
