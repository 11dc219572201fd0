package confd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/report"
)

func TestTheKeysWhoseChangeMadeAFileAreToldInLogAndStatus(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}} {{range gets "/up/*"}}{{.Value}} {{end}}{{if exists "/unused"}}{{end}}`, `keys = ["/"]`)
	r.set("/x", "1")
	r.start()
	r.eventually("a.out", "1 ")
	r.becomes(w, "a", report.Converged)
	if changed := w.status("a").Changed; changed != nil {
		t.Errorf("the first version is said to be made by a change of %q", changed)
	}
	r.set("/unused", "1") // looked at, and without effect
	r.set("/other", "1")  // not looked at
	r.set("/x", "2")
	r.until("the key is told", func() bool { return slices.Contains(w.status("a").Changed, "/x") })
	if changed := w.status("a").Changed; slices.Contains(changed, "/other") {
		t.Errorf("a key that nothing looks at is told: %q", changed)
	}
	r.becomes(w, "a", report.Converged)
	r.set("/up/new", "here")
	r.until("the new key alone is told", func() bool { return slices.Equal(w.status("a").Changed, []string{"/up/new"}) })
	if !strings.Contains(r.log.String(), "keys=[/up/new]") {
		t.Errorf("the log does not tell:\n%s", r.log.String())
	}
}

func TestACauseNamesTheFirstKeysAndNoneIfThereIsAnother(t *testing.T) {
	var c, seen cause
	for i := range causeKeysMax + 1 {
		seen.add(fmt.Sprint("/", i))
		seen.add("/0")
	}
	c.take(&seen)
	if names := c.names(); len(names) != causeKeysMax+1 || names[0] != "/0" || names[causeKeysMax] != "..." || seen.names() != nil {
		t.Errorf("%q, and left %q", names, seen.names())
	}
	c.take(&cause{other: true})
	if names := c.names(); names != nil {
		t.Errorf("%q", names)
	}
}
