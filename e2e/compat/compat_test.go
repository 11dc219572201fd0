package compat

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/speaker"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

func TestKvdAnswersAsEtcdDoes(t *testing.T) {
	etcd := startEtcd(t)
	kvd := startKvd(t)
	for i, d := range readDialogues(t) {
		t.Run(d.name, func(t *testing.T) {
			home := fmt.Sprintf("/t%d", i+1)
			compare(t, d, home, newSpeaker(t, etcd, home), newSpeaker(t, kvd, home))
		})
	}
}

// compare holds d with both and reports each step that is not answered as it should be.
func compare(t *testing.T, d dialogue, home string, etcd, kvd *speaker.Speaker) {
	t.Helper()
	for _, s := range d.steps {
		wait := patience
		if s.differs != "" {
			wait = doubt
		}
		theirs, err := etcd.Say(s.text, wait)
		if err != nil {
			t.Fatalf("%s: etcd: %s: %v", s.where, s.text, err)
		}
		ours, err := kvd.Say(s.text, patience)
		if err != nil {
			t.Fatalf("%s: kvd: %s: %v", s.where, s.text, err)
		}
		switch {
		case s.differs == "" && ours != theirs:
			t.Errorf("%s: %s\n--- etcd\n%s\n--- kvd\n%s", s.where, s.text, theirs, ours)
		case s.differs != "" && ours == theirs:
			t.Errorf("%s: %s\nis said to differ (%s) but does not:\n%s", s.where, s.text, s.differs, ours)
		case s.differs != "" && brief(ours) != strings.ReplaceAll(s.kvd, "/HOME", home):
			t.Errorf("%s: %s\n--- kvd should answer (%s)\n%s\n--- kvd\n%s", s.where, s.text, s.differs, s.kvd, brief(ours))
		}
	}
}

// patience bounds the wait for an answer that must come; doubt for one that is known not to.
const (
	patience = 20 * time.Second
	doubt    = time.Second
)

// newSpeaker begins a dialogue that ends with the test.
func newSpeaker(t *testing.T, url, home string) *speaker.Speaker {
	t.Helper()
	s, err := speaker.New(url, home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.HangUp)
	return s
}

// brief leaves of an answer its status and body, on one line.
func brief(answer string) string {
	status, rest, isResponse := strings.Cut(answer, "\n")
	_, body, hasBody := strings.Cut(rest, "\n\n")
	if !isResponse || !hasBody {
		return strings.TrimSpace(answer)
	}
	return strings.TrimSpace(status + " " + strings.TrimSpace(body))
}

// startKvd runs a kvd that answers web pages as etcd does by default, and returns its URL.
func startKvd(t *testing.T) string { return daemontest.Start(t, 1, "--cors=*").URL() }

// startEtcd runs a real etcd and returns the URL of its v2 API.
func startEtcd(t *testing.T) string { return etcdtest.Start(t).URL }
