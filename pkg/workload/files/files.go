// Package files is a workload.Source for services that are described by files in a directory: those
// that no engine and no unit of this host stands for.
//
// It knows the directory and how the files are written. It does not know what the options mean, nor
// whether a service runs: its checks decide.
//
//	# /etc/kvd/services.d/shop.yaml: one or more services by name, with the options of labels
//	web:
//	  port: 8080
//	  tags: [blue, v2]
//	  check: http:/healthz
//	  meta: {zone: eu}
//	admin:
//	  port: 8081
//
// How a file becomes a workload:
//
//	ID, Name   its path; its name without the ending
//	State      Running, always
//	Labels     kvd.web.port=8080, kvd.web.tags=blue,v2, kvd.web.meta.zone=eu and so on
//	Trusted    unless everybody may write to it, or to the directory
//	Unread     the services that it names, while it cannot be understood
//	Problems   what is wrong with it. A file that cannot be read or understood keeps what it last said.
package files

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kvd-io/kvd/pkg/workload"
)

// DefaultRescan is how often the directory is looked at without a sign of a change.
const DefaultRescan = 30 * time.Second

// Limits of a directory; what is beyond them is a problem, and told as one.
const (
	filesMax     = 1024
	fileBytesMax = 256 << 10
)

const (
	// settle is how long after a sign of a change the files are read: whoever writes one writes it in
	// parts. settleMax is when they are read although there are ever new signs.
	settle    = 30 * time.Millisecond
	settleMax = 500 * time.Millisecond

	// missingRescan is how often a directory is looked for that is not there.
	missingRescan = 2 * time.Second
)

// Config says which directory to follow. Dir is required.
type Config struct {
	Dir    string
	Rescan time.Duration // 0 means DefaultRescan
	Log    *slog.Logger  // nil discards
}

// Source follows a directory. Use New. Status is safe for concurrent use.
type Source struct {
	cfg Config

	// Owned by the goroutine of Run.
	known   map[string]known // by path
	sent    []workload.Workload
	hasSent bool
	watched os.FileInfo // the directory that is being watched; nil: none is
	exposed bool        // everybody may write to the directory

	mu     sync.Mutex // guards status
	status workload.Status
}

// known is a file as it was read last.
type known struct {
	size     int64
	modified time.Time
	inode    uint64
	mode     os.FileMode
	workload workload.Workload
}

var (
	_ workload.Source   = (*Source)(nil)
	_ workload.Reporter = (*Source)(nil)
)

// New returns a source that does nothing until Run.
func New(cfg Config) (*Source, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("directory %q: must be an absolute path", cfg.Dir)
	}
	if cfg.Rescan <= 0 {
		cfg.Rescan = DefaultRescan
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, known: map[string]known{}}, nil
}

// Status implements workload.Reporter. A directory that does not exist is empty, and no problem.
func (s *Source) Status() workload.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Run implements workload.Source. A directory that cannot be read keeps what it last held.
func (s *Source) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch directories: %w", err)
	}
	defer watcher.Close()
	s.watched = nil
	for ctx.Err() == nil {
		s.watch(watcher)
		s.scan()
		if err := s.send(ctx, out); err != nil {
			break
		}
		s.await(ctx, watcher)
	}
	return nil
}

// watch makes sure that the directory there is now is the one that is watched.
func (s *Source) watch(watcher *fsnotify.Watcher) {
	info, err := os.Stat(s.cfg.Dir)
	if err == nil && s.watched != nil && os.SameFile(info, s.watched) {
		return
	}
	if s.watched != nil {
		_ = watcher.Remove(s.cfg.Dir) // it may be gone
		s.watched = nil
	}
	if err == nil && watcher.Add(s.cfg.Dir) == nil {
		s.watched = info
	}
}

// await returns when files may have changed, and nobody writes to them any more.
func (s *Source) await(ctx context.Context, watcher *fsnotify.Watcher) {
	period := s.cfg.Rescan
	if s.watched == nil {
		period = min(period, missingRescan)
	}
	timer := time.NewTimer(period)
	defer timer.Stop()
	var latest time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-watcher.Errors: // events were lost: look at everything
			return
		case <-watcher.Events:
			now := time.Now()
			if latest.IsZero() {
				latest = now.Add(settleMax)
			}
			timer.Reset(min(settle, time.Until(latest)))
		}
	}
}

// scan reads what has changed.
func (s *Source) scan() {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil && !os.IsNotExist(err) {
		s.note(fmt.Errorf("cannot read the directory of services: %w", err))
		return
	}
	s.note(nil)
	if info, err := os.Stat(s.cfg.Dir); err == nil && s.exposed != isExposed(info.Mode()) {
		s.exposed = !s.exposed
		clear(s.known) // all of them are judged anew
	}
	there := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		if isIgnored(name) {
			continue
		}
		path := filepath.Join(s.cfg.Dir, name)
		if len(there) == filesMax {
			s.cfg.Log.Warn("a directory of services holds too many files; the rest is left out", "directory", s.cfg.Dir, "max", filesMax, "first", name)
			break
		}
		there[path] = true
		s.look(path)
	}
	for path := range s.known {
		if !there[path] {
			delete(s.known, path)
		}
	}
}

// isIgnored reports whether a name is not meant for us, as what editors and package managers leave.
func isIgnored(name string) bool {
	ending := filepath.Ext(name)
	return strings.HasPrefix(name, ".") || ending != ".yaml" && ending != ".yml"
}

// look reads a file unless it is as it was.
func (s *Source) look(path string) {
	before, isKnown := s.known[path]
	text, now, err := read(path, before)
	if err == nil && text == nil && isKnown {
		return
	}
	now.workload = workload.Workload{
		ID: path, Name: strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), State: workload.Running, Reason: "described by a file",
		HostNetwork: true, Trusted: !s.exposed && !isExposed(now.mode),
	}
	if err == nil {
		now.workload.Labels, err = Parse(text)
	}
	if err != nil {
		now.workload.Labels = before.workload.Labels
		now.workload.Trusted = before.workload.Trusted
		now.workload.Unread = names(text)
		problem := fmt.Sprintf("%s: %v", path, err)
		if len(now.workload.Labels) > 0 {
			problem += "; what it said before still counts"
		}
		now.workload.Problems = append(now.workload.Problems, problem)
	}
	for what, exposed := range map[string]bool{path: isExposed(now.mode), s.cfg.Dir: s.exposed} {
		if exposed {
			now.workload.Problems = append(now.workload.Problems, what+": everybody may write to it, so that it is not trusted; chmod o-w")
		}
	}
	slices.Sort(now.workload.Problems)
	s.known[path] = now
}

// isExposed reports whether everybody may write to what has this mode.
func isExposed(mode os.FileMode) bool { return mode&0o002 != 0 }

// read returns the text of a file, nil if it is as it was before. It is read whole or not at all: one
// that changes meanwhile is read again.
func read(path string, before known) (text []byte, now known, err error) {
	for range 3 {
		// A pipe must not keep us waiting.
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, known{}, err
		}
		text, now, err = readOpen(file, before)
		file.Close()
		if err == nil || err != errChanged {
			return text, now, err
		}
	}
	return nil, known{}, errChanged
}

var errChanged = fmt.Errorf("it keeps changing while it is read")

func readOpen(file *os.File, before known) ([]byte, known, error) {
	now, err := identify(file)
	switch {
	case err != nil:
		return nil, now, err
	case !now.mode.IsRegular():
		return nil, now, fmt.Errorf("it is no regular file")
	case now.size > fileBytesMax:
		return nil, now, fmt.Errorf("it has %d bytes; at most %d are allowed", now.size, fileBytesMax)
	case now.same(before) && before.workload.Problems == nil:
		return nil, now, nil
	}
	text, err := io.ReadAll(io.LimitReader(file, fileBytesMax+1))
	if err != nil {
		return nil, now, err
	}
	if after, err := identify(file); err != nil || !after.same(now) || int64(len(text)) != now.size {
		return nil, now, errChanged
	}
	if text == nil {
		text = []byte{}
	}
	return text, now, nil
}

func identify(file *os.File) (known, error) {
	info, err := file.Stat()
	if err != nil {
		return known{}, err
	}
	k := known{size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	if status, ok := info.Sys().(*syscall.Stat_t); ok {
		k.inode = status.Ino
	}
	return k, nil
}

func (k known) same(other known) bool {
	return k.size == other.size && k.modified.Equal(other.modified) && k.inode == other.inode && k.mode == other.mode
}

// note keeps how the directory fares.
func (s *Source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	isNew := s.status.Since.IsZero() || s.status.Connected != (err == nil)
	if isNew {
		s.status.Connected, s.status.Since = err == nil, time.Now()
	}
	if err != nil && isNew {
		s.cfg.Log.Warn("a directory of services cannot be read; what it said before still counts", "directory", s.cfg.Dir, "err", err)
	}
	s.status.Err = err
	s.status.Relists++
}

// send sends a snapshot unless the last one said the same.
func (s *Source) send(ctx context.Context, out chan<- workload.Snapshot) error {
	if s.Status().Err != nil && !s.hasSent {
		return nil // nothing is known yet
	}
	list := make([]workload.Workload, 0, len(s.known))
	for _, k := range s.known {
		list = append(list, k.workload)
	}
	slices.SortFunc(list, func(a, b workload.Workload) int { return strings.Compare(a.ID, b.ID) })
	if s.hasSent && reflect.DeepEqual(list, s.sent) {
		return nil
	}
	select {
	case out <- workload.Snapshot{Workloads: list}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.hasSent {
		s.mu.Lock()
		s.status.LastEvent = time.Now()
		s.mu.Unlock()
	}
	s.sent, s.hasSent = list, true
	return nil
}
