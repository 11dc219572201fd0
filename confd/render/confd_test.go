package render_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

var update = flag.Bool("update", false, "write what this run makes as the recorded files")

// recorded is what confd 0.16 makes of templates over keys.
type recorded struct {
	Keys  map[string]string
	Cases []recordedCase
}

type recordedCase struct {
	Template string
	Output   string `json:",omitempty"` // in the notation of strconv.Quote, without the quotes
	Fails    bool   `json:",omitempty"`
}

// environment is what getenv finds in both.
var environment = map[string]string{"KVD_TEST_SET": "a value", "KVD_TEST_EMPTY": ""}

// Set KVD_CONFD to the path of a confd 0.16 to compare with the real one, and give -update as well
// to record its answers.
func TestTemplatesMakeWhatConfdMakes(t *testing.T) {
	compareWith(t, "testdata/confd-0.16.json", "KVD_CONFD", []string{"-onetime", "-backend", "file"}, inputs())
}

// The same for confd's maintained fork and KVD_CONFD_FORK, with the functions that only it has.
func TestTemplatesMakeWhatTheForkMakesOfItsOwnFunctions(t *testing.T) {
	sets := []recorded{{Keys: nastyKeys, Cases: casesOf(forkTemplates)}}
	compareWith(t, "testdata/confd-fork.json", "KVD_CONFD_FORK", []string{"file", "--onetime"}, sets)
}

// compareWith holds what we make of sets to what is recorded in file, or to the program that the
// environment variable names.
func compareWith(t *testing.T, file, variable string, args []string, sets []recorded) {
	t.Helper()
	data, err := os.ReadFile(file)
	var known []recorded
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if confd := os.Getenv(variable); confd != "" {
		fresh := askConfd(t, confd, args, sets)
		switch {
		case *update:
			writeJSON(t, file, fresh)
		case !slices.EqualFunc(known, fresh, func(a, b recorded) bool { return slices.Equal(a.Cases, b.Cases) }):
			t.Errorf("%s makes something else than what is recorded", confd)
		}
		known, err = fresh, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(known) != len(sets) {
		t.Fatalf("%d sets of keys are recorded, %d are wanted; record them with %s", len(known), len(sets), variable)
	}
	cases, failing := 0, 0
	for i, set := range known {
		if !maps.Equal(set.Keys, sets[i].Keys) || !slices.EqualFunc(set.Cases, sets[i].Cases, func(a, b recordedCase) bool { return a.Template == b.Template }) {
			t.Fatalf("set %d is recorded from other inputs; record it again with %s", i, variable)
		}
		tree := render.NewTree(render.PairsOf(pairsIn(set.Keys)), render.Scope{Keys: []string{""}, Textual: true}) // as confd's file backend
		for _, c := range set.Cases {
			cases++
			if c.Fails {
				failing++
			}
			output, err := renderOver(tree, c.Template)
			if quoted := quoteOutput(output); (err != nil) != c.Fails || quoted != c.Output {
				t.Errorf("set %d %q\n%s\n  ours %s (%v)\ntheirs %s (fails: %v)", i, set.Keys, c.Template, quoted, err, c.Output, c.Fails)
			}
		}
	}
	t.Logf("%d templates over %d sets of keys, %d of which fail", cases, len(known), failing)
}

func renderOver(tree render.Tree, text string) (string, error) {
	w := render.World{Getenv: func(name string) string { return environment[name] }}
	parsed, err := render.Parse("test", text, render.Env{World: w})
	if err != nil {
		return "", err
	}
	out, err := parsed.Render(context.Background(), tree, nil)
	return string(out.Content), err
}

func pairsIn(keys map[string]string) (pairs []render.KVPair) {
	for key, value := range keys {
		pairs = append(pairs, render.KVPair{Key: key, Value: value})
	}
	return pairs
}

func quoteOutput(output string) string {
	quoted := strconv.QuoteToASCII(output)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func writeJSON(t *testing.T, file string, value any) {
	t.Helper()
	var data strings.Builder
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// askConfd runs the confd program once over all inputs: each case is a resource of its own, with the
// number of its set as prefix.
func askConfd(t *testing.T, confd string, args []string, sets []recorded) []recorded {
	t.Helper()
	dir := t.TempDir()
	values := map[string]string{"/other": "keeps the file from being empty"}
	for _, sub := range []string{"conf.d", "templates", "out"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, set := range sets {
		prefix := fmt.Sprintf("/set%03d", i)
		for key, value := range set.Keys {
			values[prefix+key] = value
		}
		for j, c := range set.Cases {
			name := fmt.Sprintf("%03d-%04d", i, j)
			write("templates/"+name, c.Template)
			write("conf.d/"+name+".toml", fmt.Sprintf("[template]\nsrc = %q\ndest = %q\nprefix = %q\nkeys = [\"/\"]\n", name, filepath.Join(dir, "out", name), prefix))
		}
	}
	writeJSON(t, filepath.Join(dir, "keys.yaml"), values) // JSON is YAML
	command := exec.Command(confd, append(args, "--file", filepath.Join(dir, "keys.yaml"), "--confdir", dir, "--log-level", "error")...)
	command.Env = os.Environ()
	for name, value := range environment {
		command.Env = append(command.Env, name+"="+value)
	}
	output, err := command.CombinedOutput() // fails as a whole if one template does
	t.Logf("%s: %v %.300s", confd, err, output)
	made := make([]recorded, len(sets))
	for i, set := range sets {
		made[i].Keys = set.Keys
		for j, c := range set.Cases {
			content, err := os.ReadFile(filepath.Join(dir, "out", fmt.Sprintf("%03d-%04d", i, j)))
			made[i].Cases = append(made[i].Cases, recordedCase{c.Template, quoteOutput(string(content)), err != nil})
		}
	}
	return made
}

// inputs are the keys and templates that confd was asked about.
func inputs() []recorded {
	sets := []recorded{
		{Keys: nastyKeys, Cases: casesOf(nastyTemplates)},
		{Keys: map[string]string{}, Cases: casesOf(emptyTemplates)},
	}
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 16))
		set := recorded{Keys: randomKeys(r)}
		for range 20 {
			set.Cases = append(set.Cases, recordedCase{Template: randomTemplate(r)})
		}
		sets = append(sets, set)
	}
	return sets
}

func casesOf(templates []string) (cases []recordedCase) {
	for _, text := range templates {
		cases = append(cases, recordedCase{Template: text})
	}
	return cases
}

var nastyKeys = map[string]string{
	"/app/db/host": "10.0.0.5", "/app/db/port": "5432", "/app/empty": "", "/app/name": "shop",
	"/app/up/z": "alpha", "/app/up/aa": "beta", "/app/up/mmm": "Alpha", "/app-2/name": "other", "/app.x/name": "dot", "/root": "value",
	"/json/object": `{"host":"h","port":8080,"big":1000000,"f":1.5,"null":null,"list":[1,"a",null],"deep":{"a":{"b":true}}}`,
	"/json/array":  `["x",2,null,{"k":"v"},[1]]`, "/json/null": "null", "/json/bad": "{", "/json/number": "12", "/json/empty": "", "/json/string": `"s"`,
	"/json/dup": `{"a":1,"a":2}`, "/json/trailing": `{} x`, "/json/unicode": `{"é":"\u00e9\ud83d\ude00"}`,
	"/key": "both", "/key/below": "both", "/key/below/deep": "both", "/keyless/x": "1",
	"/odd/[x]": "bracket", "/odd/a*b": "star", "/odd/q?": "question", `/odd/back\slash`: "backslash", "/odd/ä": "umlaut", "/odd/日本": "kanji", "/odd/with space": "space",
	"/odd/.hidden": "dot", "/odd/..dots/x": "dots", "/odd/_under/x": "under", "/odd/-": "dash",
	"/text/newline": "a\nb\n", "/text/quote": `say "hi" 'x' \ $y`, "/text/template": "{{getv \"/root\"}}", "/text/html": "<a&b>", "/text/tab": "a\tb", "/text/control": "a\u0001b", "/text/space": "  ",
	"/num/a": "7", "/num/b": "-3", "/num/zero": "0", "/num/hex": "0x10", "/num/float": "1.5", "/num/big": "99999999999999999999", "/num/plus": "+4", "/num/under": "1_0",
	"/b64/ok": "aGk=", "/b64/bad": "%", "/b64/binary": "/w==", "/b64/nopad": "aGk", "/b64/newline": "aG\nk=",
	"/bool/t": "true", "/bool/T": "TRUE", "/bool/1": "1", "/bool/yes": "yes", "/bool/f": "F",
	"/len/c": "ccc", "/len/bb": "bb", "/len/aaaa": "a", "/len/dddd": "d",
}

var nastyTemplates = []string{
	`{{exists "/app/name"}} {{exists "/app"}} {{exists "app/name"}} {{exists "/app/name/"}} {{exists ""}} {{exists "/"}} {{exists "/app/empty"}} {{exists "//root"}}`,
	`{{(get "/app/name").Key}}={{(get "/app/name").Value}}`, `{{get "/app/name"}}`, `{{with get "/app/empty"}}[{{.Value}}]{{end}}`, `{{get "/app"}}`, `{{get "/none"}}`, `{{get ""}}`, `{{(get "/root").Nothing}}`,
	`{{getv "/app/name"}}`, `{{getv "/none" "fallback"}}`, `[{{getv "/app/empty" "fallback"}}]`, `{{getv "/none" "one" "two"}}`, `{{getv "/none"}}`, `{{getv "/key"}} {{getv "/key/below"}}`, `{{getv "/root" 1}}`, `{{getv "/none" ""}}x`, `{{getv}}`,
	`{{range gets "/app/*"}}{{.Key}}={{.Value}} {{end}}`, `{{gets "/app/*"}}`, `{{range gets "/app*/name"}}{{.Key}} {{end}}`, `{{range gets "/none/*"}}x{{else}}none{{end}}`, `{{len (gets "/none")}}`, `{{gets "/root"}}`, `{{gets "/*"}}`, `{{gets "*"}}`, `{{gets "**"}}`, `{{gets "/**"}}`, `{{gets "/*/*"}}`, `{{gets "/*/*/*"}}`, `{{gets ""}}`, `{{gets "/"}}`, `{{gets "/app/"}}`, `{{gets "/app/*/"}}`,
	`{{gets "/odd/[[]x]"}}`, `{{gets "/odd/[x]"}}`, `{{gets "/odd/[^x]"}}`, `{{gets "/odd/a\\*b"}}`, `{{gets "/odd/a*b"}}`, `{{gets "/odd/q\\?"}}`, `{{gets "/odd/?"}}`, `{{gets "/odd/??"}}`, `{{gets "/odd/back\\\\slash"}}`, `{{gets "/odd/[ä-ö]"}}`, `{{gets "/odd/*"}}`, `{{gets "/app[/]name"}}`, `{{gets "/app[.-]*/name"}}`, `{{gets "/[a-k]*/*"}}`, `{{gets "[/]root"}}`, `{{gets "/app/["}}`, `{{gets "/none/["}}`, `{{gets "["}}`, `{{gets "/a]"}}`, `{{gets "/a[]a]"}}`, `{{gets "/a[a-"}}`, `{{gets "/app/\\"}}`, `{{gets "/app/n[a]me"}}`, `{{gets "/ap?/name"}}`, `{{gets "/app?2/name"}}`, `{{gets "/app/../root"}}`, `{{gets "//root"}}`, `{{gets "/key"}} {{gets "/key/*"}} {{gets "/key*"}} {{gets "/key*/*"}}`,
	`{{getvs "/app/up/*"}}`, `{{join (getvs "/app/up/*") ","}}`, `{{getvs "/none/*"}}`, `{{getvs "/app/["}}`, `{{getvs "/*"}}`, `{{index (getvs "/app/up/*") 0}}`, `{{index (getvs "/none") 0}}`,
	`{{ls "/app"}}`, `{{ls "/app/"}}`, `{{ls "/none"}}`, `{{ls "app"}}`, `{{ls ""}}`, `{{ls "."}}`, `{{ls "/"}}`, `{{ls "//"}}`, `{{ls "/."}}`, `{{ls "/.."}}`, `{{ls "/root"}}`, `{{ls "/root/"}}`, `{{ls "/key"}}`, `{{ls "/key/"}}`, `{{ls "/key/below"}}`, `{{ls "//app"}}`, `{{ls "/app//"}}`, `{{ls "/app/."}}`, `{{ls "/app/db/.."}}`, `{{ls "/app/../app"}}`, `{{ls "/odd"}}`, `{{ls "/odd/."}}`, `{{ls "/odd/.."}}`, `{{ls "/odd/.hidden"}}`, `{{ls "/app*"}}`, `{{ls "/ap"}}`, `{{ls "/app/na"}}`, `{{len (ls "/none")}}`, `{{join (ls "/app") "+"}}`,
	`{{lsdir "/app"}}`, `{{lsdir "/app/"}}`, `{{lsdir "/"}}`, `{{lsdir "//"}}`, `{{lsdir ""}}`, `{{lsdir "/app/db"}}`, `{{lsdir "/none"}}`, `{{lsdir "app"}}`, `{{lsdir "/key"}}`, `{{lsdir "/odd"}}`, `{{lsdir "/odd/."}}`, `{{lsdir "/odd/.."}}`, `{{lsdir "/app//"}}`, `{{lsdir "//app"}}`, `{{lsdir "/app/."}}`, `{{lsdir "/app/db/.."}}`, `{{lsdir "/ap"}}`, `{{len (lsdir "/none")}}`,
	`{{base "/a/b"}} {{base ""}} {{base "/"}} {{base "a"}} {{base "/a/"}} {{base "//"}} {{base "a/.."}}`, `{{dir "/a/b"}} {{dir ""}} {{dir "/"}} {{dir "a"}} {{dir "/a/"}} {{dir "a/b/../c"}}`, `{{base 1}}`,
	`{{split "a,b" ","}} {{split "" ","}} {{len (split "" ",")}} {{split "abc" ""}} {{split "日本" ""}} {{split "a,b," ","}} {{len (split "a,b," ",")}} {{split ",," ","}}`, `{{index (split "a:b" ":") 1}}`, `{{split "a"}}`,
	`{{join (split "a,b" ",") ""}} {{join (split "a" ",") "x"}}`, `{{join "a" ","}}`, `{{join (seq 1 2) ","}}`,
	`{{replace "aaa" "a" "b" 2}} {{replace "aaa" "a" "b" -1}} {{replace "aaa" "" "-" -1}} {{replace "aaa" "a" "" 0}} {{replace "abc" "x" "y" 9}}`,
	`{{contains "abc" "b"}} {{contains "abc" ""}} {{contains "" "a"}}`, `{{trimSuffix "a.cfg" ".cfg"}} {{trimSuffix "a" "a"}}|{{trimSuffix "abab" "ab"}}`, `{{toUpper "aéß"}}{{toLower "BÉİ"}}`,
	`{{with json (getv "/json/object")}}{{.host}}:{{.port}} {{.big}} {{.f}} {{.null}} {{.list}} {{.deep.a.b}} {{.none}} {{.deep}}{{end}}`, `{{json (getv "/json/object")}}`, `{{range $k, $v := json (getv "/json/object")}}{{$k}}={{$v}};{{end}}`,
	`{{(json (getv "/json/null")).field}}`, `{{json (getv "/json/null")}} {{len (json (getv "/json/null"))}}`, `{{json (getv "/json/bad")}}`, `{{json (getv "/json/array")}}`, `{{json (getv "/json/number")}}`, `{{json (getv "/json/empty")}}`, `{{json (getv "/json/dup")}}`, `{{json (getv "/json/trailing")}}`, `{{json (getv "/json/unicode")}}`, `{{json "[]"}}`, `{{(json "{\"a\":{\"b\":1}}").a.b}} {{(json "{}").a}}`, `{{(json "{}").a.b}}`, `{{(json "{\"a\":1}").a.b}}`, `{{printf "%.0f" (json (getv "/json/object")).big}}`, `{{printf "%d" (json (getv "/json/object")).port}}`, `{{if eq (json (getv "/json/object")).port 8080.0}}eq{{end}}`, `{{eq (json (getv "/json/object")).port 8080}}`, `{{add (json (getv "/json/object")).port 1}}`,
	`{{range jsonArray (getv "/json/array")}}{{.}} {{end}}`, `{{jsonArray (getv "/json/null")}} {{len (jsonArray "null")}}`, `{{jsonArray (getv "/json/object")}}`, `{{jsonArray "[1e3,1e21,0.1,-0]"}}`, `{{index (jsonArray (getv "/json/array")) 3}}`, `{{jsonArray ""}}`,
	`{{(map "a" 1 "b" "two").b}}`, `{{map "a" 1 "b" (map "c" nil)}}`, `{{map}}`, `{{map "a"}}`, `{{map 1 2}}`, `{{(map "a" 1).none}}`, `{{map "a" 1 "a" 2}}`, `{{range $k, $v := map "z" 1 "a" 2}}{{$k}}{{$v}}{{end}}`,
	`[{{getenv "KVD_TEST_SET"}}] [{{getenv "KVD_TEST_EMPTY"}}] [{{getenv "KVD_TEST_EMPTY" "fallback"}}] [{{getenv "KVD_TEST_NONE"}}] [{{getenv "KVD_TEST_NONE" "a" "b"}}] [{{getenv "KVD_TEST_SET" "fallback"}}] [{{getenv ""}}]`,
	`{{fileExists "/"}} {{fileExists ""}}`, `{{parseBool (getv "/bool/t")}} {{parseBool (getv "/bool/T")}} {{parseBool (getv "/bool/1")}} {{parseBool (getv "/bool/f")}}`, `{{parseBool (getv "/bool/yes")}}`, `{{parseBool ""}}`,
	`{{atoi (getv "/num/a")}} {{atoi (getv "/num/b")}} {{atoi (getv "/num/plus")}} {{atoi "007"}}`, `{{atoi (getv "/num/hex")}}`, `{{atoi (getv "/num/float")}}`, `{{atoi (getv "/num/big")}}`, `{{atoi (getv "/num/under")}}`, `{{atoi ""}}`, `{{atoi " 1"}}`, `{{atoi 1}}`,
	`{{base64Encode "hi"}} {{base64Encode ""}} {{base64Encode "ÿ"}}`, `{{base64Decode (getv "/b64/ok")}}`, `{{base64Decode (getv "/b64/bad")}}`, `{{base64Decode (getv "/b64/binary")}}`, `{{base64Decode (getv "/b64/nopad")}}`, `{{base64Decode (getv "/b64/newline")}}`, `{{base64Decode ""}}`,
	`{{reverse (split "a,b,c" ",")}}`, `{{range reverse (gets "/app/up/*")}}{{.Value}} {{end}}`, `{{range reverse (sortKVByLength (gets "/app/up/*"))}}{{.Value}} {{end}}`, `{{reverse (seq 1 3)}}`, `{{reverse "abc"}}`, `{{reverse (ls "/app")}}`, `{{reverse (getvs "/app/up/*")}}`, `{{reverse 5}}`, `{{reverse (jsonArray "[1,2]")}}`, `{{reverse nil}}`, `{{reverse (split "" "")}}`,
	`{{$l := split "c,a,b" ","}}{{reverse $l}} {{$l}} {{$s := split "ccc,a,bb" ","}}{{sortByLength $s}} {{$s}}`, `{{$g := gets "/app/up/*"}}{{$s := sortKVByLength $g}}{{range reverse $s}}{{.Value}} {{end}}{{range $g}}{{.Value}} {{end}}`,
	`{{range sortKVByLength (gets "/len/*")}}{{.Key}} {{end}}`, `{{sortByLength (getvs "/len/*")}}`, `{{sortByLength (ls "/app")}}`, `{{sortKVByLength (gets "/none/*")}}`, `{{sortByLength (gets "/len/*")}}`, `{{sortKVByLength (split "a" ",")}}`, `{{sortByLength (split "日,a,bb" ",")}}`,
	`{{add 1 2}} {{sub 5 3}} {{mul 2 3}} {{div 7 2}} {{mod 7 2}} {{div -7 2}} {{mod -7 2}} {{add -1 1}} {{mul 9223372036854775807 2}}`, `{{div 1 0}}`, `{{mod 1 0}}`, `{{add 1}}`, `{{add 1 2 3}}`, `{{add "1" 2}}`, `{{add 1.5 1}}`, `{{add (atoi "1") 1}}`,
	`{{seq 1 3}} {{seq 3 1}} {{seq 1 1}} {{seq -1 1}} {{len (seq 5 1)}}`, `{{range seq 1 3}}{{.}},{{end}}`, `{{range $i, $n := seq 5 7}}{{$i}}{{$n}} {{end}}`, `{{seq 1}}`, `{{seq "1" 2}}`,
	`{{getv "/text/newline"}}|{{getv "/text/quote"}}|{{getv "/text/template"}}|{{getv "/text/html"}}|{{getv "/text/tab"}}|{{getv "/text/control"}}|{{getv "/text/space"}}|`, `{{html (getv "/text/html")}} {{js (getv "/text/quote")}} {{urlquery (getv "/text/html")}}`, `{{printf "%q %v %5s %-5s|%x" (getv "/root") (get "/root") "a" "b" "hi"}}`, `{{print 1 2 "a" "b" 3}} {{println "x" 1}}`, `{{printf "%d" "a"}} {{printf "%z" 1}} {{printf "%s"}} {{printf "a" 1}}`, `{{printf "/app/%s" "name" | getv}}`, `{{"/app/name" | getv}} {{"/none" | getv}}`,
	`{{len (gets "/app/*")}} {{len "日本"}}`, `{{slice "abc" 1 2}} {{index (ls "/app") 1}} {{index (map "a" 1) "a"}}`, `{{index (ls "/app") 9}}`, `{{slice (ls "/app") 1 2}}`,
	`{{if exists "/root"}}yes{{else}}no{{end}}{{if exists "/none"}}yes{{else}}no{{end}}{{with getv "/app/empty"}}with{{else}}empty{{end}}`, `{{range lsdir "/app"}}{{.}}:{{range gets (printf "/app/%s/*" .)}}{{base .Key}}={{.Value}} {{end}};{{end}}`, `{{define "x"}}[{{.}}]{{end}}{{range ls "/app"}}{{template "x" .}}{{end}}`, `{{block "b" "dot"}}{{.}}{{end}}`, `{{template "none"}}`, `{{.}}`, `{{.x}}`, `{{$}}`, `{{nil}}`, `{{break}}`, `{{range ls "/app"}}{{if eq . "empty"}}{{continue}}{{end}}{{.}}{{if eq . "name"}}{{break}}{{end}}{{end}}`, `{{range 3}}{{.}}{{end}}`, `{{range $i, $c := "ab"}}{{$i}}{{$c}}{{end}}`, `{{/* note */}}a {{- "b" -}} c`, `{{and 1 0}} {{or 0 "x"}} {{not 1}} {{eq "a" "b" "a"}} {{lt 1 2}} {{ge "b" "a"}} {{ne 1 1}}`, `{{unknown}}`, `{{if}}`, `{{range}}`, `{{end}}`, `{{"unclosed}}`, `{{getv "/root"`, ``, `plain`, "{{`raw`}}", `{{call 1}}`, `{{1 | add 2}}`, `{{true}} {{1.0}} {{1e3}} {{0x10}} {{'a'}} {{1i}}`,
	`{{range gets "/app/up/*"}}{{.Key | base | toUpper}} {{end}}`, `{{$x := 1}}{{range seq 1 3}}{{$x = add $x .}}{{end}}{{$x}}`, `{{with $x := getv "/root"}}{{$x}}{{end}}`, `{{range $i, $p := gets "/app/up/*"}}{{if $i}},{{end}}{{$p.Value}}{{end}}`, `{{len (getvs "/app/*")}}`, `{{lookupIP "127.0.0.1"}} {{lookupIPV4 "127.0.0.1"}} {{lookupIPV6 "127.0.0.1"}} {{lookupIPV6 "::1"}} {{lookupIP "::ffff:10.0.0.1"}}`, `{{datetime.Format "x"}}`,
	`{{map "a" nil}}`, `{{(map "a" nil).a}}`,
}

// forkTemplates are about the functions that only the fork has.
var forkTemplates = []string{
	`{{default "x" ""}} {{default "x" "y"}} {{default 1 0}} {{default "x" false}} {{default "x" (gets "/none")}} {{default "x" (ls "/app")}} {{default "x" nil}} {{default "x" 0.0}} {{"" | default "p"}}`,
	`{{coalesce "" 0 "z"}} {{coalesce}} {{coalesce "" 0}} {{coalesce nil (map) "a"}}`, `{{empty ""}} {{empty 1}} {{empty nil}} {{empty (map)}} {{empty (list)}} {{empty (get "/root")}} {{empty (get "/app/empty")}} {{empty (json "null")}} {{empty 0.0}} {{empty false}}`,
	`{{ternary "yes" "no" true}} {{ternary 1 2 false}}`, `{{ternary "yes" "no" "true"}}`,
	`{{toJson (map "a" 1 "b" (list "x" nil 1.5 true))}} {{toJson "<a&b>"}} {{toJson nil}} {{toJson (get "/root")}} {{toJson (gets "/app/up/*")}} {{toJson (ls "/app")}} {{toJson (list)}}`, `{{toPrettyJson (map "b" 1 "a" (list 1 2))}}|{{toPrettyJson (list)}}|{{toPrettyJson "x"}}`,
	`{{fromJson "[1,2]"}} {{fromJson "null"}} {{fromJson "\"s\""}} {{fromJson "12"}} {{(fromJson "{\"a\":{\"b\":1}}").a.b}} {{fromJson "true"}}`, `{{fromJson ""}}`, `{{fromJson "{"}}`,
	`{{indent 2 "a\nb"}}|{{indent 0 "a"}}|{{indent 2 ""}}|{{indent -1 "a\nb"}}|{{indent 2 "a\n"}}|{{indent 1 "\n\n"}}`, `{{nindent 2 "a\nb"}}|{{nindent 2 ""}}|{{nindent 0 "a"}}`,
	`{{quote "a\"b"}} {{quote ""}} {{quote "é\n\x01\u2028"}} {{squote "it's"}} {{squote ""}} {{squote "''"}}`,
	`{{regexMatch "^a+$" "aaa"}} {{regexMatch "b" "aaa"}} {{regexFind "[0-9]+" "a12b3"}} [{{regexFind "x" "a"}}] {{regexReplaceAll "a(b)" "abcab" "$1"}} {{regexReplaceAll "a(b)" "abc" "${1}x"}} {{regexReplaceAll "(?P<n>b)" "abc" "<$n>"}} {{regexReplaceAll "" "abc" "-"}}`, `{{regexMatch "(" "a"}}`, `{{regexFind "[" "a"}}`, `{{regexReplaceAll "*" "a" "b"}}`,
	`{{trimPrefix "/a" "/"}} {{trimPrefix "a" "b"}} {{repeat 3 "ab"}} [{{repeat 0 "a"}}{{repeat -1 "a"}}{{repeat 2 ""}}] {{nospace " a b\t\nc\u00a0d "}}`,
	`{{snakecase "maxHTTPConns"}} {{snakecase "HTTPServer"}} {{snakecase "a-b_c d"}} {{snakecase ""}} {{snakecase "__a--b  c"}} {{snakecase "ABC"}} {{snakecase "aBC"}} {{snakecase "éÉa"}} {{snakecase "a1B2"}} {{snakecase "A"}} {{snakecase "ÄÖÜß"}}`,
	`{{kebabcase "maxHTTPConns"}} {{kebabcase "HTTP_Server"}} {{kebabcase "already-kebab"}} {{kebabcase "X Y Z"}}`, `{{camelcase "max_http_conns"}} {{camelcase "Some-Thing else"}} {{camelcase ""}} {{camelcase "ABC"}} {{camelcase "HTTPServer"}} {{camelcase "é_éa"}} {{camelcase "a_1b"}} {{camelcase "_x"}}`,
	`{{list 1 2}} {{list}} {{len (list)}} {{list "a" nil}}`, `{{append (list 1) 2}} {{append (list) "a"}} {{$l := list 1 2}}{{append $l 3}} {{$l}}`, `{{append "a" 1}}`,
	`{{dict "a" 1}} {{dict}} {{hasKey (dict "a" 1) "a"}} {{hasKey (dict "a" 1) "b"}} {{hasKey (dict "a" nil) "a"}} {{keys (dict "b" 1 "a" 2)}} {{keys (dict)}} {{values (dict "b" 1 "a" 2)}} {{values (dict)}}`, `{{dict "a"}}`, `{{dict 1 2}}`, `{{hasKey (list) "a"}}`, `{{pluck "a" (dict "a" 1) (dict "b" 2) (dict "a" nil)}} {{pluck "x" (dict "a" 1)}} {{pluck "a"}} {{len (pluck "x")}}`,
	`{{sha256sum ""}} {{sha256sum "é"}}`, `{{lookupIfaceIPV4 "lo"}} {{lookupIfaceIPV4 "none"}}[{{lookupIfaceIPV6 "none"}}]`, `{{hasKey (json (getv "/json/object")) "host"}} {{keys (json (getv "/json/object"))}}`, `{{range keys (json (getv "/json/object"))}}{{. | toUpper | quote}},{{end}}`, `{{getv "/none" "" | default "d"}} {{getenv "KVD_TEST_NONE" | empty}}`,
}

var emptyTemplates = []string{
	`{{ls "/"}}{{lsdir "/"}}{{gets "/*"}}{{getvs "*"}}{{exists "/"}}`, `{{gets "["}}`, `{{getvs "/a["}}`, `{{getv "/x"}}`, `{{getv "/x" "y"}}`, `{{ls ""}}`, `{{range gets "/*"}}x{{else}}none{{end}}`, `static`,
}

var segments = []string{"a", "b", "a-b", "a.b", "ab", "0", "x", "_h", "é", "[a]", "a b", "A"}

func randomKeys(r *rand.Rand) map[string]string {
	keys := map[string]string{}
	values := []string{"", "1", "b", "a", "{}", `{"a":"x","b":[1,2]}`, `["q",1]`, "null", "true", "x,y", "a\nb", "é", "-5", "1000000"}
	for range 4 + r.IntN(20) {
		keys[randomPath(r, segments)] = values[r.IntN(len(values))]
	}
	return keys
}

func randomPath(r *rand.Rand, from []string) string {
	path := ""
	for range 1 + r.IntN(4) {
		path += "/" + from[r.IntN(len(from))]
	}
	return path
}

// randomTemplate returns a template of a few calls, each of which shows the type of what it returns.
func randomTemplate(r *rand.Rand) string {
	var text strings.Builder
	for range 1 + r.IntN(3) {
		fmt.Fprintf(&text, "{{printf %s (%s)}}\n", strconv.Quote([]string{"%v", "%q", "%d", "%s"}[r.IntN(4)]), randomCall(r, 3))
	}
	return text.String()
}

func randomCall(r *rand.Rand, depth int) string {
	pick := func(choices ...string) string { return choices[r.IntN(len(choices))] }
	text := func() string {
		if depth > 0 && r.IntN(2) == 0 {
			return "(" + randomText(r, depth-1) + ")"
		}
		return strconv.Quote(pick("", "a", "a,b", "/a/b", "x", "é", "[", "1", "null", `{"a":1}`, randomPath(r, segments)))
	}
	list := func() string {
		if depth > 0 && r.IntN(2) == 0 {
			return "(" + pick("reverse", "sortByLength") + " (" + randomList(r, randomPattern(r), text) + "))"
		}
		return "(" + randomList(r, randomPattern(r), text) + ")"
	}
	switch r.IntN(12) {
	case 0:
		return "exists " + strconv.Quote(randomPath(r, segments))
	case 1:
		return "gets " + strconv.Quote(randomPattern(r))
	case 2:
		return "sortKVByLength (gets " + strconv.Quote(randomPattern(r)) + ")"
	case 3:
		return "reverse (" + pick("sortKVByLength (gets ", "(gets ") + strconv.Quote(randomPattern(r)) + "))"
	case 4:
		return "join " + list() + " " + text()
	case 5:
		return "len " + list()
	case 6:
		return pick("json ", "jsonArray ", "atoi ", "parseBool ", "base64Decode ") + text()
	case 7:
		return pick("add", "sub", "mul", "div", "mod", "seq") + fmt.Sprintf(" %d %d", r.IntN(9)-3, r.IntN(9)-3)
	case 8, 9:
		return randomText(r, depth)
	}
	return strings.Trim(list(), "()") // a list as it is
}

func randomText(r *rand.Rand, depth int) string {
	pick := func(choices ...string) string { return choices[r.IntN(len(choices))] }
	inner := strconv.Quote(pick("a", "/a/b", "a,b", "", "X", "é", randomPath(r, segments)))
	if depth > 0 && r.IntN(2) == 0 {
		inner = "(" + randomText(r, depth-1) + ")"
	}
	switch r.IntN(5) {
	case 0:
		return "getv " + strconv.Quote(randomPath(r, segments)) + pick("", " "+inner)
	case 1:
		return pick("base ", "dir ", "toUpper ", "toLower ", "base64Encode ") + inner
	case 2:
		return "replace " + inner + ` "a" "b" ` + pick("-1", "1", "0")
	case 3:
		return "trimSuffix " + inner + ` "b"`
	}
	return "getenv " + pick(`"KVD_TEST_SET"`, `"KVD_TEST_EMPTY"`, `"KVD_TEST_NONE" `+inner)
}

func randomList(r *rand.Rand, pattern string, text func() string) string {
	switch r.IntN(4) {
	case 0:
		return "ls " + strconv.Quote(randomDir(r))
	case 1:
		return "lsdir " + strconv.Quote(randomDir(r))
	case 2:
		return "getvs " + strconv.Quote(pattern)
	}
	return "split " + text() + ` ","`
}

func randomDir(r *rand.Rand) string {
	if r.IntN(4) == 0 {
		return randomPath(r, append([]string{".", "..", ""}, segments...)) + []string{"", "/", "/."}[r.IntN(3)]
	}
	return []string{"", "/"}[r.IntN(2)] + randomPath(r, segments[:7])[r.IntN(2):]
}

func randomPattern(r *rand.Rand) string {
	return randomPath(r, []string{"a", "*", "?", "a*", "*b", "a-b", "[ab]", "[^x]b", `\a`, "a?b", "*", "[", "[/]a", "a[/.-]b", "x", "é"})
}
