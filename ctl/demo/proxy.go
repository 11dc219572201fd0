package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/kvd-io/kvd/templates"
)

// proxy is one that can serve the demo: how to start it, and what kvconfd has to know of it.
type proxy struct {
	about    string // which, and why it was chosen
	url      string // where it serves
	config   string // the file that kvconfd renders for it
	template string // folder in package templates
	settings []string
	check    string // check_cmd; "" for none
	reload   string // reload_cmd
	table    string // more of the resource file
	argv     []string
}

// chooseProxy takes the first of HAProxy, nginx and Caddy that is installed, else the built-in
// one. It will serve on the loopback port.
func (s *stage) chooseProxy(port int) (*proxy, error) {
	var absent []string
	for _, kind := range []struct {
		name string
		make func(path string) (*proxy, error)
	}{
		{proxyHAProxy, s.haproxy},
		{proxyNginx, s.nginx},
		{proxyBuiltin, func(string) (*proxy, error) { return s.builtin(), nil }},
	} {
		if s.cfg.proxy != proxyAuto && s.cfg.proxy != kind.name {
			continue
		}
		path, err := lookPath(kind.name)
		if err != nil && kind.name != proxyBuiltin {
			absent = append(absent, kind.name)
			continue
		}
		p, err := kind.make(path)
		if err != nil {
			return nil, err
		}
		if len(absent) > 0 {
			p.about += ", as " + strings.Join(absent, " and ") + " cannot be found"
		}
		p.url = "http://" + loopback(port)
		p.settings = append(p.settings, "KVD_HTTP_ADDR="+loopback(port), "KVD_DEFAULT_SERVICE="+s.service)
		return p, nil
	}
	return nil, fmt.Errorf("--proxy %s: it is not in PATH; without --proxy another one is used", s.cfg.proxy)
}

func (s *stage) haproxy(path string) (*proxy, error) {
	config := s.file("haproxy.cfg")
	return &proxy{
		about:    described("HAProxy", path, "-v"),
		config:   config,
		template: "haproxy",
		// The socket is named from the folder where HAProxy runs: its full path may be too long.
		settings: []string{"KVD_HAPROXY_USER=none", "KVD_STATS_SOCKET=unix@haproxy.sock", "KVD_LOG=stderr format raw local0 notice"},
		check:    quoted(path) + " -c -f {{.src}}",
		reload:   s.tellProxy("USR2"),
		table:    "[haproxy]\nsocket = \"/proc/self/cwd/haproxy.sock\"\n", // of kvconfd, which runs there too
		argv:     []string{path, "-W", "-db", "-f", config},
	}, nil
}

func (s *stage) nginx(path string) (*proxy, error) {
	config := s.file("nginx.conf")
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	return &proxy{
		about:    described("nginx", path, "-v"),
		config:   config,
		template: "nginx",
		settings: []string{"KVD_NGINX_USER=" + me.Username, "KVD_NGINX_PID=" + s.file("nginx.pid"), "KVD_NGINX_LOG=stderr", "KVD_NGINX_TEMP=" + s.folder},
		check:    quoted(path) + " -t -q -p " + quoted(s.folder) + " -c {{.src}}",
		reload:   s.tellProxy("HUP"),
		argv:     []string{path, "-p", s.folder, "-c", config, "-g", "daemon off;"},
	}, nil
}

// builtin reads the file that is rendered for HAProxy.
func (s *stage) builtin() *proxy {
	config := s.file("haproxy.cfg")
	return &proxy{
		about:    "the built-in one, reading the configuration for HAProxy",
		config:   config,
		template: "haproxy",
		reload:   s.tellProxy("USR2"),
		argv:     []string{s.programs.kvctl, "demo", "proxy", "--file", config},
	}
}

// tellProxy returns the command that sends a signal to the proxy, once startProxy has left its
// number.
func (s *stage) tellProxy(signal string) string {
	return "kill -" + signal + " $(cat " + quoted(s.file("proxy.pid")) + ")"
}

// quoted makes one word of path for the shell.
func quoted(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+[.0-9]*`)

// described returns "HAProxy 2.6.12 (/usr/sbin/haproxy)".
func described(name, path, versionFlag string) string {
	output, err := exec.Command(path, versionFlag).CombinedOutput()
	if version := versionNumber.Find(output); err == nil && version != nil {
		name += " " + string(version)
	}
	return fmt.Sprintf("%s (%s)", name, path)
}

// lookPath is exec.LookPath that also knows the folders of system daemons, which the PATH of an
// ordinary user may lack.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	for _, folder := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(folder, program))
	}
	return path, err
}

// startProxy renders the first configuration, starts the proxy on it, and sets kvconfd to follow
// the store from there.
func (s *stage) startProxy(ctx context.Context) error {
	if err := s.writeResource(); err != nil {
		return err
	}
	confd := []string{s.programs.kvconfd, "--confdir", s.file("confd"), "--config-file", s.file("confd", "confd.toml"), "--endpoints", s.endpoints()}
	// There is nobody to reload yet.
	first, err := start(s.folder, "kvconfd-first", s.proxy.settings, append(confd, "--onetime", "--sync-only")...)
	if err != nil {
		return err
	}
	s.crew.join(first)
	if err := first.wait(ctx, 10*time.Second); err != nil {
		return err
	}
	served, err := start(s.folder, "proxy", nil, s.proxy.argv...)
	if err != nil {
		return err
	}
	s.crew.joinEssential(served)
	if err := os.WriteFile(s.file("proxy.pid"), fmt.Append(nil, served.cmd.Process.Pid), 0o600); err != nil {
		return err
	}
	if err := s.proxyListens(ctx, served); err != nil {
		return err
	}
	follower, err := start(s.folder, "kvconfd", s.proxy.settings, append(confd, "--watch")...)
	if err != nil {
		return err
	}
	s.crew.joinEssential(follower)
	return nil
}

// proxyListens waits until the proxy accepts connections, or has ended: a signal to reload that comes before
// it has begun to listen to signals would end it.
func (s *stage) proxyListens(ctx context.Context, served *process) error {
	address := strings.TrimPrefix(s.proxy.url, "http://")
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-served.ended:
			return nil // the crew tells of it
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("the proxy does not listen on %s", address)
}

// writeResource makes a configuration directory of kvconfd: the shipped template, and a resource
// file with the paths of the demo.
func (s *stage) writeResource() error {
	source, err := fs.Sub(templates.FS, s.proxy.template+"/templates")
	if err != nil {
		return err
	}
	files, err := fs.Glob(source, "*.tmpl")
	if err != nil || len(files) != 1 {
		return fmt.Errorf("the templates of %s: %q, want one (%w)", s.proxy.template, files, errors.Join(err))
	}
	resource := fmt.Sprintf("[template]\nsrc = %q\ndest = %q\nmode = \"0644\"\nkeys = [\"/services\"]\nreload_cmd = %q\n", files[0], s.proxy.config, s.proxy.reload)
	if s.proxy.check != "" {
		resource += fmt.Sprintf("check_cmd = %q\n", s.proxy.check)
	}
	resource += s.proxy.table
	if err := os.CopyFS(s.file("confd", "templates"), source); err != nil {
		return err
	}
	if err := os.MkdirAll(s.file("confd", "conf.d"), 0o700); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.file("confd", "conf.d", "demo.toml"), []byte(resource), 0o600),
		// Without settings of its own kvconfd would read those of this machine.
		os.WriteFile(s.file("confd", "confd.toml"), nil, 0o600),
	)
}

// configHas reports whether the rendered configuration names a server at port.
func (s *stage) configHas(port int) bool {
	text, err := os.ReadFile(s.proxy.config)
	if err != nil {
		return false
	}
	server := regexp.MustCompile(`\b` + regexp.QuoteMeta(loopback(port)) + `\b`)
	return server.Match(text)
}
