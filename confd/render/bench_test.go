package render_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/confd/render"
)

// storeOf returns a store of so many services with three instances each.
func storeOf(services int) *btree.Map[string, string] {
	var pairs btree.Map[string, string]
	for i := range services {
		for j := range 3 {
			key, value := instanceOf(i, j, 1)
			pairs.Set(key, value)
		}
	}
	return &pairs
}

func instanceOf(service, instance, weight int) (key, value string) {
	return fmt.Sprintf("/services/svc-%04d/host%d:c:80", service, instance),
		fmt.Sprintf(`{"service":"svc-%04d","instance":"host%d:c:80","address":"10.%d.%d.%d","port":8080,"protocol":"tcp","state":"up","weight":%d,"tags":["http"],"meta":{"zone":"a"},"host":"host%d"}`,
			service, instance, instance, service/250, service%250+1, weight, instance)
}

var benchmarks = map[string]string{
	"services":   `{{range services "/services"}}backend {{.Name}}{{range .TCP}}` + "\n    " + `server {{.ID}} {{.HostPort}} weight {{.Weight}}{{end}}` + "\n" + `{{end}}`,
	"lsdir+gets": `{{range lsdir "/services"}}backend {{.}}{{range gets (printf "/services/%s/*" .)}}` + "\n    " + `server {{base .Key}} {{(json .Value).address}}{{end}}` + "\n" + `{{end}}`,
	"lsdir+ls":   `{{range $s := lsdir "/services"}}backend {{$s}}{{range ls (printf "/services/%s" $s)}}` + "\n    " + `server {{.}}{{end}}` + "\n" + `{{end}}`,
	"gets":       `{{range gets "/services/*/*"}}{{.Key}} {{.Value}}` + "\n" + `{{end}}`,
}

// One change among 5,000 services of three instances, and the render after it.
func BenchmarkRenderAfterOneChange(b *testing.B) {
	for name, text := range benchmarks {
		b.Run(name, func(b *testing.B) {
			store := storeOf(5000)
			parsed, err := render.Parse("bench", text, render.Env{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			weight := 1
			for b.Loop() {
				weight++
				key, value := instanceOf(2500, 1, weight%250)
				store = store.Copy()
				store.Set(key, value)
				out, err := parsed.Render(context.Background(), render.NewTree(store, render.Scope{Keys: []string{"/services"}}), nil)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(out.Content)))
			}
		})
	}
}

func BenchmarkTouches(b *testing.B) {
	parsed, err := render.Parse("bench", `{{range services "/services"}}{{getv (printf "/weights/%s" .Name) "1"}}{{gets (printf "/rules/%s/*" .Name)}}{{end}}`, render.Env{})
	if err != nil {
		b.Fatal(err)
	}
	out, err := parsed.Render(context.Background(), render.NewTree(storeOf(5000), render.Scope{Keys: []string{""}}), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !out.Reads.Touches("/rules/svc-2500/x") || out.Reads.Touches("/other/x") {
			b.Fatal("wrong")
		}
	}
}
