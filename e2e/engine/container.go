package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
)

// Image is the one image there is: this machine's static busybox. Its containers sleep unless they
// are told otherwise.
const Image = "kvd-test:latest"

// applets are the commands of the image.
var applets = []string{"sh", "httpd", "sleep", "nc", "test", "hostname"}

func (e *Engine) importImage(ctx context.Context) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	add := func(header tar.Header, data []byte) {
		header.Size = int64(len(data))
		err = errors.Join(err, archive.WriteHeader(&header))
		_, writeErr := archive.Write(data)
		err = errors.Join(err, writeErr)
	}
	for _, folder := range []string{"bin/", "tmp/", "etc/", "www/"} {
		add(tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o777}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, binary)
	for _, applet := range applets {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		return err
	}
	return e.call(ctx, http.MethodPost, "/images/create?fromSrc=-&repo=kvd-test&tag=latest", "application/x-tar", &layer, nil)
}

// Container is what a container is made from.
type Container struct {
	Name       string
	Command    []string // of busybox; none: it sleeps
	Labels     map[string]string
	Env        []string
	Expose     []string // "80/tcp"
	Network    string   // "host", "none" …; "" means the engine's bridge
	StopSignal string
}

// Create makes a container and returns its ID. It does not run yet.
func (e *Engine) Create(ctx context.Context, c Container) (string, error) {
	if len(c.Command) == 0 {
		c.Command = []string{"sleep", "1000000"}
	}
	exposed := map[string]struct{}{}
	for _, port := range c.Expose {
		exposed[port] = struct{}{}
	}
	request := map[string]any{
		"Image": Image, "Cmd": c.Command, "Labels": c.Labels, "Env": c.Env, "ExposedPorts": exposed, "StopSignal": c.StopSignal,
		"HostConfig": map[string]any{"NetworkMode": c.Network, "LogConfig": map[string]any{"Type": "none"}},
	}
	var answer struct{ ID string }
	err := e.Call(ctx, http.MethodPost, "/containers/create?name="+url.QueryEscape(c.Name), request, &answer)
	return answer.ID, err
}

// Run makes a container, starts it, and returns its ID.
func (e *Engine) Run(ctx context.Context, c Container) (string, error) {
	id, err := e.Create(ctx, c)
	if err != nil {
		return "", err
	}
	return id, e.Do(ctx, id, "start")
}

// Do makes a container act: "start", "stop?t=1", "kill?signal=TERM", "pause" …
func (e *Engine) Do(ctx context.Context, id, action string) error {
	return e.Call(ctx, http.MethodPost, "/containers/"+id+"/"+action, nil, nil)
}

// Remove removes a container, whether it runs or not.
func (e *Engine) Remove(ctx context.Context, id string) error {
	return e.Call(ctx, http.MethodDelete, "/containers/"+id+"?force=true&v=true", nil, nil)
}

// Line is a container in the engine's list.
type Line struct {
	ID     string `json:"Id"`
	State  string // "running", "paused", "exited" …
	Labels map[string]string
}

// List returns the containers that run, or with all those that do not as well.
func (e *Engine) List(ctx context.Context, all bool) ([]Line, error) {
	var list []Line
	err := e.Call(ctx, http.MethodGet, "/containers/json?all="+strconv.FormatBool(all), nil, &list)
	return list, err
}

func (e *Engine) removeAll(ctx context.Context) error {
	list, err := e.List(ctx, true)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var problems []error
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, line := range list {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := e.Remove(ctx, line.ID); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
		})
	}
	group.Wait()
	return errors.Join(problems...)
}

// Event is what the engine says has happened to a container.
type Event struct {
	ID          string
	Action      string
	Nanoseconds int64 // since 1970, by the clock of this machine
}

// Events sends the events of containers to out until ctx ends or the engine does, and then closes
// it. It returns once the engine has begun to tell.
func (e *Engine) Events(ctx context.Context, out chan<- Event) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, `http://engine/events?filters={"type":["container"]}`, nil)
	if err != nil {
		return err
	}
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	go func() {
		defer close(out)
		defer response.Body.Close()
		decoder := json.NewDecoder(response.Body)
		for {
			var said struct {
				Action   string
				Actor    struct{ ID string }
				TimeNano int64 `json:"timeNano"`
			}
			if decoder.Decode(&said) != nil {
				return
			}
			select {
			case out <- Event{said.Actor.ID, said.Action, said.TimeNano}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}
