package proxy

import (
	"strings"
	"testing"
)

// benchHARig runs HAProxy with 5,000 servers in 100 backends.
func benchHARig(b *testing.B) (r *haRig, texts [2]string) {
	texts = [2]string{manyServers(100, 50, 0), manyServers(100, 50, 1)}
	for i, text := range texts {
		_, servers, _ := strings.Cut(text, "backend web.0\n")
		texts[i] = "backend web.0\n" + strings.ReplaceAll(servers, ":2000 ", ":2000 no-check ")
	}
	return newHARig(b, texts[0]), texts
}

func BenchmarkOneChangeAmong5000Servers(b *testing.B) {
	r, texts := benchHARig(b)
	contents := [2][]byte{[]byte(r.config(texts[0])), []byte(r.config(strings.Replace(texts[0], ":2000 no", ":3000 no", 1)))}
	plans := [2]Plan{}
	for i := range plans {
		plan, err := r.Plan(b.Context(), contents[i], contents[1-i])
		if err != nil || plan.Kind != Runtime {
			b.Fatal(plan, err)
		}
		plans[i] = plan
	}
	b.Run("Apply", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if err := r.Apply(b.Context(), plans[i%2]); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := r.Apply(b.Context(), plans[0]); err != nil {
		b.Fatal(err)
	}
	b.Run("Confirm", func(b *testing.B) {
		for b.Loop() {
			if err := r.Confirm(b.Context(), contents[1], Mark{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAddAndRemoveAServer(b *testing.B) {
	one := "backend web\n    server a 127.0.0.1:1\n"
	two := one + "    server b 127.0.0.1:2\n"
	r := newHARig(b, one)
	for b.Loop() {
		for _, step := range [2][2]string{{one, two}, {two, one}} {
			plan, err := r.Plan(b.Context(), []byte(r.config(step[0])), []byte(r.config(step[1])))
			if err != nil || plan.Kind != Runtime {
				b.Fatal(plan, err)
			}
			if err := r.Apply(b.Context(), plan); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// What a reload costs beyond what it costs HAProxy.
func BenchmarkReload(b *testing.B) {
	one := "backend web\n    server a 127.0.0.1:1\n"
	r := newHARig(b, one)
	content := []byte(r.config(one))
	for b.Loop() {
		mark, err := r.Mark(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		r.reload()
		if err := r.Confirm(b.Context(), content, mark); err != nil {
			b.Fatal(err)
		}
	}
}
