package demo

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// backend is one service instance and the sidekick that started it.
type backend struct {
	name     string
	port     int
	sidekick *process
}

// steps plays everything, in order. It returns an error if the demo cannot go on.
func (s *stage) steps(ctx context.Context) error {
	ports, err := freePorts(11)
	if err != nil {
		return err
	}
	front, backendPorts := ports[6], ports[7:]
	s.planMembers(ports[:3], ports[3:6])
	s.report.Endpoints = urls(s.members)
	if s.proxy, err = s.chooseProxy(front); err != nil {
		return err
	}
	s.report.Proxy = s.proxy.about
	var docker *engine
	docker, s.report.Docker = s.chooseEngine(ctx)
	s.show.line("kvd demo: loopback only; every process and file is removed at the end")
	s.show.line("  proxy   %s", s.report.Proxy)
	s.show.line("  docker  %s", s.report.Docker)
	s.show.line("  store   %s", s.endpoints())
	s.show.line("  files   %s", s.folder)
	s.show.header()

	backends := make([]*backend, len(backendPorts))
	for i, port := range backendPorts {
		backends[i] = &backend{name: fmt.Sprintf("web-%d", i+1), port: port}
	}
	for _, st := range []func() error{
		func() error { return s.startMembers(ctx) },
		func() error { return s.startService(ctx, backends[:3]) },
		func() error { return s.addBackend(ctx, backends[3]) },
		func() error { return s.drainBackend(ctx, backends[0]) },
		func() error { return s.killBackend(ctx, backends[1]) },
		func() error { return s.stopBackend(ctx, backends[2]) },
		func() error { return s.loseLeader(ctx) },
		func() error { return s.containers(ctx, docker) },
		func() error { return s.rollMembers(ctx) },
	} {
		if err := st(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) chooseEngine(ctx context.Context) (*engine, string) {
	if s.cfg.docker == dockerOff {
		return nil, "not used (--docker off)"
	}
	e, reason := findEngine(ctx, s.folder, &s.crew)
	if e == nil {
		return nil, "not used: " + reason
	}
	return e, e.name
}

// startService brings up the first backends, the template agent and the proxy.
func (s *stage) startService(ctx context.Context, backends []*backend) error {
	var probe *load
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	close(done)
	err := s.perform(ctx, step{
		name: "start 3 backends and the proxy", expected: "all 3 answer", within: 15 * time.Second,
		act: func(ctx context.Context) (time.Time, error) {
			for _, b := range backends {
				if err := s.startBackend(b); err != nil {
					return time.Time{}, err
				}
			}
			if err := s.startProxy(ctx); err != nil {
				return time.Time{}, err
			}
			probe, done = newLoad(s.proxy.url), make(chan struct{})
			go func() {
				defer close(done)
				probe.run(probing)
			}()
			return time.Time{}, nil
		},
		held: func() (at time.Time, ok bool) {
			for _, b := range backends {
				answered := probe.answeredAt(b.name)
				if answered.IsZero() {
					return at, false
				}
				if answered.After(at) {
					at = answered
				}
			}
			return at, true
		},
	})
	cancel()
	<-done
	if err == nil {
		s.startLoad(ctx)
	}
	return err
}

func (s *stage) addBackend(ctx context.Context, b *backend) error {
	return s.perform(ctx, step{
		name: "add a backend", expected: "answers", within: 2 * time.Second,
		act:  func(context.Context) (time.Time, error) { return time.Time{}, s.startBackend(b) },
		held: func() (time.Time, bool) { at := s.load.answeredAt(b.name); return at, !at.IsZero() },
	})
}

// drainBackend takes b out as an operator does, and puts it back.
func (s *stage) drainBackend(ctx context.Context, b *backend) error {
	err := s.perform(ctx, step{
		name: "kvctl service drain", expected: "out", within: time.Second,
		act: func(ctx context.Context) (time.Time, error) {
			return time.Time{}, s.kvctl(ctx, "service", "drain", s.service+"/"+b.name)
		},
		held: func() (time.Time, bool) { return time.Now(), !s.configHas(b.port) },
	})
	if err != nil {
		return err
	}
	return s.perform(ctx, step{
		name: "kvctl service ready", expected: "answers", within: time.Second,
		act: func(ctx context.Context) (time.Time, error) {
			return time.Time{}, s.kvctl(ctx, "service", "ready", s.service+"/"+b.name)
		},
		held: func() (time.Time, bool) {
			at := s.load.answeredAt(b.name)
			return at, !at.IsZero() && s.configHas(b.port)
		},
	})
}

// kvctl runs one command of kvctl.
func (s *stage) kvctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.programs.kvctl, append([]string{"--endpoints", s.endpoints()}, args...)...)
	cmd.Env = plainEnvironment()
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kvctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

func (s *stage) killBackend(ctx context.Context, b *backend) error {
	return s.perform(ctx, step{
		name: "kill -9 a backend and its sidekick", expected: "expired", within: s.cfg.ttl + 2*time.Second,
		failures: 1, // the request that the backend was answering when it died
		act: func(context.Context) (time.Time, error) {
			s.crew.release(b.sidekick)
			b.sidekick.kill()
			return time.Time{}, nil
		},
		held: s.gone(b.port, b.sidekick.over),
	})
}

func (s *stage) stopBackend(ctx context.Context, b *backend) error {
	return s.perform(ctx, step{
		name: "stop a backend", expected: "withdrawn", within: time.Second, patience: 15 * time.Second,
		act: func(context.Context) (time.Time, error) {
			s.crew.release(b.sidekick)
			return time.Time{}, b.sidekick.signal(syscall.SIGTERM)
		},
		held: s.gone(b.port, b.sidekick.over),
	})
}

// gone holds since the rendered configuration lost the server at port, but not before the server
// has ended: requests that fail only then must be counted too.
func (s *stage) gone(port int, ended func() bool) func() (time.Time, bool) {
	var at time.Time
	return func() (time.Time, bool) {
		if at.IsZero() && !s.configHas(port) {
			at = time.Now()
		}
		return at, !at.IsZero() && ended()
	}
}

// containers does with a container what the other steps did with a process. No engine, no step.
func (s *stage) containers(ctx context.Context, docker *engine) error {
	if docker == nil {
		return nil
	}
	image, name := s.service, s.service+"-1"
	var port int
	err := s.perform(ctx, step{
		name: "docker run (since it started)", expected: "answers", within: time.Second,
		act: func(ctx context.Context) (time.Time, error) {
			if err := s.startAgent(docker); err != nil {
				return time.Time{}, err
			}
			if err := docker.makeImage(ctx, &s.crew, image, s.programs.kvctl); err != nil {
				return time.Time{}, err
			}
			if err := docker.runContainer(ctx, &s.crew, name, "--publish", "127.0.0.1::8080", "--label", "SERVICE_NAME="+s.service,
				image, "demo", "backend", "--name", "container", "--listen", ":8080", "--linger", "1s"); err != nil {
				return time.Time{}, err
			}
			published, err := docker.run(ctx, nil, "port", name, "8080/tcp")
			if err != nil {
				return time.Time{}, err
			}
			if _, err := fmt.Sscanf(published[strings.LastIndex(published, ":")+1:], "%d", &port); err != nil {
				return time.Time{}, fmt.Errorf("docker port: %q: %w", published, err)
			}
			return docker.startedAt(ctx, name)
		},
		held: func() (time.Time, bool) { at := s.load.answeredAt("container"); return at, !at.IsZero() },
	})
	if err != nil || !s.report.Steps[len(s.report.Steps)-1].Held {
		return err // a container that does not run cannot be stopped either
	}
	var stop *process
	return s.perform(ctx, step{
		name: "docker stop", expected: "withdrawn", within: time.Second, patience: 15 * time.Second,
		act: func(context.Context) (_ time.Time, err error) {
			if stop, err = docker.start(s.folder, "docker-stop", "stop", name); err == nil {
				s.crew.join(stop)
			}
			return time.Time{}, err
		},
		held: s.gone(port, func() bool { return stop.over() }),
	})
}

// startBackend starts b below a sidekick that registers it once it answers.
func (s *stage) startBackend(b *backend) error {
	p, err := start(s.folder, b.name, nil, s.programs.kvsidekick, "--endpoints", s.endpoints(), "--service", s.service, "--instance", b.name,
		"--address", "127.0.0.1", "--port", fmt.Sprint(b.port), "--ttl", s.cfg.ttl.String(), "--check", "http:/", "--drain", "200ms",
		"--", s.programs.kvctl, "demo", "backend", "--name", b.name, "--listen", loopback(b.port))
	if err != nil {
		return err
	}
	b.sidekick = p
	s.crew.joinEssential(p)
	return nil
}

func (s *stage) startAgent(docker *engine) error {
	arguments := []string{s.programs.kvagent, "--endpoints", s.endpoints(), "--ip", "127.0.0.1", "--ttl", "10s"}
	if docker.host != "" {
		arguments = append(arguments, "--docker-host", docker.host)
	}
	p, err := start(s.folder, "kvagent", nil, arguments...)
	if err != nil {
		return err
	}
	s.crew.joinEssential(p)
	return nil
}
