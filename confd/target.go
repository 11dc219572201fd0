package confd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/resource"
)

// templateBytesMax bounds a template file.
const templateBytesMax = 16 << 20

// target is one resource at work. It belongs to its group's goroutine.
type target struct {
	resource.Resource
	file  install.File
	cfg   Config
	world render.World
	log   *slog.Logger

	text     string           // of the parsed template
	template *render.Template // the last version that could be parsed; nil if there was none
	broken   string           // why the version on disk is not the parsed one, so that it is told once
	skipped  string           // records left out by the last render, so that each is told once
	kept     *install.Staged  // by --keep-stage-file: only the last one, however often it is tried
	failure  failure
	hadKeys  bool // in the last pass that was not held
	held     bool // because the store was replaced by one without its keys
}

func newTarget(r resource.Resource, cfg Config, deps Deps) *target {
	return &target{
		Resource: r, cfg: cfg, world: deps.World,
		file: r.Destination(r.Dest),
		log:  deps.Log.With("resource", filepath.Base(r.File), "dest", r.Dest),
	}
}

// reloads reports whether this target has a reader to be told of changes.
func (t *target) reloads() bool { return !t.Reload.IsZero() && !t.cfg.SyncOnly && !t.cfg.Noop }

// scope is what the template may see.
func (t *target) scope() keys.Scope { return keys.Scope{Prefix: t.Prefix, Keys: t.Keys} }

// holds reports whether the file is to stay as it is although tree has lost all keys: the store was
// replaced, and those who write the keys still have graceLeft to bring them to the new one.
func (t *target) holds(tree render.Tree, graceLeft time.Duration) bool {
	hold := t.hadKeys && tree.Len() == 0 && graceLeft > 0
	if hold && !t.held {
		t.log.Warn("the store was replaced by one that has none of the keys of this file; it is held as it is until they are back, or the time is over", "hold", graceLeft.Round(time.Second))
	}
	t.held = hold
	t.hadKeys = hold || tree.Len() > 0
	return hold
}

// bring is apply, with the failure logged.
func (t *target) bring(ctx context.Context, tree render.Tree) error {
	err := t.apply(ctx, tree)
	t.failure.tell(t.log, "not up to date", err)
	return err
}

// apply makes the destination what tree and the template say. Whether the reload that
// follows is still due is known by t.file.Owes. On error the destination is as it was.
func (t *target) apply(ctx context.Context, tree render.Tree) error {
	if tree.Len() < t.MinKeys {
		return fmt.Errorf("only %d keys found, min_keys is %d: the file is held as it is", tree.Len(), t.MinKeys)
	}
	content, err := t.render(ctx, tree)
	if err != nil {
		return err
	}
	differs, err := t.file.Differs(content)
	if err != nil || !differs && !t.cfg.KeepStageFile {
		return err
	}
	return t.install(ctx, content, differs)
}

// install stages content and, if it differs, checks it and puts it in place.
func (t *target) install(ctx context.Context, content []byte, differs bool) error {
	if t.cfg.Noop && differs {
		t.log.Warn("noop: the file would be changed")
	}
	if t.cfg.Noop && !t.cfg.KeepStageFile {
		return nil
	}
	staged, err := t.file.Stage(content)
	if err != nil {
		return err
	}
	if t.cfg.KeepStageFile {
		if t.kept != nil {
			t.kept.Discard()
		}
		t.kept = staged
		t.log.Info("staged", "file", staged.Path)
	} else {
		defer staged.Discard() // finds nothing once it is installed
	}
	if t.cfg.Noop || !differs {
		return nil
	}
	if !t.Check.IsZero() && !t.cfg.SyncOnly {
		output, err := install.Run(ctx, t.Check, install.Vars{Src: staged.Path, Dest: t.Dest})
		if err != nil {
			return fmt.Errorf("check_cmd refused the new version, the file is kept: %w", err)
		}
		t.log.Debug("checked", "output", output)
	}
	if t.reloads() {
		if t.Rollback {
			if err := t.keepGood(); err != nil {
				return fmt.Errorf("cannot keep the version to go back to: %w", err)
			}
		}
		if err := t.file.Owe(); err != nil {
			return fmt.Errorf("cannot note that a reload is due: %w", err)
		}
	}
	if err := staged.Commit(); err != nil {
		return err
	}
	t.log.Info("file updated", "bytes", len(content))
	return nil
}

// keepGood keeps the destination as it is as the version to go back to. It does nothing while a reload is
// owed, because then the destination has not proved good, nor without a destination.
func (t *target) keepGood() error {
	if owes, err := t.file.Owes(); owes || err != nil {
		return err
	}
	content, ok, err := t.file.Current()
	if err != nil || !ok {
		return err
	}
	return t.file.KeepGood(install.Good{Content: content, Keys: -1})
}

// rollBack puts the version before back, if it is wanted and there is one.
func (t *target) rollBack() (done bool, err error) {
	if !t.Rollback {
		return false, nil
	}
	good, ok, err := t.file.Good()
	if err != nil || !ok {
		return false, err
	}
	if differs, err := t.file.Differs(good.Content); err != nil || !differs {
		return false, err
	}
	staged, err := t.file.Stage(good.Content)
	if err != nil {
		return false, err
	}
	defer staged.Discard()
	return true, staged.Commit()
}

func (t *target) render(ctx context.Context, tree render.Tree) ([]byte, error) {
	if err := t.parse(); err != nil {
		return nil, err
	}
	out, err := t.template.Render(ctx, tree, nil)
	if err != nil {
		return nil, err
	}
	if skipped := strings.Join(out.Skipped, "; "); skipped != t.skipped {
		if skipped != "" {
			t.log.Warn("records left out", "records", skipped)
		}
		t.skipped = skipped
	}
	return out.Content, nil
}

// parse reads the template again. A version that cannot be parsed is reported once and leaves the
// one before at work.
func (t *target) parse() error {
	text, err := readTemplate(t.Src)
	if err == nil && t.template != nil && text == t.text {
		t.broken = ""
		return nil
	}
	var parsed *render.Template
	if err == nil {
		parsed, err = render.Parse(filepath.Base(t.Src), text, render.Env{World: t.world, Include: render.IncludeDir(filepath.Join(t.cfg.ConfDir, "templates"))})
	}
	switch {
	case err == nil:
		t.text, t.template, t.broken = text, parsed, ""
		return nil
	case t.template == nil:
		return err
	}
	if problem := err.Error(); problem != t.broken {
		t.log.Error("the new version of the template cannot be used; the one before stays", "src", t.Src, "reason", problem)
		t.broken = problem
	}
	return nil
}

func readTemplate(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the template: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, templateBytesMax+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the template: %w", err)
	}
	if len(text) > templateBytesMax {
		return "", fmt.Errorf("template %s is larger than %d MiB", path, templateBytesMax>>20)
	}
	return string(text), nil
}
