package proxy

import (
	"strings"
	"testing"
)

func frontend(address string) string {
	return "frontend http\n    bind " + address + "\n    default_backend web\n"
}

func TestServersComeMoveAndGoWithoutAReload(t *testing.T) {
	address := freeAddress(t)
	one, two := newBackend(t, "one", false), newBackend(t, "two", false)
	text := func(servers string) string {
		return frontend(address) + "backend web\n    balance roundrobin\n" + servers
	}
	live := text("    server a " + one + "\n")
	r := newHARig(t, live)
	generation := r.info.generation()
	for _, step := range []struct {
		servers string
		answers []string
	}{
		{"    server a " + one + "\n    server b " + two + " weight 1\n", []string{"one", "two"}},
		{"    server b " + two + "\n", []string{"two"}},
		{"    server b " + one + "\n", []string{"one"}},
		{"    server b " + one + " disabled\n    server c:1 " + two + " weight 200\n", []string{"two"}},
		{"    server b " + one + "\n    server c:1 " + two + " weight 0\n", []string{"one"}},
		{"    server b " + one + "\n    server v6 [::1]:9 disabled\n", []string{"one"}},
		{"", []string{"answered"}},
		{"    server a " + two + "\n", []string{"two"}},
	} {
		next := text(step.servers)
		if strings.Contains(live, "server b") {
			r.rests("web/b")
		}
		if kind := r.bring(live, next); kind != Runtime {
			t.Fatalf("%q took a %s", step.servers, kind)
		}
		live = next
		seen := map[string]bool{}
		for range 8 {
			answer := get(address)
			if len(answer) > 8 {
				answer = answer[:8]
			}
			seen[answer] = true
		}
		for _, want := range step.answers {
			if !seen[want] || len(seen) != len(step.answers) {
				t.Errorf("%q: answered by %v, want %v", step.servers, seen, step.answers)
			}
		}
	}
	if r.info.generation() != generation {
		t.Error("HAProxy was reloaded")
	}
}
