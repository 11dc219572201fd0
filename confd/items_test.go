package confd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/report"
)

// sites makes site.toml, which makes a file sites/NAME for each key /sites/NAME.
func (r *rig) sites(settings string) {
	r.t.Helper()
	if err := os.MkdirAll(r.path("sites"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.write("conf/templates/site.tmpl", `{{.Name}} {{.Value}}`)
	r.write("conf/conf.d/site.toml", fmt.Sprintf("[template]\nsrc = \"site.tmpl\"\nfor_each = \"/sites/*\"\ndest = %q\nkeys = [\"/sites\"]\n%s\n", r.path("sites/{{.Name}}"), settings))
}

func TestFilesOfItemsThatAreGoneStayWhileAGuardHoldsThem(t *testing.T) {
	r := fileRig(t, "sites: {a: 1, b: 2}\nx: 1")
	r.sites("min_keys = 1\nreload_group = \"g\"")
	r.resource("other", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_group = \"g\"\nreload_cmd = \"true\"")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.write("keys.yaml", "x: 2")
	_ = r.once() // a held file is not up to date
	if !r.exists("sites/a") || !r.exists("sites/b") || r.read("other.out") != "2" {
		t.Errorf("a is there: %v, b: %v, the other file is %q", r.exists("sites/a"), r.exists("sites/b"), r.read("other.out"))
	}
}

func TestHeldFilesOfItemsCanBeReleased(t *testing.T) {
	for _, name := range []string{"site", "site/a"} {
		t.Run(name, func(t *testing.T) {
			r := storeRig(t)
			w := r.witnessed()
			var control Control
			running := make(chan struct{})
			r.deps.Running = func(c Control) { control = c; close(running) }
			r.sites("min_keys = 2")
			r.set("/sites/a", "1")
			r.set("/sites/b", "1")
			r.start()
			<-running
			r.becomes(w, "site/a", report.Converged)
			r.becomes(w, "site/b", report.Converged)
			r.remove("/sites/b")
			r.becomes(w, "site/a", report.Held)
			if err := control.Release(name); err != nil {
				t.Fatal(err)
			}
			r.until("b is gone", func() bool { return !r.exists("sites/b") })
			r.becomes(w, "site/a", report.Converged)
		})
	}
}

func TestAResourceWithoutItemsIsKnownToFollowItsKeys(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.sites("")
	r.set("/other", "1")
	r.start()
	r.becomes(w, "site", report.Converged)
	if keys := w.status("site").Keys; !slices.Equal(keys, []string{"/sites"}) {
		t.Errorf("it is said to follow %q", keys)
	}
	r.set("/sites/a", "1")
	r.becomes(w, "site/a", report.Converged)
	r.until("the item alone is a target", func() bool { return slices.Equal(w.names(), []string{"site/a"}) })
	if of := w.status("site/a").Resource; of != "site" {
		t.Errorf("the item is said to be of resource %q", of)
	}
	r.remove("/sites/a")
	r.until("there is no item", func() bool { return slices.Equal(w.names(), []string{"site"}) })
}

func TestItemsThatCannotBeListedAreTriedAgain(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.sites("")
	r.set("/sites/a", "1")
	r.write("sites/.site.manifest", "damaged")
	r.start()
	r.becomes(w, "site", report.Failed)
	if next := w.status("site").Next; next.IsZero() {
		t.Error("it is not said when it is tried again")
	}
	if err := os.Remove(r.path("sites/.site.manifest")); err != nil {
		t.Fatal(err)
	}
	r.becomes(w, "site/a", report.Converged)
}

func TestAFileThatCannotBeNotedIsNotWritten(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.deps.Step = func(_, step string) {
		if step == report.StepRender { // what is renamed onto a directory is refused
			_ = os.MkdirAll(r.path("sites/.site.manifest"), 0o755)
		}
	}
	r.sites("")
	r.set("/sites/a", "1")
	r.start()
	r.becomes(w, "site/a", report.Failed)
	if r.exists("sites/a") {
		t.Error("it was written, and would never be removed")
	}
}

func TestTheFilesOfAllItemsAreTakenBackThoughNoneWasConfirmedWithRollback(t *testing.T) {
	r := fileRig(t, "sites: {a: 1, b: 1}")
	reload := "reload_group = \"g\"\nreload_cmd = \"! grep -q bad $DIR/sites/a $DIR/sites/b\"\n"
	r.sites(strings.ReplaceAll(reload, "$DIR", r.dir))
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.sites(strings.ReplaceAll(reload, "$DIR", r.dir) + "on_reload_failure = \"rollback\"")
	r.write("keys.yaml", "sites: {a: bad, b: bad}")
	if err := r.once(); err == nil {
		t.Error("a failed reload is no error")
	}
	if a, b := r.read("sites/a"), r.read("sites/b"); a != "a 1" || b != "b 1" {
		t.Errorf("the files are %q and %q", a, b)
	}
}

func TestHeldFilesHaveTheNamesOfTheirItemsAtTheNextStartToo(t *testing.T) {
	r := fileRig(t, "sites: {a: 1, b: 2}")
	r.sites("min_keys = 1\nreload_cmd = \"test -e $DIR/nothing\"")
	r.write("conf/conf.d/site.toml", strings.ReplaceAll(r.read("conf/conf.d/site.toml"), "/sites/{{.Name}}", "/sites/x-{{.Name}}.conf"))
	_ = r.once() // is not reloaded
	if want := "msg=\"not reloaded\" reload_cmd"; !strings.Contains(r.log.String(), want) || !strings.Contains(r.log.String(), "resource=site/a dest="+r.path("sites/x-a.conf")+" others=1") {
		t.Error("the log does not say what is not reloaded")
	}
	r.write("keys.yaml", "other: 1")
	w := r.witnessed()
	r.start()
	r.becomes(w, "site/a", report.Held)
	r.becomes(w, "site/b", report.Held)
}
