package compat

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/e2e/speaker"
)

// TestTheTutorialPrintsWhatItPromises types the tutorial's curl commands into a shell, against a
// fresh store. Each block of JSON must be what the command before it prints. Commands that wait for
// a second terminal are left out.
func TestTheTutorialPrintsWhatItPromises(t *testing.T) {
	parts.Need(t, "curl")
	text, err := os.ReadFile("../../docs/tutorials/first-keys.md")
	if err != nil {
		t.Fatal(err)
	}
	url := daemontest.Start(t, 1).URL()
	folder := t.TempDir()
	block, printed, compared := "", "", 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			block = fence
			continue
		}
		waits := strings.Contains(line, "wait=true") && !strings.Contains(line, "waitIndex")
		switch {
		case block == "sh" && !waits && (strings.HasPrefix(line, "curl ") || strings.HasPrefix(line, "echo ")):
			command := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line, "curl ", "curl -sS --max-time 20 ", 1))
			command.Env = append(os.Environ(), "KEYS="+url+"/v2/keys")
			command.Dir = folder
			output, err := command.Output()
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			printed = speaker.NormalBody(strings.TrimSpace(string(output)), 0)
		case block == "json":
			if promised := speaker.NormalBody(line, 0); printed != promised {
				t.Errorf("\npromised %s\n printed %s", promised, printed)
			}
			compared++
		}
	}
	if compared < 5 {
		t.Errorf("only %d answers in the tutorial: is it still read as it is written?", compared)
	}
}
