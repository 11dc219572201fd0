package render_test

import (
	"context"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

func TestDomainsOfAServiceAreThoseOfAllItsInstances(t *testing.T) {
	at := func(name, state, meta string) render.KVPair {
		return render.KVPair{Key: "/services/" + name, Value: `{"address":"10.0.0.1","port":80,"state":"` + state + `","meta":` + meta + `}`}
	}
	parsed, err := render.Parse("test", `{{range services "/services"}}{{.Name}} {{.Domains}} {{.Meta.team}};{{end}}`, render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	out, err := parsed.Render(context.Background(), treeOf(
		at("api/a", "up", `{"domain":"api.example.org., API.example.com","team":"blue"}`),
		at("api/b", "draining", `{"domain":"old.example.com api.example.com","team":"red"}`),
		at("web/a", "up", `{"domain":"api.example.com,www.example.com,10.0.0.1"}`),
		at("web/b", "up", `{"domain":"evil{}.example.com, \"; x"}`),
		at("web/c", "maintenance", `{"team":"green"}`),
	), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "api [api.example.com api.example.org old.example.com] blue;web [www.example.com x] green;"; string(out.Content) != want {
		t.Errorf("got  %s\nwant %s", out.Content, want)
	}
	skipped := strings.Join(out.Skipped, "\n")
	for _, want := range []string{`/services/web/a: the domain "10.0.0.1" is not a host name`, `/services/web/b: the domain "evil{}.example.com"`, `"\";"`, "/services/web: the domain api.example.com belongs to the service api"} {
		if !strings.Contains(skipped, want) {
			t.Errorf("nothing says %s:\n%s", want, skipped)
		}
	}
}
