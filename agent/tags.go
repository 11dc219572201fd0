package agent

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"text/template"

	"github.com/kvd-io/kvd/pkg/workload"
)

// renderedBytesMax bounds what a template of tags may become.
const renderedBytesMax = 64 << 10

// Tags are added to those of every workload: a fixed list, or what a template in registrator's manner
// makes of each one. A nil *Tags are none. It is safe for concurrent use.
type Tags struct {
	fixed    []string
	template *template.Template
}

// ParseTags reads a comma-separated list of tags, `\,` being a comma within one. With "{{" in it, it is
// a Go template that makes such a list from what an engine says about a container; fetch is what its
// function httpGet calls. The error names what cannot be used.
func ParseTags(text string, fetch func(url string) ([]byte, error)) (*Tags, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if !strings.Contains(text, "{{") {
		tags, problems := readTags(text)
		if len(problems) > 0 {
			return nil, errors.New(problems[0])
		}
		return &Tags{fixed: tags}, nil
	}
	parsed, err := template.New("tags").Funcs(tagFuncs(fetch)).Parse(text)
	if err != nil {
		return nil, err
	}
	t := &Tags{template: parsed}
	// A field that no container has is a mistake of the one who wrote the template; that a function finds
	// nothing in an empty container is not.
	var failed template.ExecError
	if _, err := t.render(workload.Workload{ID: strings.Repeat("0", 64), Name: "name", Image: "image"}); errors.As(err, &failed) && strings.Contains(err.Error(), "can't evaluate field") {
		return nil, fmt.Errorf("%w; there are .ID, .Name, .Image, .State, .Config, .HostConfig and .NetworkSettings with the fields in the reference", err)
	}
	return t, nil
}

// of returns the tags of one workload. again says that a later attempt may give others.
func (t *Tags) of(w workload.Workload) (tags []string, again bool, err error) {
	if t == nil {
		return nil, false, nil
	}
	if t.template == nil {
		return t.fixed, false, nil
	}
	text, err := t.render(w)
	if err != nil {
		return nil, errors.Is(err, errUnfetched), fmt.Errorf("--tags: %w; left out", err)
	}
	tags, problems := readTags(text)
	if len(problems) > 0 {
		err = errors.New("--tags: " + strings.Join(problems, "; "))
	}
	return tags, false, err
}

func (t *Tags) render(w workload.Workload) (string, error) {
	text := &boundedText{left: renderedBytesMax}
	if err := t.template.Execute(text, inspected(w)); err != nil {
		return "", err
	}
	return text.String(), nil
}

// boundedText takes so much and no more.
type boundedText struct {
	bytes.Buffer
	left int
}

func (b *boundedText) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("it becomes longer than %d bytes", renderedBytesMax)
	}
	return b.Buffer.Write(p)
}

// inspection is what a template sees of a workload, by the names that an engine's inspection has for it.
type inspection struct {
	ID    string
	Name  string // with the slash that the engine puts before it
	Image string
	State struct {
		Running   bool
		Paused    bool
		Pid       int
		StartedAt string
	}
	Config struct {
		Hostname string
		Image    string
		Env      []string // NAME=VALUE, by name
		Labels   map[string]string
	}
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct {
		IPAddress string // in the network "bridge", else the first by name
		Networks  map[string]inspectedNetwork
	}
}

type inspectedNetwork struct{ IPAddress, GlobalIPv6Address string }

func inspected(w workload.Workload) inspection {
	c := inspection{ID: w.ID, Name: "/" + w.Name, Image: w.Image}
	c.State.Running, c.State.Paused, c.State.Pid, c.State.StartedAt = true, w.State == workload.Starting, w.PID, w.Run
	c.Config.Hostname, c.Config.Image, c.Config.Labels = w.ID[:min(len(w.ID), 12)], w.Image, w.Labels
	for _, name := range sortedKeys(w.Env) {
		c.Config.Env = append(c.Config.Env, name+"="+w.Env[name])
	}
	switch {
	case w.HostNetwork:
		c.HostConfig.NetworkMode = "host"
	case w.NetworkOf != "":
		c.HostConfig.NetworkMode = "container:" + w.NetworkOf
	case w.Addresses["bridge"] != "":
		c.HostConfig.NetworkMode = "bridge"
	}
	c.NetworkSettings.Networks = map[string]inspectedNetwork{}
	for _, name := range sortedKeys(w.Addresses) {
		n := inspectedNetwork{IPAddress: w.Addresses[name], GlobalIPv6Address: w.Addresses6[name]}
		c.NetworkSettings.Networks[name] = n
		if c.NetworkSettings.IPAddress == "" || name == "bridge" {
			c.NetworkSettings.IPAddress = n.IPAddress
		}
	}
	return c
}
