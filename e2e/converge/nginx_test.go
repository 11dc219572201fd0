package converge

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// nginx is a real nginx whose server consists of files that kvconfd writes.
type nginx struct {
	w       *world
	address string
	reload  string
	log     *record
}

// newNginx prepares a world for nginx. before and after stand around its reload in the command.
func newNginx(w *world, before, after string) *nginx {
	w.t.Helper()
	program := parts.Path(w.t, "nginx")
	n := &nginx{w: w, address: freeAddress(w.t), log: &record{}}
	if err := os.Mkdir(w.path("sites"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.write("nginx.conf", fmt.Sprintf(n.config(), w.path("sites/*.conf")))
	n.reload = before + `test ! -e $DIR/nginx.pid || ` + program + ` -c $DIR/nginx.conf -s reload` + after
	w.env = append(w.env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return n
}

func (n *nginx) config() string {
	return os.Expand(`daemon off;
user root;
worker_processes 1;
error_log stderr notice;
pid $DIR/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path $DIR/tmp;
    server {
        listen `+n.address+`;
        include %s;
    }
}
`, func(name string) string {
		if name == "DIR" {
			return n.w.dir
		}
		return "$" + name
	})
}

// site adds a file to the server of nginx. It is checked beside the other files as they are.
func (n *nginx) site(name, template string) {
	n.w.t.Helper()
	n.w.write("conf/templates/"+name+".tmpl", template)
	n.w.write("check."+name+".conf", "")
	check := fmt.Sprintf(`check_cmd = "sed \"s|include .*;|include {{.src}};|\" $DIR/nginx.conf >$DIR/check.%[1]s.conf && %[2]s -t -q -c $DIR/check.%[1]s.conf"`, name, parts.Path(n.w.t, "nginx"))
	n.w.toml(name, n.w.path("sites/"+name+".conf"), "keys = [\"/\"]\n"+check+"\nreload_cmd = \""+n.reload+"\"")
}

// start starts nginx when all its files are there.
func (n *nginx) start() {
	n.w.t.Helper()
	run := launch(n.w.t, n.log, n.w.env, parts.Path(n.w.t, "nginx"), "-c", n.w.path("nginx.conf"))
	n.w.t.Cleanup(func() {
		run.killAll()
		if n.w.t.Failed() {
			n.w.t.Logf("nginx:\n%s", n.log)
		}
	})
}

// until waits until nginx answers a path with this.
func (n *nginx) until(path, want string) {
	n.w.t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	n.w.until("nginx serves "+path, func() string {
		got, err := get(&client, "http://"+n.address+path)
		if err != nil {
			return err.Error()
		}
		if got != want {
			return fmt.Sprintf("%q and not %q", got, want)
		}
		return ""
	})
}
