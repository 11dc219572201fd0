package render_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

const referenceFile = "../../docs/reference/template-functions.md"

func TestExamplesOfFunctionsMakeWhatTheReferenceSays(t *testing.T) {
	for _, f := range render.Functions() {
		if f.Name == "" || !strings.HasPrefix(f.Signature, f.Name) || f.Text == "" || f.Group == "" {
			t.Errorf("%q is not described", f.Name)
		}
		if f.Example == "" {
			if f.Group != "The machine" && f.Group != "Templates" && f.Group != "Encrypted values" {
				t.Errorf("%s has no example", f.Name)
			}
			continue
		}
		parsed, err := render.Parse(f.Name, f.Example, render.Env{World: world})
		if err != nil {
			t.Error(err)
			continue
		}
		out, err := parsed.Render(context.Background(), treeOf(render.ExampleKeys()...), nil)
		if err != nil || string(out.Content) != f.Result {
			t.Errorf("%s: %s\n got %q (%v)\nwant %q", f.Name, f.Example, out.Content, err, f.Result)
		}
	}
}

// Give -update to write the reference again.
func TestTheReferenceOfFunctionsIsUpToDate(t *testing.T) {
	want := reference()
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(referenceFile); err != nil || string(got) != want {
		t.Errorf("%s is not what the functions say (%v); go test ./confd/render -update writes it", referenceFile, err)
	}
}

// reference is the text of referenceFile.
func reference() string {
	var text strings.Builder
	text.WriteString(referenceHead)
	group := ""
	for _, f := range render.Functions() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&text, "\n### %s\n\n%s| Function | | Example |\n|---|---|---|\n", group, groupTexts[group])
		}
		example := ""
		if f.Example != "" {
			example = "`` " + cell(f.Example) + " `` → `` " + cell(shown(f.Result)) + " ``"
		}
		fmt.Fprintf(&text, "| `%s`%s | %s | %s |\n", cell(f.Signature), map[string]string{render.FromFork: " ¹", render.FromKvd: " ²"}[f.Origin], cell(f.Text), example)
	}
	text.WriteString("\n¹ of confd's maintained fork, ² of kvconfd alone; all others are confd's.\n")
	text.WriteString("\nThe examples read these keys:\n\n```\n")
	for _, pair := range render.ExampleKeys() {
		fmt.Fprintf(&text, "%s = %s\n", pair.Key, strings.ReplaceAll(pair.Value, "\n", `\n`))
	}
	text.WriteString("```\n")
	text.WriteString(referenceTail)
	return text.String()
}

// cell is text in a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// shown is a result with its line ends made visible.
func shown(result string) string { return strings.ReplaceAll(result, "\n", "⏎") }

// groupTexts are what is to be said of whole groups.
var groupTexts = map[string]string{
	"Encrypted values": "They read what crypt has encrypted: base64 of an OpenPGP message of the gzipped text, as `gzip -c | gpg --encrypt | base64` makes it.\n" +
		"`-secret-keyring` names the keys to decrypt with, of which none may have a passphrase.\n\n",
}

const referenceHead = `# Template functions

Templates of kvconfd are Go's [text/template](https://pkg.go.dev/text/template), with the functions
of confd 0.16, exactly as confd has them, those of its maintained fork, and a few more. This page is
made from the program's own table, and every example is run by its tests.

Keys are absolute, without the resource's ` + "`prefix`" + ` and without a slash at the end. A template sees the
keys that its resource names in ` + "`keys`" + `, and what is below them.

## Functions

The functions of text/template are there as well: ` + "`and call eq ge gt html index js le len lt ne not or print printf println slice urlquery`" + `.
In a pipeline the value comes last: ` + "`{{\"/app/name\" | getv}}`" + `.
`

const referenceTail = `
## Services

` + "`services \"/services\"`" + ` reads the records that kvsidekick and kvagent keep. Each service has

| | |
|---|---|
| ` + "`.Name`" + ` | letters, digits, dashes and single dots: safe in any proxy's configuration |
| ` + "`.Lower`, `.Dotted`" + ` | the name in lower case; whether it has a dot, and so may be a whole host name |
| ` + "`.Servers`" + ` | its instances that are up, sorted by name; may be none |
| ` + "`.TCP`, `.TCPByIP`" + ` | those of them that are reached over TCP; and by an IP address |
| ` + "`.Meta`" + ` | the meta entries of all its instances; where they differ, the first instance counts |
| ` + "`.Domains`" + ` | the host names in the meta entry ` + "`domain`" + `, none of them of another service too |

and each server ` + "`.Address .Port .Protocol .Weight .Tags .Meta .Host`" + ` as in its record, ` + "`.ID`" + `, a name that is safe in
any proxy and unique in its service, ` + "`.HostPort`" + `, with brackets around an IPv6 address, and ` + "`.IsIP`" + `. ` + "`.Weight`" + ` is 0 if
the record does not say one, else 1 to 256. A record that is malformed, as one with another weight, or whose texts could break out of their line, is left out
and logged, and holds up nobody else; so is the one in capitals of two services whose names differ in case alone.

` + "```" + `
{{range services "/services"}}backend {{.Name}}
{{- range where "Meta.zone" "a" .TCP | sortBy "Weight"}}
    server {{.ID}} {{.HostPort}}{{with .Weight}} weight {{.}}{{end}}
{{- end}}
{{end}}
` + "```" + `

## Values in files

A value is never read as a template: braces in it are only braces. But it may hold line ends, quotes and
whatever else means something to the program that reads the file. Records of services are checked for that; any
other value is best quoted for its reader:

| Reader | |
|---|---|
| JSON, YAML, TOML, Envoy, Traefik, Prometheus | ` + "`quoteJson`" + ` for a text; ` + "`toJson`" + ` for numbers, lists and maps |
| HAProxy | ` + "`quoteHaproxy`" + `; ` + "`safeName`" + ` for names of backends and servers |
| nginx | ` + "`quoteNginx`" + `; ` + "`safeName`" + ` for names of upstreams |
| a regular expression | ` + "`quoteRegex`" + `, and then for the file it is in |
| SQL, YAML's single quotes | ` + "`squote`" + ` |

## Limits

A render may take 10 seconds, also in a loop that writes nothing, make 64 MiB, and build no single text or
list beyond 64 MiB nor more than 1 GiB in all. Templates may call each other 1,000 deep and include each other 10
deep. A template that goes beyond fails, as on any other error: the file stays as it is, and the error names
template, line, function, key and reason. It runs no command, and reads no file but templates.

With ` + "`sensitive = true`" + ` errors name the place, the function, and keys that stand in the template, and no value.

## Which changes render a file again

kvconfd notes what a render has looked at: keys, whether they were there or not, patterns, and directories with
everything below. A change of anything else does not render the file again. ` + "`ls` and `lsdir`" + ` look at a whole
directory, ` + "`gets`" + ` at what may match its pattern. A template that asks for the time, for names of the network, for
interfaces or for files is rendered at the interval too.

## Where confd and its fork differ

confd 0.16 wins: ` + "`seq`" + ` counts up only, ` + "`reverse`" + ` works in place and leaves what ` + "`gets`" + ` returns alone, an
` + "`include`" + ` sees the same keys. Numbers from JSON are floating: ` + "`{{printf \"%.0f\" .port}}`" + ` prints a large one in full.
Where confd stops with a fault of its program, as when it divides by zero, this is an ordinary error.
`
