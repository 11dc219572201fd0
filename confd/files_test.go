package confd

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

func TestTheAgentsOwnStepsDoNotWakeIt(t *testing.T) {
	for _, c := range []struct {
		name string
		op   fsnotify.Op
		want bool
	}{
		{"/etc/kvconfd/conf.d/a.toml", fsnotify.Write, true},
		{"/etc/kvconfd/conf.d/.a.toml", fsnotify.Create, true},
		{"/etc/kvconfd/conf.d/..data", fsnotify.Create, true},
		{"/etc/kvconfd/templates/a.tmpl", fsnotify.Remove, true},
		{"/etc/kvconfd/templates/a.tmpl", fsnotify.Chmod, false},
		{"/etc/kvconfd/.a.cfg.1234", fsnotify.Create, false},
		{"/etc/kvconfd/.a.cfg.reload-pending", fsnotify.Remove, false},
		{"/etc/kvconfd/templates/.hidden.tmpl", fsnotify.Write, true},
	} {
		if got := matters(fsnotify.Event{Name: c.name, Op: c.op}); got != c.want {
			t.Errorf("%s %v: got %v, want %v", c.op, c.name, got, c.want)
		}
	}
}

func TestFilesThatNeverRestAreLookedAtAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan fsnotify.Event)
		f := &files{changed: make(chan struct{}, 1), done: make(chan struct{}), watcher: &fsnotify.Watcher{Events: events}}
		go f.run()
		for range 2 * filesLate / filesQuiet * 5 {
			events <- fsnotify.Event{Name: "/etc/kvconfd/log", Op: fsnotify.Write}
			time.Sleep(filesQuiet / 5)
		}
		synctest.Wait()
		if len(f.changed) == 0 {
			t.Error("nothing was told")
		}
		close(events)
		<-f.done
	})
}
