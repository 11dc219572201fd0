package raftnode

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk returns an empty disk of a few MiB.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("part missing: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestADiskTooSmallForALogIsRefusedWithWhatIsNeeded(t *testing.T) {
	dir := smallDisk(t, "200k")
	err := openError(t, testConfig(filepath.Join(dir, "data")))
	for _, want := range []string{"make a file of 256 KiB for the log", "no space left on device", "MiB are free: make room for at least 64 MiB"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q in it", err, want)
		}
	}
}

func TestAStartOnADiskThatIsNearlyFullWarns(t *testing.T) {
	for size, warns := range map[string]bool{"40m": true, "100m": false} {
		var log bytes.Buffer
		node, err := Open(t.Context(), testConfig(filepath.Join(smallDisk(t, size), "data")),
			Deps{Peers: peers(t), Log: slog.New(slog.NewTextHandler(&log, nil))}, &ledger{})
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Close(); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "there is little space for data"); got != warns {
			t.Errorf("%s: warned %v, want %v:\n%s", size, got, warns, &log)
		}
	}
}
