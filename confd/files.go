package confd

import (
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kvd-io/kvd/confd/install"
)

// An editor writes in steps: files must rest for filesQuiet before their change is told, but it is told filesLate after
// the first at the latest, for there may be one that never rests.
const (
	filesQuiet = 50 * time.Millisecond
	filesLate  = time.Second
)

// files reports changes of files and directories. Where the system cannot watch them it reports
// nothing, and the agent's interval is what notices.
type files struct {
	changed chan struct{} // holds one signal
	watcher *fsnotify.Watcher
	done    chan struct{}
	log     *slog.Logger
}

func watchFiles(log *slog.Logger) *files {
	f := &files{changed: make(chan struct{}, 1), done: make(chan struct{}), log: log}
	var err error
	if f.watcher, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("cannot watch the configuration directory; it is read at every interval and on SIGHUP", "reason", err)
		close(f.done)
		return f
	}
	go f.run()
	return f
}

// cover adds what is not watched yet. What has been removed leaves by itself.
func (f *files) cover(paths []string) {
	if f.watcher == nil {
		return
	}
	for _, path := range paths {
		if err := f.watcher.Add(path); err != nil {
			f.log.Warn("cannot watch a directory; it is read at every interval and on SIGHUP", "directory", path, "reason", err)
		}
	}
}

func (f *files) run() {
	defer close(f.done)
	pause := newStoppedTimer()
	defer pause.Stop()
	var latest time.Time // zero: nothing is to be told
	wait := func() {
		if latest.IsZero() {
			latest = time.Now().Add(filesLate)
		}
		pause.Reset(min(filesQuiet, time.Until(latest)))
	}
	for {
		select {
		case event, ok := <-f.watcher.Events:
			if !ok {
				return
			}
			if matters(event) {
				wait()
			}
		case _, ok := <-f.watcher.Errors: // events were lost: look at everything
			if !ok {
				return
			}
			wait()
		case <-pause.C:
			latest = time.Time{}
			select {
			case f.changed <- struct{}{}:
			default:
			}
		}
	}
}

// matters reports whether an event can have changed what the agent reads. Where a destination lies
// in a watched directory, to look at each of its own steps would have the agent go round in circles.
func matters(event fsnotify.Event) bool {
	return event.Op != fsnotify.Chmod && !install.IsBeside(event.Name)
}

func (f *files) close() {
	if f.watcher != nil {
		f.watcher.Close()
	}
	<-f.done
}
