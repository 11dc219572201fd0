package confd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// polled is a source that cannot be watched: it is read as a whole at every interval.
type polled struct {
	read     func() (map[string]string, error)
	interval time.Duration
	log      *slog.Logger
}

// load reads everything, whatever the roots: it is all in memory or in a few files.
func (p *polled) load(_ context.Context, m *mirror, _ []string) error {
	pairs, err := p.read()
	if err != nil {
		return err
	}
	m.replace("", pairs)
	return nil
}

func (p *polled) run(ctx context.Context, m *mirror, roots []string, poke <-chan struct{}) {
	retry := backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax}
	for ctx.Err() == nil {
		pause := p.interval
		if err := p.load(ctx, m, roots); err != nil {
			p.log.Warn("cannot read the keys; files stay as they are", "reason", err)
			pause = retry.Next()
		} else {
			retry.Reset()
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// environmentReader reads every variable as a key: A_B is /a/b.
func environmentReader(environ func() []string) func() (map[string]string, error) {
	return func() (map[string]string, error) {
		pairs := map[string]string{}
		for _, entry := range environ() {
			name, value, _ := strings.Cut(entry, "=")
			if key := environmentKey(name); key != "" {
				pairs[key] = value
			}
		}
		return pairs, nil
	}
}

// environmentKey returns the key that stands for a variable, and for a key that is meant to be
// found in one: in the environment "_" and "/" are the same.
func environmentKey(name string) string {
	return kv.Clean(strings.ReplaceAll(strings.ToLower(name), "_", "/"))
}

// fileReader reads YAML or JSON files into one tree. Names of keys are joined by "/", and a list's
// items are called 0, 1, 2. Directories are searched for names that match filter.
func fileReader(paths []string, filter string) func() (map[string]string, error) {
	return func() (map[string]string, error) {
		pairs := map[string]string{}
		for _, top := range paths {
			err := filepath.WalkDir(top, func(file string, entry os.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				if match, err := filepath.Match(filter, entry.Name()); file != top && (!match || err != nil) {
					return err
				}
				return readKeys(file, pairs)
			})
			if err != nil {
				return nil, fmt.Errorf("cannot read keys from %s: %w", top, err)
			}
		}
		return pairs, nil
	}
}

func readKeys(file string, pairs map[string]string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var document map[string]any
	if err := yaml.Unmarshal(data, &document); err != nil {
		return fmt.Errorf("%s is not a YAML or JSON object: %w", file, err)
	}
	flattenDocument("/", document, pairs)
	return nil
}

func flattenDocument(key string, value any, pairs map[string]string) {
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			flattenDocument(path.Join(key, name), child, pairs)
		}
	case map[any]any:
		for name, child := range value {
			flattenDocument(path.Join(key, fmt.Sprint(name)), child, pairs)
		}
	case []any:
		for i, child := range value {
			flattenDocument(path.Join(key, strconv.Itoa(i)), child, pairs)
		}
	case nil:
	case float64:
		pairs[kv.Clean(key)] = strconv.FormatFloat(value, 'f', -1, 64)
	default:
		pairs[kv.Clean(key)] = fmt.Sprint(value)
	}
}
