package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/speaker"
)

// differing are steps of the dialogues that the gateway answers in its own way, with the reason.
var differing = map[string]string{
	"GET /v2/members":         namesItself,
	"GET /v2/members/":        namesItself,
	"GET /v2/members/leader":  namesItself,
	"GET /v2/auth":            notServed,
	"HEAD /v2/members":        notServed,
	"PATCH /v2/members":       notServed,
	"GET /v2/members/leader/": notServed,
	"GET /v2/members/nobody":  notServed,
}

const (
	namesItself = "the gateway is the only member that a container can reach, and has no peers"
	notServed   = "to look after a cluster is not for containers"
)

// The dialogues of e2e/compat say what clients of etcd rely on.
func TestTheGatewayAnswersAsAMemberDoes(t *testing.T) {
	files, err := filepath.Glob("../../e2e/compat/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	direct := daemontest.Start(t, 1).URL()
	through := start(t, []string{daemontest.Start(t, 1).URL()}, everything).url
	n := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for scene := range strings.SplitSeq("\n"+string(data), "\n== ") {
			name, steps, _ := strings.Cut(scene, "\n")
			if steps == "" || strings.HasPrefix(name, "#") {
				continue
			}
			n++
			home := fmt.Sprintf("/t%d", n)
			t.Run(name, func(t *testing.T) { play(t, steps, newSpeaker(t, direct, home), newSpeaker(t, through, home)) })
		}
	}
	if n < 20 {
		t.Errorf("only %d dialogues were played", n)
	}
}

func newSpeaker(t *testing.T, url, home string) *speaker.Speaker {
	t.Helper()
	s, err := speaker.New(url, home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.HangUp)
	return s
}

func play(t *testing.T, steps string, direct, through *speaker.Speaker) {
	for step := range strings.Lines(steps) {
		step = strings.TrimSpace(step)
		if step == "" || strings.HasPrefix(step, "#") || strings.HasPrefix(step, "differs: ") || strings.HasPrefix(step, "kvd> ") {
			continue
		}
		theirs, err := direct.Say(step, patience)
		if err != nil {
			t.Fatalf("directly: %s: %v", step, err)
		}
		wait := patience
		if _, known := differing[step]; known {
			wait = time.Second
		}
		ours, err := through.Say(step, wait)
		if err != nil {
			t.Fatalf("through the gateway: %s: %v", step, err)
		}
		_, known := differing[step]
		switch {
		case ours != theirs && !known:
			t.Errorf("%s\n--- directly\n%s\n--- through the gateway\n%s", step, theirs, ours)
		case ours == theirs && known:
			t.Errorf("%s: is said to differ but does not", step)
		}
	}
}
