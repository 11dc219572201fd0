package render_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

const explained = `global
{{if ne (getv "/maintenance" "off") "on"}}open
{{end}}{{with getv "/title" ""}}title {{.}}
{{end}}{{if exists "/flags/debug"}}debug on
{{end}}{{range services "/services"}}backend {{.Name}}
    mode http
{{range .TCP}}    server {{.ID}} {{.HostPort}} weight {{.Weight}}
{{end}}{{end}}{{range ls "/names"}}name {{.}}
{{end}}{{if eq (getv "/color" "") "blue"}}painted
{{end}}mode {{if eq (getv "/mode") "on"}}active{{else}}idle{{end}}
count {{len (gets "/count/*")}}
{{with json (getv "/json" "{}")}}host {{.host}}
{{end}}static
`

func explainedKeys() []render.KVPair {
	record := func(last int) string {
		return fmt.Sprintf(`{"address":"10.0.0.%d","port":80,"protocol":"tcp","state":"up","weight":%d}`, last, last)
	}
	return []render.KVPair{
		{"/p/maintenance", "off"}, {"/p/title", "Hello"}, {"/p/flags/debug", "whatever"}, {"/p/services/api/a1", record(9)},
		{"/p/services/web/w1", record(1)}, {"/p/services/web/w2", record(2)}, {"/p/names/alpha", "x"}, {"/p/color", "blue"}, {"/p/mode", "on"},
		{"/p/count/1", "a"}, {"/p/count/2", "b"}, {"/p/json", `{"host":"h.example","other":1}`}, {"/p/unrelated", "Hello 10.0.0.1"},
	}
}

func TestALineIsExplainedByTheKeysThatMakeIt(t *testing.T) {
	parsed, err := render.Parse("t", explained, render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	tree := render.NewTree(render.PairsOf(explainedKeys()), render.Scope{Prefix: "/p", Keys: []string{"/p"}})
	out, err := parsed.Render(context.Background(), tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for i, line := range strings.Split(strings.TrimSuffix(string(out.Content), "\n"), "\n") {
		causes, err := parsed.Explain(context.Background(), tree, nil, i+1)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, cause := range causes {
			text := cause.Key + " " + string(cause.How)
			if cause.Shared {
				text += " shared"
			}
			got = append(got, text)
		}
		seen[line]++
		want, ok := map[string]string{
			"global 1": "", "static 1": "",
			"open 1":        "/p/maintenance condition",
			"title Hello 1": "/p/title value",
			"debug on 1":    "/p/flags/debug presence",
			"backend api 1": "/p/services/api/a1 presence", "    mode http 1": "/p/services/api/a1 presence",
			"    server a1 10.0.0.9:80 weight 9 1": "/p/services/api/a1 value",
			"    server w1 10.0.0.1:80 weight 1 1": "/p/services/web/w1 value",
			"    server w2 10.0.0.2:80 weight 2 1": "/p/services/web/w2 value",
			"name alpha 1":                         "/p/names/alpha presence",
			"mode active 1":                        "/p/mode condition",
			"painted 1":                            "/p/color condition",
			"count 2 1":                            "/p/count/2 presence, /p/count/1 presence",
			"host h.example 1":                     "/p/json value",
		}[fmt.Sprintf("%s %d", line, seen[line])]
		joined := strings.Join(got, ", ")
		if line == "backend web" || line == "    mode http" && seen[line] == 2 {
			if !strings.HasPrefix(joined, "/p/services/web/w") || !strings.HasSuffix(joined, " presence shared") || len(got) != 1 {
				t.Errorf("line %d %q comes from %s, want one of two instances", i+1, line, joined)
			}
			continue
		}
		if !ok || joined != want {
			t.Errorf("line %d %q comes from %s, want %s", i+1, line, joined, want)
		}
	}
	for _, line := range []int{0, -1, 1000} {
		if _, err := parsed.Explain(context.Background(), tree, nil, line); err == nil {
			t.Errorf("line %d is explained", line)
		}
	}
}

func TestALineOfAFileForEachKeyIsExplained(t *testing.T) {
	parsed, err := render.Parse("t", "name {{.Name}}\nvalue {{.Value}}\nroot {{getv (printf \"/roots/%s\" .Name)}}\n", render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	tree := treeOf(render.KVPair{Key: "/vhosts/a", Value: "x.example"}, render.KVPair{Key: "/roots/a", Value: "/srv/a"})
	item := render.Item{Key: "/vhosts/a", Name: "a", Value: "x.example"}
	for line, want := range map[int]string{2: "[{/vhosts/a value false}]", 3: "[{/roots/a value false}]"} {
		causes, err := parsed.Explain(context.Background(), tree, item, line)
		if got := fmt.Sprint(causes); err != nil || got != want {
			t.Errorf("line %d comes from %s (%v), want %s", line, got, err, want)
		}
	}
}

// One line among 5,000 services of three instances.
func BenchmarkExplain(b *testing.B) {
	parsed, err := render.Parse("bench", benchmarks["services"], render.Env{})
	if err != nil {
		b.Fatal(err)
	}
	tree := render.NewTree(storeOf(5000), render.Scope{Keys: []string{"/services"}})
	for b.Loop() {
		causes, err := parsed.Explain(context.Background(), tree, nil, 10_003)
		if err != nil || len(causes) != 1 {
			b.Fatal(causes, err)
		}
	}
}
