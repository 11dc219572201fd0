package install_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/pkg/fuzztest"
)

func TestWhatIsOfItsFormatIsAccepted(t *testing.T) {
	for _, c := range []struct{ format, content string }{
		{"", "anything \x00"},
		{"json", "{\"a\": [1, 2.5, null]}\n"}, {"json", "7"},
		{"yaml", "a: 1\n---\nb: [x, y]\n"}, {"yaml", ""}, {"yml", "- a\n"}, {"yaml", "a: &x [1]\nb: *x\n"},
		{"toml", "a = 1\n[b]\nc = \"x\"\n"}, {"toml", ""},
		{"xml", "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<a b=\"c\"><d/></a>\n"},
	} {
		if err := install.CheckFormat(c.format, []byte(c.content), false); err != nil {
			t.Errorf("%s %q: %v", c.format, c.content, err)
		}
	}
}

func TestWhatIsNotOfItsFormatIsRefusedWithItsLine(t *testing.T) {
	for _, c := range []struct{ format, content, want string }{
		{"json", "{\n\"a\": 1,\n}\n", "JSON in line 3: "},
		{"json", "", "JSON in line 1: unexpected end"},
		{"json", "{} {}", "JSON in line 1"},
		{"yaml", "a: 1\n  secret: 2\n", "YAML in line 2: "},
		{"yaml", "a: [1\n", "YAML in line"},
		{"yaml", "a: 1\na: 2\n", ""}, // a repeated key is seen only by who reads it
		{"yaml", "secret: \"\x01\"", "YAML: "},
		{"toml", "a = 1\nsecret\n", "TOML in line 2: "},
		{"toml", "a = 1\na = 2\n", "TOML in line 2: "},
		{"xml", "<a>\n<secret></a>\n", "XML in line 2: "},
		{"xml", "no element", "XML: there is no element"},
		{"xml", "", "XML: there is no element"},
		{"ini", "", "output_format is \"ini\"; use json"},
	} {
		err := install.CheckFormat(c.format, []byte(c.content), false)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: got %v, want %q", c.format, c.content, err, c.want)
		}
		if hidden := install.CheckFormat(c.format, []byte(c.content), true); (hidden == nil) != (err == nil) || hidden != nil && strings.Contains(hidden.Error(), "secret") {
			t.Errorf("%s %q, sensitive: got %v", c.format, c.content, hidden)
		}
	}
}

func TestWhatIsNestedWithoutEndIsRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 200_000)
	for format, content := range map[string]string{
		"toml": "a = \"]]]]\" # ]]\nb = \n" + deep, "json": deep, "yaml": deep, "xml": strings.Repeat("<a>", 100_000),
	} {
		if err := install.CheckFormat(format, []byte(content), false); err == nil || !strings.Contains(err.Error(), "deep") && !strings.Contains(err.Error(), "depth") {
			t.Errorf("%s: got %v", format, err)
		}
	}
	var wide strings.Builder
	for i := range 6_000 {
		fmt.Fprintf(&wide, "[t%d]\na = [ \"[\\\"[\", '[', \"\"\"[\n\\\"\"\"\", '''[\n''' ] # [\n", i)
	}
	if err := install.CheckFormat("toml", []byte(wide.String()), false); err != nil {
		t.Errorf("many tables are refused: %v", err)
	}
}

func FuzzCheckFormat(f *testing.F) {
	for _, seed := range []string{"a: &a [*a]\n", "<a/>", "a = [[[[", "{\"a\":[]}", "a: &x [1,1,1]\nb: &y [*x,*x,*x]\nc: [*y,*y,*y]\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		for _, format := range []string{"json", "yaml", "toml", "xml"} {
			fuzztest.WantBounded(t, 4096*uint64(len(content))+fuzztest.Fixed, func() {
				if err := install.CheckFormat(format, []byte(content), false); err != nil && err.Error() == "" {
					t.Fatal("an error without words")
				}
			})
		}
	})
}
