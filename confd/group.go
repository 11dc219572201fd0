package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/backoff"
)

// How long a group waits before it tries again what failed.
const (
	groupRetryMin = 500 * time.Millisecond
	groupRetryMax = time.Minute
)

// group is the targets that share one reload command, or one target without any. All its work is
// done by one goroutine: that of run, or of passOnce.
type group struct {
	targets      []*target
	reload       install.Command
	mirror       *keys.Mirror
	subscription *keys.Subscription
	cfg          Config
	log          *slog.Logger
	failure      failure // of the reload
}

// failure is what went wrong last, so that a retry which fails for the same reason is not told as
// if it were news.
type failure struct{ reason string }

// tell logs err as an error, or at debug if it is the one of the last time. nil is a success.
func (f *failure) tell(log *slog.Logger, message string, err error) {
	if err == nil {
		f.reason = ""
		return
	}
	reason := stagedSuffix.ReplaceAllString(err.Error(), "")
	level := slog.LevelError
	if reason == f.reason {
		level = slog.LevelDebug
	}
	log.Log(context.Background(), level, message, "reason", err)
	f.reason = reason
}

// stagedSuffix is what a check's error names differently at each retry.
var stagedSuffix = regexp.MustCompile(`\.[0-9]{6,}`)

// newGroups sorts resources into groups that read m, in the order of their first members.
func newGroups(resources []resource.Resource, m *keys.Mirror, cfg Config, deps Deps) []*group {
	var groups []*group
	byReload := map[string]*group{}
	for _, r := range resources {
		command := r.Reload.String()
		g := byReload[command]
		if g == nil || command == "" {
			g = &group{reload: r.Reload, mirror: m, cfg: cfg, log: deps.Log.With("reload_cmd", command)}
			byReload[command] = g
			groups = append(groups, g)
		}
		g.targets = append(g.targets, newTarget(r, cfg, deps))
		g.reload.Timeout = max(g.reload.Timeout, r.Reload.Timeout)
	}
	for _, g := range groups {
		var wanted []string
		for _, t := range g.targets {
			wanted = append(wanted, t.Keys...)
		}
		g.subscription = m.Subscribe(resource.Minimal(wanted))
	}
	return groups
}

// run makes a pass whenever the mirror wakes it, and again after a failure, until ctx ends.
func (g *group) run(ctx context.Context) {
	g.sweep()
	retry := backoff.Backoff{Min: groupRetryMin, Max: groupRetryMax}
	pace := pace{quiet: g.cfg.Quiet, longest: g.cfg.QuietMax}
	again := newStoppedTimer()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case <-g.subscription.Wake():
			retry.Reset()
			pace.wait(ctx, g.subscription.Wake())
		}
		if ctx.Err() != nil {
			return
		}
		again.Stop()
		waiting, hold, err := g.pass(ctx)
		switch {
		case err != nil:
			again.Reset(retry.Next())
		case hold > 0:
			again.Reset(hold)
		}
		if !waiting {
			pace.passed()
		}
	}
}

func newStoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// pass brings every target up to date and then, once, reloads their reader if any target owes it.
// A target that fails does not stop the others. Failures are logged here and returned; waiting
// reports that the keys of some target have not been read yet. When ctx ends, what has not been
// begun is left out. hold is for how long a target must be held as it is, 0 if none is.
func (g *group) pass(ctx context.Context) (waiting bool, hold time.Duration, err error) {
	var problems []error
	view, _, _ := g.subscription.Take()
	graceLeft := max(0, replacedGrace-time.Since(g.mirror.Status().Replaced))
	for _, t := range g.targets {
		if ctx.Err() != nil {
			break
		}
		if !view.Ready(t.Keys) {
			waiting = true
			continue
		}
		if tree := treeOf(view, t.scope()); !t.holds(tree, graceLeft) {
			problems = append(problems, t.bring(ctx, tree))
		} else {
			hold = graceLeft
		}
	}
	problems = append(problems, g.settle(ctx))
	return waiting, hold, errors.Join(problems...)
}

// passOnce makes one pass over all groups. It goes by the order of the resource files, as one may
// be checked against the file or the reload of another before it; a reader is reloaded once, when
// the last of its files is in place. It reports whether everything is up to date.
func passOnce(ctx context.Context, groups []*group) (done bool) {
	owner, last := map[*target]*group{}, map[*target]bool{}
	var all []*target
	for _, g := range groups {
		for i, t := range g.targets {
			owner[t], last[t] = g, i == len(g.targets)-1
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(a, b *target) int { return cmp.Compare(a.File, b.File) })
	done = true
	for _, t := range all {
		if ctx.Err() != nil {
			return false
		}
		g := owner[t]
		view := g.mirror.View()
		if !view.Ready(t.Keys) || t.bring(ctx, treeOf(view, t.scope())) != nil {
			done = false
		}
		if last[t] && g.settle(ctx) != nil {
			done = false
		}
	}
	return done
}

// settle reloads the reader if any target owes it that. A failure is logged here and returned.
func (g *group) settle(ctx context.Context) error {
	owing, err := g.owing()
	if err == nil && len(owing) > 0 {
		err = g.reloadReader(ctx, owing)
	}
	g.failure.tell(g.log, "not reloaded", err)
	return err
}

// owing returns the targets whose reader has not been reloaded since they changed.
func (g *group) owing() ([]*target, error) {
	var owing []*target
	for _, t := range g.targets {
		owes, err := t.file.Owes()
		if err != nil {
			return nil, err
		}
		switch {
		case !owes:
		case t.reloads():
			owing = append(owing, t)
		case t.Reload.IsZero() && !t.cfg.Noop: // its command was taken out of the resource file
			if err := t.file.Paid(); err != nil {
				return nil, err
			}
		}
	}
	return owing, nil
}

func (g *group) reloadReader(ctx context.Context, owing []*target) error {
	output, err := install.Run(ctx, g.reload, install.Vars{})
	if err != nil {
		return errors.Join(err, g.rollBack(ctx, owing))
	}
	for _, t := range owing {
		if err := errors.Join(t.file.Paid(), t.file.ForgetGood()); err != nil {
			return fmt.Errorf("reloaded, but that cannot be noted: %w", err)
		}
		t.log.Info("reloaded", "output", output)
	}
	return nil
}

// rollBack puts back what is wanted back after a failed reload, and reloads that. The debts stay:
// the new version is tried again later.
func (g *group) rollBack(ctx context.Context, owing []*target) error {
	rolledBack := false
	var problems []error
	for _, t := range owing {
		done, err := t.rollBack()
		if done {
			t.log.Warn("rolled back to the version before")
			rolledBack = true
		}
		problems = append(problems, err)
	}
	if rolledBack {
		_, err := install.Run(ctx, g.reload, install.Vars{})
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// sweep removes what a crash may have left beside the destinations.
func (g *group) sweep() {
	if g.cfg.Noop {
		return
	}
	for _, t := range g.targets {
		if err := t.file.Sweep(); err != nil {
			t.log.Warn("cannot remove staged files of an earlier run", "reason", err)
		}
	}
}

// treeOf returns what a template with this scope sees of view.
func treeOf(view keys.View, scope keys.Scope) render.Tree {
	return render.NewTree(view, render.Scope{Prefix: scope.Prefix, Keys: scope.Keys, Textual: view.Textual()})
}
