package compat

import (
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// TestAWatcherMissesNothingWhenTheStoreRestarts: a stop ends its stream, so that it asks again, and
// the history from before the restart answers.
func TestAWatcherMissesNothingWhenTheStoreRestarts(t *testing.T) {
	kvd := daemontest.Start(t, 1)
	watcher := newSpeaker(t, kvd.URL(), "/t")
	say := func(text, want string) {
		t.Helper()
		got, err := watcher.Say(text, patience)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if want != "" && brief(got) != want {
			t.Fatalf("%s\n got %s\nwant %s", text, brief(got), want)
		}
	}
	say("stream: GET ~?wait=true&stream=true&recursive=true", "")
	say("poll: GET ~/other?wait=true", "")
	say("PUT ~/a value=1", "")
	say("stream line", `{"action":"set","node":{"key":"/t/a","value":"1","modifiedIndex":+1,"createdIndex":+1}}`)
	say("PUT ~/a value=2", "")
	kvd.Restart()
	say("poll end", "(end)")
	say("@2 PUT ~/a value=3", "")
	say("again: GET ~?wait=true&stream=true&recursive=true&waitIndex={+2}", "")
	say("again line", `{"action":"set","node":{"key":"/t/a","value":"2","modifiedIndex":+2,"createdIndex":+2},"prevNode":{"key":"/t/a","value":"1","modifiedIndex":+1,"createdIndex":+1}}`)
	say("again line", `{"action":"set","node":{"key":"/t/a","value":"3","modifiedIndex":+3,"createdIndex":+3},"prevNode":{"key":"/t/a","value":"2","modifiedIndex":+2,"createdIndex":+2}}`)
}
