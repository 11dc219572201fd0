package render_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// within renders text with little of everything, and returns the error.
func within(t *testing.T, limit time.Duration, text string, pairs ...render.KVPair) error {
	t.Helper()
	limits := render.Limits{Time: limit, OutputBytes: 1 << 20, ValueBytes: 1 << 17, MadeBytes: 4 << 20, Depth: 1000}
	parsed, err := render.Parse("test.tmpl", text, render.Env{World: world, Limits: limits, Include: func(name string) (string, error) {
		if name == "loop" {
			return `{{range 1000000000}}{{end}}`, nil
		}
		return "", os.ErrNotExist
	}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := parsed.Render(context.Background(), treeOf(pairs...), nil)
	if out.Content != nil {
		t.Errorf("%s made %d bytes", text, len(out.Content))
	}
	return err
}

func TestATemplateThatDoesNotEndIsEnded(t *testing.T) {
	for _, text := range []string{
		`{{range 1000000000}}{{end}}`,
		`{{range 1000000000}}{{$x := 1}}{{end}}`,
		`{{range 1000000000}}{{if false}}x{{end}}{{end}}`,
		`{{range 1000000000}}{{continue}}x{{end}}`,
		`{{range 1000000000}}{{if true}}{{continue}}{{end}}x{{end}}`,
		`{{range 1000000000}}{{""}}{{end}}`,
		`{{range 100000}}{{range 100000}}{{end}}{{end}}`,
		`{{range 100000}}{{range 100000}}{{break}}{{end}}{{range 100000}}{{end}}{{end}}`,
		`{{range 1000000000}}{{template "x"}}{{end}}{{define "x"}}{{end}}`,
		`{{with 1}}{{else}}{{end}}{{if true}}{{range 1000000000}}{{with .}}{{end}}{{end}}{{end}}`,
		`{{range 0}}{{else}}{{range 1000000000}}{{end}}{{end}}`,
		`{{define "a"}}{{template "b"}}{{template "b"}}{{end}}{{define "b"}}{{template "c"}}{{template "c"}}{{end}}{{define "c"}}{{range 100000000}}{{end}}{{end}}{{template "a"}}`,
		`{{include "loop"}}`,
		`{{range 1000000000}}{{$x := len (ls "/")}}{{end}}`,
	} {
		started := time.Now()
		err := within(t, 50*time.Millisecond, text)
		if err == nil || !strings.Contains(err.Error(), "not done after 50ms") || !strings.Contains(err.Error(), "test.tmpl") {
			t.Errorf("%s: %v", text, err)
		}
		if took := time.Since(started); took > 10*time.Second {
			t.Errorf("%s ended after %v", text, took)
		}
	}
}

func TestARenderEndsWithItsContext(t *testing.T) {
	parsed, err := render.Parse("test", `{{range 1000000000}}{{end}}`, render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := parsed.Render(ctx, treeOf(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestATemplateCannotTakeTheMemory(t *testing.T) {
	long := render.KVPair{Key: "/long", Value: strings.Repeat("a", 100_000)}
	for _, text := range []string{
		`{{range 1000000}}{{repeat 1000 "x"}}{{end}}`,
		`{{range 1000000000}}x{{end}}`,
		`{{seq 1 1000000000}}`, `{{range seq 1 1000000000}}{{end}}`,
		`{{repeat 1000000000 "abc"}}`, `{{repeat 9223372036854775807 "abc"}}`,
		`{{indent 1000000000 "a"}}`, `{{nindent 2000000 "a"}}`,
		`{{printf "%999999d%999999d%999999d" 1 2 3}}`, `{{printf "%*d" 999999 1}}`, `{{printf "%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s" (getv "/long")}}`,
		`{{$s := "ab"}}{{range 60}}{{$s = print $s $s}}{{end}}`,
		`{{$s := "ab"}}{{range 60}}{{$s = printf "%s%s" $s $s}}{{end}}`,
		`{{$s := "ab"}}{{range 60}}{{$s = println $s $s}}{{end}}`,
		`{{$s := "&"}}{{range 60}}{{$s = html $s $s}}{{end}}`, `{{$s := "%"}}{{range 60}}{{$s = urlquery $s $s}}{{end}}`, `{{$s := "'"}}{{range 60}}{{$s = js $s $s}}{{end}}`,
		`{{$s := "'"}}{{range 60}}{{$s = squote $s}}{{end}}`, `{{$s := "\""}}{{range 60}}{{$s = quote $s}}{{end}}`, `{{$s := "\""}}{{range 60}}{{$s = quoteJson $s}}{{end}}`,
		`{{$s := "\""}}{{range 60}}{{$s = quoteHaproxy $s}}{{end}}`, `{{$s := "\""}}{{range 60}}{{$s = quoteNginx $s}}{{end}}`, `{{$s := "."}}{{range 60}}{{$s = quoteRegex $s}}{{end}}`,
		`{{$s := "a"}}{{range 60}}{{$s = base64Encode $s}}{{end}}`, `{{$s := "a"}}{{range 60}}{{$s = toJson $s}}{{end}}`,
		`{{$s := "a"}}{{range 60}}{{$s = replace $s "a" "aa" -1}}{{end}}`, `{{regexReplaceAll "a" (getv "/long") (getv "/long")}}`,
		`{{$s := "a"}}{{range 60}}{{$s = join (split (print $s $s) "") "aa"}}{{end}}`, `{{replace (getv "/long") "" (getv "/long") -1}}`,
		`{{$l := list 1}}{{range 60}}{{$l = list $l $l}}{{end}}{{$l}}`, `{{$l := list 1}}{{range 60}}{{$l = append $l $l $l}}{{end}}{{$l}}`,
		`{{$l := list}}{{range 1000000}}{{$l = list $l}}{{end}}{{$l}}`, `{{$l := dict}}{{range 60}}{{$l = dict "a" $l "b" $l}}{{end}}{{toJson $l}}`, `{{$l := dict}}{{range 1000000}}{{$l = map "a" $l}}{{end}}{{$l}}`,
		`{{$l := list}}{{range 1000000}}{{$l = append $l (getv "/long")}}{{end}}`,
		`{{$l := list}}{{range 1000000}}{{$l = append $l (repeat 1000 "x")}}{{end}}`,
		`{{$l := dict}}{{range 60}}{{$l = dict "a" (values $l) "b" (values $l) "c" (pluck "a" $l $l)}}{{end}}{{$l}}`,
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, `{{define "a"}}{{if true}}{{with 1}}{{range 1}}{{template "a"}}{{end}}{{end}}{{end}}{{end}}{{template "a"}}`, `{{template "test.tmpl"}}`,
		`{{$s := "x"}}{{range 60}}{{$s = sha256sum $s}}{{end}}{{range 100000}}{{$s = printf "%s%s" $s (repeat 100 $s)}}{{end}}`,
		`{{range 1000000}}{{$g := groupBy "." (split (getv "/long") "")}}{{end}}`, `{{range 1000000}}{{$g := sortBy "." (split (getv "/long") "")}}{{end}}`,
		`{{fromJson (repeat 100000 "[")}}`, `{{$x := fromJson (printf "%s%s" (repeat 5000 "[") (repeat 5000 "]"))}}{{$x}}`,
	} {
		t.Run(text[:min(len(text), 60)], func(t *testing.T) {
			fuzztest.WantBounded(t, 600<<20, func() {
				if err := within(t, 10*time.Second, text, long); err == nil {
					t.Errorf("%s is made", text)
				}
			})
		})
	}
}

func TestATemplateCannotUseUpTheStack(t *testing.T) {
	nested := func(begin, within, end string, n int) string {
		return strings.Repeat(begin, n) + within + strings.Repeat(end, n)
	}
	for text, want := range map[string]string{
		nested("{{if 1}}", "", "{{end}}", 1_000_000):                                                          "t:1: blocks lie in each other more than 250 deep",
		"\n{{if 1}}" + strings.Repeat("\n{{- else if 1}}", 1_000_000) + "{{end}}":                             "blocks lie in each other",
		nested("{{range .}}{{with 1}}", "", "{{end}}{{end}}", 126):                                            "blocks lie in each other",
		"{{" + nested("(", "1", ")", 1_000_000) + "}}":                                                        "depth exceeded",
		nested("{{if 1}}", "x", "{{end}}", 240):                                                               "",
		nested("{{if 1}}{{else if 2}}{{else}}", "x", "{{end}}", 100):                                          "",
		strings.Repeat("{{- if 1 -}} {{else if 2}}{{ else }}{{ end }}{{/* {{if}} */}}", 200):                  "",
		`{{define "a"}}` + nested("{{if 1}}", `{{template "a"}}`, "{{end}}", 240) + `{{end}}{{template "a"}}`: "1000 deep",
	} {
		parsed, err := render.Parse("t", text, render.Env{World: world})
		if err == nil {
			_, err = parsed.Render(context.Background(), treeOf(), nil)
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}

func TestAFunctionThatPanicsIsAnErrorOfItsLine(t *testing.T) {
	broken := world
	broken.Hostname = func() (string, error) { panic("no name") }
	parsed, err := render.Parse("test.tmpl", "a\n{{hostname}}", render.Env{World: broken})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parsed.Render(context.Background(), treeOf(), nil); err == nil || !strings.Contains(err.Error(), "test.tmpl:2:") || !strings.Contains(err.Error(), "hostname") || !strings.Contains(err.Error(), "no name") {
		t.Errorf("the error is %v", err)
	}
}

func TestAnErrorNamesTemplateLineFunctionKeyAndReason(t *testing.T) {
	pairs := []render.KVPair{{Key: "/port", Value: "80a"}, {Key: "/object", Value: "{\"a\": s3cret}"}, {Key: "/name", Value: "s3cret"}}
	for text, want := range map[string][]string{
		"\n{{getv \"/none\"}}":              {"test.tmpl:2:", "getv", "/none", "does not exist"},
		"{{atoi (getv \"/port\")}}":         {"test.tmpl:1:", "atoi", "/port", "invalid syntax"},
		"{{json (getv \"/object\")}}":       {"test.tmpl:1:", "json", "/object", "invalid character"},
		"{{json (getv \"/name\")}}":         {"test.tmpl:1:", "json", "/name"},
		"{{include \"part\"}}":              {"part:1:", "test.tmpl:1:", "include", "getv", "/inner"},
		"{{(get \"/port\").Field}}":         {"test.tmpl:1:", "Field"},
		"{{index (ls \"/\") 99}}":           {"test.tmpl:1:", "index", "out of range"},
		"{{add \"1\" 1}}":                   {"test.tmpl:1:", "expected integer"},
		"{{include \"gone\"}}":              {"gone", "not exist"},
		"{{include \"../outside\"}}":        {"outside the templates directory"},
		"{{quoteNginx \"$host\"}}":          {"quoteNginx", "$"},
		"{{hashNumber \"a\" 0}}":            {"hashNumber"},
		"{{sortBy \"Nope\" (gets \"/*\")}}": {"sortBy", "no field Nope"},
	} {
		parsed, err := render.Parse("test.tmpl", text, render.Env{World: world, Include: func(name string) (string, error) {
			if name != "part" {
				return "", &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
			}
			return `{{getv "/inner"}}`, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = parsed.Render(context.Background(), treeOf(pairs...), nil)
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v does not say %s", text, err, part)
			}
		}
	}
}

func TestAnErrorOfASensitiveTemplateHasNoValue(t *testing.T) {
	pairs := []render.KVPair{{Key: "/secret", Value: "s3cret"}, {Key: "/object", Value: `{"s3cret":`}, {Key: "/services/web/a", Value: `{"address":"s3cret x","port":1,"state":"up"}`},
		{Key: "/services/web/b", Value: `{"address":"10.0.0.1","port":1,"state":"up","meta":{"domain":"{s3cret}"}}`}}
	for text, want := range map[string]string{
		"{{atoi (getv \"/secret\")}}":                                          "t:1:2: atoi: the reason is withheld",
		"{{json (getv \"/object\")}}":                                          "json",
		"{{jsonArray (getv \"/secret\")}}":                                     "jsonArray",
		"{{getv (printf \"/x/%s\" (getv \"/secret\"))}}":                       "its name was made by the template",
		"\n\n{{getv \"/none\"}}":                                               "t:3:2: getv: key does not exist: /none",
		"{{map (atoi \"1\") (getv \"/secret\")}}":                              "map",
		"{{regexMatch (printf \"(%s\" (getv \"/secret\")) \"a\"}}":             "regexMatch",
		"{{parseBool (getv \"/secret\")}}":                                     "parseBool",
		"{{base64Decode (printf \"%s%%\" (getv \"/secret\"))}}":                "base64Decode",
		"{{include (getv \"/secret\")}}":                                       "include",
		"{{include \"part\"}}":                                                 "part:1:",
		"{{index (dict \"a\" 1) (getv \"/secret\") 1}}":                        "",
		"{{template \"x\" (getv \"/secret\")}}{{define \"x\"}}{{.A}}{{end}}":   "t:1:",
		"{{lookupIP (getv \"/secret\")}}{{getv (getv \"/secret\")}}":           "getv",
		"{{(json (printf \"{\\\"a\\\":%q}\" (getv \"/secret\"))).a.b}}":        "t:1:",
		"{{repeat 999999999 (getv \"/secret\")}}":                              "larger than 64 MiB",
		"{{range 1000000000}}{{services \"/services\"}}{{getv \"/n\"}}{{end}}": "key does not exist: /n",
		"{{call (getv \"/secret\")}}":                                          "t:1:",
		"{{sortBy (getv \"/secret\") (gets \"/*\")}}":                          "sortBy",
		"{{include \"gone\"}}":                                                 "no gone",
		"{{(get \"/secret\").Field}}":                                          "can't evaluate field Field in type render.KVPair",
		"{{add \"1\" 1}}":                                                      "t:1:6: expected integer",
		"{{slice (getv \"/secret\") 99}}":                                      "slice",
		"{{fromJson (getv \"/secret\")}}":                                      "fromJson",
	} {
		parsed, err := render.Parse("t", text, render.Env{World: world, Sensitive: true, Include: func(name string) (string, error) {
			if name != "part" {
				return "", errors.New("no " + name)
			}
			return `{{atoi (getv "/secret")}}`, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := parsed.Render(context.Background(), treeOf(pairs...), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") || strings.Contains(strings.Join(out.Skipped, " "), "s3cret") {
			t.Errorf("%s: %v %q", text, err, out.Skipped)
		}
	}
}

func TestAMisspeltFunctionIsGuessed(t *testing.T) {
	for text, want := range map[string]string{"a\n{{gtev \"/x\"}}": "line 2: gtev; did you mean getv?", `{{if true}}{{range $x := toJSON .}}{{end}}{{end}}`: "did you mean toJson?", `{{"a" | trimsuffix}}`: "trimSuffix"} {
		if _, err := render.Parse("t", text, render.Env{World: world}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %s", text, err, want)
		}
	}
}

func TestIncludesAreReadFromTheirDirectoryAlone(t *testing.T) {
	dir := t.TempDir()
	templates := filepath.Join(dir, "templates")
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", "secret")
	write("templates/part", `[{{.}} {{getv "/name"}}]`)
	write("templates/sub/part", `{{include "part" "deep"}}`)
	write("templates/circle", `{{include "sub/circle"}}`)
	write("templates/sub/circle", `{{include "circle"}}`)
	for i := range 12 {
		write("templates/deep"+string(rune('a'+i)), `{{include "deep`+string(rune('b'+i))+`"}}`)
	}
	if err := os.Symlink("../secret", filepath.Join(templates, "link")); err != nil {
		t.Fatal(err)
	}
	show := func(text string) (string, *render.Reads, error) {
		parsed, err := render.Parse("test", text, render.Env{World: world, Include: render.IncludeDir(templates)})
		if err != nil {
			t.Fatal(err)
		}
		out, err := parsed.Render(context.Background(), treeOf(render.KVPair{Key: "/name", Value: "n"}), nil)
		return string(out.Content), out.Reads, err
	}
	got, reads, err := show(`{{include "part" 1}}{{include "./part"}}{{include "sub/part"}}{{include "/part" "abs"}}`)
	if err != nil || got != "[1 n][<no value> n][deep n][abs n]" {
		t.Errorf("made %s (%v)", got, err)
	}
	if names := strings.Join(reads.Included(), " "); names != "part sub/part" || !reads.Touches("/name") {
		t.Errorf("included %s", names)
	}
	for text, want := range map[string]string{
		`{{include "circle"}}`: "circle", `{{include "deepa"}}`: "10 deep", `{{include "../secret"}}`: "outside", `{{include "sub/../../secret"}}`: "outside",
		`{{include "link"}}`: "escapes", `{{include "sub"}}`: "not a file", `{{include "none"}}`: "no such file", `{{include ""}}`: "empty path",
	} {
		if got, _, err := show(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s made %q (%v)", text, got, err)
		}
	}
	// An edited template is read again without a new Parse.
	parsed, err := render.Parse("test", `{{include "part" 1}}`, render.Env{World: world, Include: render.IncludeDir(templates)})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		write("templates/part", text)
		if out, err := parsed.Render(context.Background(), treeOf(), nil); err != nil || string(out.Content) != text {
			t.Errorf("made %s (%v), want %s", out.Content, err, text)
		}
	}
}

func TestATemplateIsRenderedByManyAtOnce(t *testing.T) {
	parsed, err := render.Parse("t", `{{range services "/services"}}{{.Name}}{{range .Servers}} {{.HostPort}}{{sortByLength .Tags}}{{reverse .Tags}}{{end}}{{end}}{{(json (getv "/json")).a}}{{include "x"}}`,
		render.Env{World: world, Include: func(string) (string, error) { return `{{getv "/json" "literal"}}`, nil }})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				number := fmt.Sprint(i*j%5 + 1)
				tree := treeOf(render.KVPair{Key: "/services/web/a", Value: `{"address":"10.0.0.` + number + `","port":80,"state":"up","tags":["long","x"]}`}, render.KVPair{Key: "/json", Value: `{"a":` + number + `}`})
				out, err := parsed.Render(context.Background(), tree, nil)
				if want := "web 10.0.0." + number + ":80[x long][x long]" + number + `{"a":` + number + "}"; err != nil || string(out.Content) != want {
					t.Errorf("made %s (%v), want %s", out.Content, err, want)
				}
			}
		})
	}
	all.Wait()
}
