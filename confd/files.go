package confd

import (
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kvd-io/kvd/confd/install"
)

// filesQuiet is how long files must rest before their change is told: an editor writes in steps.
const filesQuiet = 50 * time.Millisecond

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
	for {
		select {
		case event, ok := <-f.watcher.Events:
			if !ok {
				return
			}
			if matters(event) {
				pause.Reset(filesQuiet)
			}
		case _, ok := <-f.watcher.Errors: // events were lost: look at everything
			if !ok {
				return
			}
			pause.Reset(filesQuiet)
		case <-pause.C:
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
