package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"time"
)

// Schedule is when snapshots are written to a directory of this member alone.
type Schedule struct {
	Interval  time.Duration // between two snapshots; 0: none are written
	Keep      int           // how many stay; at least 1
	Directory string        // made if absent
}

const (
	partSuffix = ".part"
	timeForm   = "20060102T150405Z"
	// retryMax bounds how long a snapshot that failed has to wait for the next try.
	retryMax = 5 * time.Minute
)

// scheduledName is that of a scheduled snapshot: nothing else in the directory is counted or removed.
var scheduledName = regexp.MustCompile(`^kvd-(\d{8}T\d{6}Z)-\d+\.snap$`)

// Counts are what the schedule has done.
type Counts struct {
	Written, Failed uint64
	Last            time.Time // of the newest snapshot in the directory, Unix time 0 if there is none
	LastBytes       int64
}

type counts struct {
	written, failed, lastBytes atomic.Int64
	last                       atomic.Int64 // unix ns, 0 for never
}

// Counts returns what the schedule has done since the start.
func (b *Backups) Counts() Counts {
	return Counts{Last: time.Unix(0, b.counts.last.Load()), Written: uint64(b.counts.written.Load()), Failed: uint64(b.counts.failed.Load()), LastBytes: b.counts.lastBytes.Load()}
}

// keepSchedule writes a snapshot whenever the newest in the directory is older than the interval, until
// ctx ends. One that fails is told, and tried again.
func (b *Backups) keepSchedule(ctx context.Context) {
	schedule := b.config.Schedule
	wait := b.firstWait()
	for rest(ctx, max(wait, time.Millisecond)) == nil {
		path, size, err := b.save(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.counts.failed.Add(1)
			wait = min(schedule.Interval, retryMax)
			b.config.Log.Error("cannot write the scheduled snapshot", "directory", schedule.Directory, "err", err, "retry", wait)
		default:
			b.counts.written.Add(1)
			wait = schedule.Interval
			b.config.Log.Info("scheduled snapshot written", "file", path, "bytes", size)
		}
	}
}

// firstWait returns how long the newest snapshot in the directory still is new enough.
func (b *Backups) firstWait() time.Duration {
	names, err := scheduled(b.config.Schedule.Directory)
	if err != nil || len(names) == 0 {
		return 0
	}
	newest := names[0]
	if info, err := os.Stat(filepath.Join(b.config.Schedule.Directory, newest.name)); err == nil {
		b.counts.lastBytes.Store(info.Size())
	}
	b.counts.last.Store(newest.time.UnixNano())
	return min(newest.time.Add(b.config.Schedule.Interval).Sub(b.config.Now()), b.config.Schedule.Interval)
}

// save writes one snapshot and removes those that are too many.
func (b *Backups) save(ctx context.Context) (path string, size int64, err error) {
	directory := b.config.Schedule.Directory
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return "", 0, err
	}
	if err := removeParts(directory); err != nil {
		return "", 0, err
	}
	t := b.config.Take()
	defer t.Release()
	if err := b.checkSpace(directory, t); err != nil {
		return "", 0, err
	}
	now := b.config.Now().UTC()
	path = filepath.Join(directory, fmt.Sprintf("kvd-%s-%d.snap", now.Format(timeForm), t.Index))
	if size, err = writeFile(ctx, path, t); err != nil {
		return "", 0, err
	}
	b.counts.last.Store(now.UnixNano())
	b.counts.lastBytes.Store(size)
	return path, size, removeOld(directory, b.config.Schedule.Keep)
}

// writeFile writes t to path, durably and as a whole or not at all.
func writeFile(ctx context.Context, path string, t Taken) (size int64, err error) {
	part := path + partSuffix
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			os.Remove(part)
		}
	}()
	size, err = t.WriteTo(newPacedWriter(ctx, file))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(part, path); err != nil {
		return 0, err
	}
	return size, syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// entry is a scheduled snapshot by its name.
type entry struct {
	name string
	time time.Time
}

// scheduled returns the scheduled snapshots in a directory, newest first.
func scheduled(directory string) (entries []entry, err error) {
	list, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		match := scheduledName.FindStringSubmatch(e.Name())
		if match == nil || !e.Type().IsRegular() {
			continue
		}
		if at, err := time.Parse(timeForm, match[1]); err == nil {
			entries = append(entries, entry{e.Name(), at})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(b.time.Compare(a.time), cmp.Compare(len(b.name), len(a.name)), cmp.Compare(b.name, a.name))
	})
	return entries, nil
}

// removeOld removes all but the newest keep scheduled snapshots.
func removeOld(directory string, keep int) error {
	entries, err := scheduled(directory)
	if err != nil {
		return err
	}
	for _, old := range entries[min(keep, len(entries)):] {
		err = errors.Join(err, os.Remove(filepath.Join(directory, old.name)))
	}
	return err
}

// removeParts removes what a crash has left of a snapshot.
func removeParts(directory string) error {
	list, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, e := range list {
		if name := e.Name(); len(name) > len(partSuffix) && scheduledName.MatchString(name[:len(name)-len(partSuffix)]) && filepath.Ext(name) == partSuffix {
			if err := os.Remove(filepath.Join(directory, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
