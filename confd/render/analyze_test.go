package render_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

func analysisOf(t *testing.T, text string) render.Analysis {
	t.Helper()
	parsed, err := render.Parse("t", text, render.Env{World: world, Include: func(name string) (string, error) {
		switch name {
		case "part":
			return "\n{{getv \"/part/key\"}}{{include \"part\"}}{{include \"broken\"}}", nil
		case "broken":
			return "{{if}}", nil
		}
		return "", os.ErrNotExist
	}})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Analyze()
}

func TestAnalysisFindsTheKeysThatStandInTheText(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{getv \"/a/b\"}}{{get \"/c\" }}":                                                  "t:2 getv key /a/b, t:2 get key /c",
		`{{if exists "/x"}}{{range gets "/a/*"}}{{end}}{{end}}`:                                "t:1 exists key /x, t:1 gets pattern /a/*",
		`{{range $i, $p := getvs "/v/*"}}{{else}}{{ls "/l"}}{{end}}`:                           "t:1 getvs pattern /v/*, t:1 ls directory /l",
		`{{with services (getenv "KVD_NONE" "/services")}}{{end}}`:                             "t:1 services directory /services",
		`{{$d := "/dir"}}{{range lsdir $d}}{{getv (printf "%s/%s/port" $d .) "80"}}{{end}}`:    "t:1 lsdir directory /dir, t:1 getv pattern /dir/*/port",
		`{{$d := "/dir"}}{{$d = "/other"}}{{ls $d}}`:                                           "",
		`{{range $d := ls "/a"}}{{ls $d}}{{end}}`:                                              "t:1 ls directory /a",
		`{{"/piped" | getv}}{{printf "/p/%d" 1 | getv | toUpper}}`:                             "t:1 getv key /piped, t:1 getv key /p/1",
		`{{getv (print "/a/" .Name)}}`:                                                         "t:1 getv pattern /a/*",
		`{{getv .}}{{getv (toLower "X")}}`:                                                     "",
		`{{define "x"}}{{getv "/in/define"}}{{end}}{{template "x" (getv "/arg")}}`:             "t:1 getv key /arg, t:1 getv key /in/define",
		`{{(get "/chain").Value}}{{(json (getv "/j")).a}}`:                                     "t:1 get key /chain, t:1 getv key /j",
		`{{include "part"}}`:                                                                   "part:2 getv key /part/key",
		`{{printf "%5s%%" (getv "/w")}}{{getv (printf "/%x" 1)}}{{getv (printf "/100%%/%s")}}`: "t:1 getv key /w, t:1 getv pattern /*, t:1 getv pattern /100%/*",
	} {
		var got []string
		for _, read := range analysisOf(t, text).Reads {
			got = append(got, fmt.Sprintf("%s:%d %s %s %s", read.Template, read.Line, read.Function, read.Kind, read.Key))
			if needs := read.Function == "get" || read.Function == "getv" && !strings.Contains(text, `"80"`); read.Default == needs {
				t.Errorf("%s: %+v", text, read)
			}
		}
		if joined := strings.Join(got, ", "); joined != want {
			t.Errorf("%s\n got %s\nwant %s", text, joined, want)
		}
	}
}

func TestAnalysisFindsWhatWillHardlyDoWhatWasMeant(t *testing.T) {
	for text, want := range map[string]string{
		`{{getv "a/b"}}`: "begin with a slash", `{{gets "/a/["}}`: "malformed", `{{lsdir "/"}}`: "lists nothing", `{{getv "/a/"}}`: "do not end",
		`{{template "x"}}`: "no template \"x\"", `{{include "gone"}}`: "gone", `{{include "part"}}`: "missing value for if",
		`{{getv "/a"}}{{ls "/"}}{{gets "/*"}}{{ls "/a/"}}`: "",
	} {
		var problems []string
		for _, problem := range analysisOf(t, text).Problems {
			problems = append(problems, fmt.Sprintf("%s:%d: %s", problem.Template, problem.Line, problem.Text))
		}
		if told := strings.Join(problems, " "); !strings.Contains(told, want) || (want == "") != (told == "") {
			t.Errorf("%s: %q does not say %q", text, told, want)
		}
	}
}

func TestReadsOutsideTheKeysAreFound(t *testing.T) {
	scope := render.Scope{Prefix: "/p", Keys: []string{"/p/app", "/p/web/only"}}
	text := `{{getv "/app"}}{{getv "/app/x"}}{{getv "/app2"}}{{getv "/web"}}{{getv "/web/only"}}{{gets "/web/*"}}{{gets "/we*/x"}}{{gets "/x/*"}}{{ls "/web"}}{{ls "/x"}}{{ls "/"}}{{services "/app/services"}}{{getv (printf "/app/%s" .)}}{{getv (printf "/y/%s" .)}}{{getv "/app/_hidden"}}`
	var got []string
	for _, read := range analysisOf(t, text).Outside(scope) {
		got = append(got, read.Function+" "+read.Key)
	}
	want := []string{"getv /app2", "getv /web", "gets /x/*", "ls /x", "getv /y/*", "getv /app/_hidden"}
	if !slices.Equal(got, want) {
		t.Errorf("outside are %q, want %q", got, want)
	}
}
