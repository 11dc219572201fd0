package render_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/render"
)

var world = render.World{
	Getenv:     func(name string) string { return map[string]string{"HOME": "/root", "EMPTY": ""}[name] },
	Hostname:   func() (string, error) { return "node1", nil },
	Now:        func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
	FileExists: func(path string) bool { return path == "/there" },
	LookupIP: func(host string) ([]net.IP, error) {
		if host != "both.example" {
			return nil, errors.New("no such host")
		}
		return []net.IP{net.ParseIP("10.0.0.2"), net.ParseIP("2001:db8::1"), net.ParseIP("10.0.0.1")}, nil
	},
	LookupSRV: func(service, proto, name string) ([]*net.SRV, error) {
		if service != "http" {
			return nil, errors.New("no such record")
		}
		return []*net.SRV{{Target: "b.example.", Port: 2}, {Target: "a.example.", Port: 1}}, nil
	},
}

var sample = []render.KVPair{
	{"/app/db/host", "10.0.0.5"}, {"/app/db/port", "5432"}, {"/app/empty", ""}, {"/app/name", "shop"},
	{"/app/up/z", "alpha"}, {"/app/up/aa", "beta"}, {"/app-2/name", "other"}, {"/root", "value"},
	{"/json/object", `{"host":"h","port":8080,"big":1000000}`}, {"/json/array", `["x",2]`}, {"/json/null", "null"}, {"/json/bad", "{"},
	{"/key", "both"}, {"/key/below", "both"},
}

// The right column is what confd 0.16 prints for the left one.
func TestFunctionsMeanWhatTheyMeanInConfd(t *testing.T) {
	for _, c := range [][2]string{
		{`{{exists "/app/name"}} {{exists "/app"}} {{exists "app/name"}}`, "true false false"},
		{`{{(get "/app/name").Key}}={{(get "/app/name").Value}}`, "/app/name=shop"},
		{`{{getv "/app/name"}} {{getv "/none" "fallback"}} [{{getv "/app/empty" "fallback"}}] {{getv "/none" "one" "two"}}`, "shop fallback [] one"},
		{`{{range gets "/app/*"}}{{.Key}}={{.Value}} {{end}}`, "/app/empty= /app/name=shop "},
		{`{{range gets "/app*/name"}}{{.Value}} {{end}}`, "other shop "},
		{`{{range gets "/none/*"}}x{{end}}`, ""},
		{`{{range getvs "/app/up/*"}}{{.}} {{end}}`, "alpha beta "},
		{`{{join (getvs "/app/up/*") ","}}`, "alpha,beta"},
		{`{{ls "/app"}} {{ls "/app/"}} {{ls "/none"}} {{ls "app"}}`, "[db empty name up] [db empty name up] [] []"},
		{`{{ls "/"}} {{ls "/root"}} {{ls "/key"}}`, "[key root] [root] [below key]"},
		{`{{lsdir "/app"}} {{lsdir "/"}} {{lsdir "/app/db"}}`, "[db up] [] []"},
		{`{{base "/a/b"}} {{dir "/a/b"}}`, "b /a"},
		{`{{split "a,b" ","}} {{replace "aaa" "a" "b" 2}} {{contains "abc" "b"}} {{trimSuffix "a.cfg" ".cfg"}}`, "[a b] bba true a"},
		{`{{toUpper "a"}}{{toLower "B"}}`, "Ab"},
		{`{{with json (getv "/json/object")}}{{.host}}:{{.port}} {{.big}}{{end}}`, "h:8080 1e+06"},
		{`{{range jsonArray (getv "/json/array")}}{{.}} {{end}}`, "x 2 "},
		{`{{(json (getv "/json/null")).field}}`, "<no value>"},
		{`{{(map "a" 1 "b" "two").b}}`, "two"},
		{`{{getenv "HOME"}} {{getenv "EMPTY" "fallback"}} [{{getenv "NONE"}}]`, "/root fallback []"},
		{`{{datetime.Year}}`, "2026"},
		{`{{lookupIP "both.example"}} {{lookupIPV4 "both.example"}} {{lookupIPV6 "both.example"}} {{lookupIP "none.example"}}`,
			"[10.0.0.1 10.0.0.2 2001:db8::1] [10.0.0.1 10.0.0.2] [2001:db8::1] []"},
		{`{{range lookupSRV "http" "tcp" "example"}}{{.Target}}{{.Port}} {{end}}{{len (lookupSRV "none" "tcp" "example")}}`, "a.example.1 b.example.2 0"},
		{`{{fileExists "/there"}} {{fileExists "/gone"}}`, "true false"},
		{`{{parseBool "true"}} {{atoi "12"}} {{base64Encode "hi"}} {{base64Decode "aGk="}}`, "true 12 aGk= hi"},
		{`{{reverse (split "a,b,c" ",")}}`, "[c b a]"},
		// confd's reverse does not know the type that gets returns.
		{`{{range reverse (gets "/app/up/*")}}{{.Value}} {{end}}`, "beta alpha "},
		{`{{range reverse (sortKVByLength (gets "/app/up/*"))}}{{.Value}} {{end}}`, "beta alpha "},
		{`{{range sortKVByLength (gets "/app/up/*")}}{{.Value}} {{end}}`, "alpha beta "},
		{`{{sortByLength (split "ccc,a,bb" ",")}}`, "[a bb ccc]"},
		// reverse and the sorts change the list that they are given.
		{`{{$l := split "c,a,b" ","}}{{reverse $l}} {{$l}} {{$s := split "ccc,a,bb" ","}}{{sortByLength $s}} {{$s}}`, "[b a c] [b a c] [a bb ccc] [a bb ccc]"},
		{`{{$g := gets "/app/up/*"}}{{$s := sortKVByLength $g}}{{range reverse $s}}{{.Value}} {{end}}{{range $g}}{{.Value}} {{end}}`, "beta alpha beta alpha "},
		{`{{add 1 2}} {{sub 5 3}} {{mul 2 3}} {{div 7 2}} {{mod 7 2}}`, "3 2 6 3 1"},
		{`{{seq 1 3}} {{seq 3 1}}`, "[1 2 3] []"},
	} {
		if got, err := renderText(c[0]); err != nil || got != c[1] {
			t.Errorf("%s\n got %q (%v)\nwant %q", c[0], got, err, c[1])
		}
	}
}

func TestFunctionsThatConfdDoesNotHave(t *testing.T) {
	for _, c := range [][2]string{
		{`{{hostname}}`, "node1"},
		{`{{default "x" ""}} {{default "x" "y"}} {{coalesce "" 0 "z"}} {{ternary "yes" "no" true}} {{empty ""}} {{empty 1}}`, "x y z yes true false"},
		{`{{toJson (map "a" 1)}} {{(fromJson "[1,2]")}}`, `{"a":1} [1 2]`},
		{`{{indent 2 "a\nb"}}|{{nindent 1 "a"}}|{{quote "a\"b"}}|{{squote "a"}}`, "  a\n  b|\n a|\"a\\\"b\"|'a'"},
		{`{{regexMatch "^a+$" "aaa"}} {{regexFind "[0-9]+" "a12"}} {{regexReplaceAll "a(b)" "abc" "$1"}}`, "true 12 bc"},
		{`{{trimPrefix "/a" "/"}} {{repeat 3 "ab"}} {{nospace " a b "}}`, "a ababab ab"},
		{`{{list 1 2}} {{append (list 1) 2}} {{hasKey (dict "a" 1) "a"}} {{keys (dict "b" 1 "a" 2)}} {{values (dict "b" 1 "a" 2)}} {{pluck "a" (dict "a" 1) (dict "b" 2)}}`,
			"[1 2] [1 2] true [a b] [2 1] [1]"},
		{`{{sha256sum ""}}`, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{`{{hostport "::1" 80}} {{hostport "h" "80"}}`, "[::1]:80 h:80"},
	} {
		if got, err := renderText(c[0]); err != nil || got != c[1] {
			t.Errorf("%s\n got %q (%v)\nwant %q", c[0], got, err, c[1])
		}
	}
}

// treeOf returns the tree that shows all of pairs.
func treeOf(pairs ...render.KVPair) render.Tree {
	return render.NewTree(render.PairsOf(append([]render.KVPair(nil), pairs...)), render.Scope{Keys: []string{""}})
}

func renderText(text string) (string, error) {
	parsed, err := render.Parse("test", text, render.Env{World: world})
	if err != nil {
		return "", err
	}
	out, err := parsed.Render(context.Background(), treeOf(sample...), nil)
	return string(out.Content), err
}

func TestAnErrorSaysWhatAndLeavesNoOutput(t *testing.T) {
	for text, want := range map[string]string{
		`before {{getv "/none"}}`:     "key does not exist: /none",
		`{{get "/app"}}`:              "key does not exist: /app",
		`{{gets "/app/["}}`:           "syntax error in pattern",
		`{{json (getv "/json/bad")}}`: "unexpected end of JSON",
		`{{atoi "x"}}`:                "invalid syntax",
		`{{div 1 0}}`:                 "division by zero",
		`{{mod 1 0}}`:                 "division by zero",
		`{{map "a"}}`:                 "in pairs",
		`{{map 1 2}}`:                 "not a text",
		`{{base64Decode "%"}}`:        "illegal base64",
		`{{seq 0 9999999999}}`:        "at most",
		`{{repeat 99999999 "abc"}}`:   "larger than 64 MiB",
		`{{regexMatch "(" "a"}}`:      "missing closing",
		`{{range seq 1 1000000}}{{repeat 100000 "x"}}{{end}}`:            "larger than 64 MiB",
		`{{template "self"}}{{define "self"}}{{template "self"}}{{end}}`: "1000 deep",
		`{{if}}`:            "missing value for if",
		`{{readFile "/x"}}`: "not defined",
	} {
		got, err := renderText(text)
		if err == nil || !strings.Contains(err.Error(), want) || got != "" {
			t.Errorf("%s: got %d bytes, %v; want an error with %q", text, len(got), err, want)
		}
	}
}

func TestServicesAreSortedAndOnlyThoseThatAreUpAndSafe(t *testing.T) {
	record := func(address, port, state string) string {
		return `{"service":"web","instance":"i","address":"` + address + `","port":` + port + `,"state":"` + state + `","weight":7}`
	}
	tree := treeOf([]render.KVPair{
		{"/services/web/c d", record("10.0.0.3", "80", "up")},
		{"/services/web/b", record("::1", "8080", "up")},
		{"/services/web/a", record("h-1.example", "65535", "up")},
		{"/services/web/draining", record("10.0.0.4", "80", "draining")},
		{"/services/web/deep/er", "not an instance"},
		{"/services/api/only", record("10.0.0.4", "80", "draining")},
		{"/services/bad/newline", record(`10.0.0.1\n  server evil`, "80", "up")},
		{"/services/bad/zone", record("fe80::1%x evil", "80", "up")},
		{"/services/bad/port", record("10.0.0.1", "70000", "up")},
		{"/services/bad/weight", `{"address":"10.0.0.1","port":80,"state":"up","weight":257}`},
		{"/services/bad/json", "nonsense"},
		{"/services/bad/dots", record("a..b", "80", "up")}, // HAProxy would refuse the whole file
		{"/services/bad/label", record(strings.Repeat("a", 64)+".example", "80", "up")},
		{"/services/bad/any", record("0.0.0.0", "80", "up")},
		{"/services/bad/tag", `{"address":"10.0.0.1","port":80,"state":"up","tags":["a\n  server evil"]}`},
		{"/services/bad/meta", `{"address":"10.0.0.1","port":80,"state":"up","meta":{"k":"a\r  server evil"}}`},
		{"/services/bad/protocol", `{"address":"10.0.0.1","port":80,"state":"up","protocol":"tcp\n  server evil"}`},
		{"/services/web/c_d-b561f19f", record("10.0.0.6", "80", "up")},
		{"/services/WEB/x", record("10.0.0.7", "80", "up")},
		{"/services/two..dots/x", record("10.0.0.1", "80", "up")},
		{"/services/dot./x", record("10.0.0.1", "80", "up")},
		{"/services/mail/a", `{"service":"x\n  server evil","address":"10.0.0.1","port":80,"state":"up","weight":7}`},
		{"/services/no spaces/x", record("10.0.0.1", "80", "up")},
		{"/services/toplevel", "not a service"},
		{"/other/web/a", record("10.0.0.9", "80", "up")},
	}...)
	parsed, err := render.Parse("test", `{{range services "/services"}}{{.Name}}:{{range .Servers}} {{.Service}}.{{.ID}}={{.HostPort}}{{range .Tags}}{{.}}{{end}}{{range .Meta}}{{.}}{{end}}/{{.Weight}}/{{.IsIP}}{{end}};{{end}}`, render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	out, err := parsed.Render(context.Background(), tree, nil)
	want := "api:;bad:;mail: mail.a=10.0.0.1:80/7/true;web: web.a=h-1.example:65535/7/false web.b=[::1]:8080/7/true web.c_d-b561f19f=10.0.0.3:80/7/true;"
	if got := string(out.Content); err != nil || got != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
	if len(out.Skipped) != 16 {
		t.Errorf("skipped %d records, want 16: %q", len(out.Skipped), out.Skipped)
	}
	if strings.Contains(string(out.Content), "evil") {
		t.Error("a record broke out of its line")
	}
}
