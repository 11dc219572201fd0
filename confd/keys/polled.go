package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// polled is a source that cannot be watched: it is read as a whole at every interval.
type polled struct {
	read     func() (map[string]string, error)
	interval time.Duration
	log      *slog.Logger
}

func (p *polled) Close() {}

func (p *polled) Absent(context.Context, []string, kv.Index) ([]string, error) { return nil, nil }

// Load reads everything, whatever the roots: it is all in memory or in a few files.
func (p *polled) Load(_ context.Context, m *Mirror, roots []string) error {
	pairs, err := p.read()
	if err != nil {
		return err
	}
	m.Replace([]string{""}, Origin{}, pairs)
	return nil
}

func (p *polled) Run(ctx context.Context, m *Mirror, roots []string, poke <-chan struct{}) {
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	for ctx.Err() == nil {
		pause := p.interval
		if err := p.Load(ctx, m, roots); err != nil {
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

// environmentReader reads every variable as a key: A_B is /a/b. Where two names give one key, as
// HTTP_PROXY and http_proxy do, the one in capitals counts.
func environmentReader(environ func() []string) func() (map[string]string, error) {
	return func() (map[string]string, error) {
		pairs := map[string]string{}
		for _, entry := range environ() {
			name, value, _ := strings.Cut(entry, "=")
			key := environmentKey(name)
			if _, taken := pairs[key]; key != "" && (!taken || name == strings.ToUpper(name)) {
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
			files, err := resource.Find(top, filter)
			for _, file := range files {
				err = errors.Join(err, readKeys(file, pairs))
			}
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
	document, err := parseKeys(data)
	if err != nil {
		return fmt.Errorf("%s is not a YAML or JSON object: %w", file, err)
	}
	document.flatten("/", pairs)
	return nil
}

func parseKeys(data []byte) (document item, err error) {
	var tree yaml.Node
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return item{}, err
	}
	if _, err := weigh(&tree, map[*yaml.Node]weight{}); err != nil {
		return item{}, err
	}
	err = tree.Decode(&document.entries)
	return document, err
}

// maxAliased bounds the nodes that the aliases of a file may stand for: a few lines can stand for billions.
const maxAliased = 1 << 20

// weight is how many nodes of a YAML document a node stands for, and how many of these aliases do. Both are counted
// as far as maxAliased and one. A node that is open is being weighed.
type weight struct {
	nodes, aliased int
	open           bool
}

// weigh returns the weight of node. known has those that were found out before. It is an error if an alias is within what it
// names, or aliases stand for too much: the decoder would not come to an end.
func weigh(node *yaml.Node, known map[*yaml.Node]weight) (weight, error) {
	if w, ok := known[node]; ok {
		if w.open {
			return w, fmt.Errorf("line %d: what *%s stands for contains itself", node.Line, node.Anchor)
		}
		return w, nil
	}
	known[node] = weight{open: true}
	w := weight{nodes: 1}
	if node.Kind == yaml.AliasNode {
		of, err := weigh(node.Alias, known)
		if err != nil {
			return w, err
		}
		w = weight{nodes: of.nodes, aliased: of.nodes}
	}
	for _, entry := range node.Content {
		of, err := weigh(entry, known)
		if err != nil {
			return w, err
		}
		w.nodes = min(w.nodes+of.nodes, maxAliased+1)
		if w.aliased += of.aliased; w.aliased > maxAliased {
			return w, fmt.Errorf("line %d: aliases stand for more than %d values", entry.Line, maxAliased)
		}
	}
	known[node] = w
	return w, nil
}

// item is a value of a YAML document: a scalar, or what has entries. The zero value is null.
type item struct {
	text    *string
	entries map[string]item
}

// UnmarshalYAML reads scalars as confd does, whose YAML is version 1.1: yes and off are booleans,
// and a date is the text that was written.
func (i *item) UnmarshalYAML(node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		return node.Decode(&i.entries)
	case yaml.SequenceNode:
		var list []item
		if err := node.Decode(&list); err != nil {
			return err
		}
		i.entries = make(map[string]item, len(list))
		for number, entry := range list {
			i.entries[strconv.Itoa(number)] = entry
		}
		return nil
	}
	text, err := scalarText(node)
	i.text = &text
	return err
}

func scalarText(node *yaml.Node) (string, error) {
	var value any
	plain := node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	switch tag := node.ShortTag(); {
	case tag == "!!str" && plain:
		switch node.Value {
		case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
			return "true", nil
		case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
			return "false", nil
		}
		return node.Value, nil
	case tag == "!!str" || tag == "!!timestamp":
		return node.Value, nil
	}
	if err := node.Decode(&value); err != nil {
		return "", err
	}
	if number, ok := value.(float64); ok {
		return strconv.FormatFloat(number, 'f', -1, 64), nil
	}
	return fmt.Sprint(value), nil
}

func (i item) flatten(key string, pairs map[string]string) {
	if i.text != nil {
		pairs[kv.Clean(key)] = *i.text
	}
	for name, entry := range i.entries {
		entry.flatten(path.Join(key, name), pairs)
	}
}
