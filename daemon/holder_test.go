package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:094B 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   3: 0100007F:D431 0100007F:094B 01 00000000:00000000 00:00000000 00000000     0        0 4714 1 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
`

// fakeProc lays out a process table in which process 41 holds the sockets with the inodes 4711 and 4714.
func fakeProc(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(proc, "net"), 0o700),
		os.MkdirAll(filepath.Join(proc, "41", "fd"), 0o700),
		os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(socketTable), 0o600),
		os.WriteFile(filepath.Join(proc, "41", "cmdline"), []byte("/usr/bin/etcd\x00--password\x00secret\x00"), 0o600),
		os.Symlink("socket:[4711]", filepath.Join(proc, "41", "fd", "7")),
		os.Symlink("socket:[4714]", filepath.Join(proc, "41", "fd", "8")),
		os.Symlink("/dev/null", filepath.Join(proc, "41", "fd", "0")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

func TestTheHolderOfAPortIsNamedWithoutItsArguments(t *testing.T) {
	for _, port := range []int{2379, 0xD431} { // listened on; the near end of a connection
		if holder, ok := portHolder(fakeProc(t), port); !ok || holder != "etcd (pid 41)" {
			t.Errorf("port %d: holder %q, %v", port, holder, ok)
		}
	}
}

func TestAHolderThatMayNotBeSeenIsNotInvented(t *testing.T) {
	proc := fakeProc(t)
	for _, port := range []int{80, 81} { // held by an invisible process; not held
		if holder, ok := portHolder(proc, port); ok {
			t.Errorf("port %d is said to be held by %q", port, holder)
		}
	}
}
