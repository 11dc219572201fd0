package demo

import (
	"strings"
	"testing"
	"time"
)

func TestASettingThatTheDemoCannotUseIsRefusedAtTheStart(t *testing.T) {
	usable := config{proxy: proxyAuto, docker: dockerAuto, ttl: 2 * time.Second, slack: 1, timeLimit: time.Minute}
	if err := usable.validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*config){
		"--proxy":                      func(c *config) { c.proxy = "squid" },
		"--docker":                     func(c *config) { c.docker = "on" },
		"--ttl 1.5s: use whole second": func(c *config) { c.ttl = 1500 * time.Millisecond },
		"--ttl 0s":                     func(c *config) { c.ttl = 0 },
		"--ttl 1m1s":                   func(c *config) { c.ttl = 61 * time.Second },
		"--slack":                      func(c *config) { c.slack = 0.5 },
		"--time-limit":                 func(c *config) { c.timeLimit = 0 },
	} {
		cfg := usable
		change(&cfg)
		if err := cfg.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func TestTheResultSaysWhoHasAnswered(t *testing.T) {
	for want, r := range map[string]Report{
		"0 requests in 1.5 s; nothing has answered\n":          {Seconds: 1.5},
		"9 requests in 1.5 s, 1 failed; answered by web-1 8\n": {Seconds: 1.5, Requests: 9, Failed: 1, Answers: map[string]int{"web-1": 8}},
		"\nFAIL\nlogs and files are kept in /tmp/kvd-demo-1\n": {Kept: "/tmp/kvd-demo-1"},
	} {
		var text strings.Builder
		newPrinter(&text).result(r)
		if !strings.Contains(text.String(), want) {
			t.Errorf("got %q, want %q in it", &text, want)
		}
	}
}
