package confd

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/templates"
)

var (
	escapedDot = regexp.MustCompile(`\\+\.`)
	harmless   = regexp.MustCompile(`[A-Za-z0-9_.:-]+`)
	repeated   = regexp.MustCompile(`\bx(?: x)+\b|Host\(.x.\)(?: \|\| Host\(.x.\))+`)
)

// shape is what is left of a line when names, addresses and numbers are all the same.
func shape(line string) string {
	line = escapedDot.ReplaceAllString(strings.TrimSpace(line), ".")
	return repeated.ReplaceAllString(harmless.ReplaceAllString(line, "x"), "x")
}

// FuzzRecordsInShippedTemplates puts any record under any name beside an honest one: whatever it says, each
// line of each file has the shape of a line that an honest record makes. Prometheus' file, which carries
// texts of a record, is JSON of one shape.
func FuzzRecordsInShippedTemplates(f *testing.F) {
	f.Add("web", "a", `{"address":"10.0.0.1","port":80,"protocol":"tcp","state":"up","weight":3,"meta":{"domain":"a.example, b.example","tcp_port":"5432"}}`)
	f.Add("a.b", "c d", `{"address":"::1","port":80,"state":"up","tags":["x\"y"],"host":"h","meta":{"domain":"x;y {","tcp_port":"1 2","metrics_path":"/m\""}}`)
	f.Add("x;y {", "\"\n", `{"address":"10.0.0.1\n server evil","port":80,"state":"up"}`)
	settings := map[string]string{"KVD_VIP": "192.0.2.100", "KVD_VRRP_INTERFACE": "eth0"}
	world := render.World{Getenv: func(name string) string { return settings[name] }, Hostname: func() (string, error) { return "node1", nil }}
	parsed, shapes := map[string]*render.Template{}, map[string]map[string]bool{}
	for program := range shipped("", "") {
		name, err := fs.Glob(templates.FS, program+"/templates/*.tmpl")
		if err != nil || len(name) != 1 {
			f.Fatalf("%s: %q (%v)", program, name, err)
		}
		text, err := templates.FS.ReadFile(name[0])
		if err != nil {
			f.Fatal(err)
		}
		if parsed[program], err = render.Parse(path.Base(name[0]), string(text), render.Env{World: world}); err != nil {
			f.Fatal(err)
		}
		shapes[program] = map[string]bool{}
		for _, golden := range []string{"empty", "hostile", "no-servers", "sample"} {
			text, err := os.ReadFile("../templates/" + program + "/golden/" + golden + ".golden")
			if err != nil {
				f.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				shapes[program][shape(line)] = true
			}
		}
	}
	f.Fuzz(func(t *testing.T, service, instance, record string) {
		pairs := render.PairsOf([]render.KVPair{
			{Key: "/services/honest/one", Value: `{"address":"10.0.0.1","port":8000,"protocol":"tcp","state":"up"}`},
			{Key: "/services/" + service + "/" + instance, Value: record},
			{Key: "/hosts/" + service, Value: instance},
		})
		for program, template := range parsed {
			out, err := template.Render(context.Background(), render.NewTree(pairs, render.Scope{Keys: []string{""}}), nil)
			if err != nil {
				t.Fatalf("%s: %v", program, err)
			}
			if program == "prometheus" {
				var groups []struct {
					Targets []string
					Labels  map[string]string
				}
				if err := json.Unmarshal(out.Content, &groups); err != nil || len(groups) < 1 || len(groups) > 2 {
					t.Fatalf("%s: %v in\n%s", program, err, out.Content)
				}
				continue
			}
			for line := range strings.Lines(string(out.Content)) {
				if !shapes[program][shape(line)] {
					t.Fatalf("%s: a line of its own: %q", program, line)
				}
			}
		}
	})
}
