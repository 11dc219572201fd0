package confd

import (
	"testing"

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
