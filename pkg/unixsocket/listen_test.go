package unixsocket

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestASocketIsHadAsSoonAsWhoWasKilledHasEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	before, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(leaving/10, func() { before.Close() })
	defer ended.Stop()
	after, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process serves it") {
		t.Errorf("a second listener: %v", err)
	}
}
