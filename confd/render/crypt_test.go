package render_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/render"
)

// reversed stands for decryption: it turns around what ends in "!".
func reversed(value string) (string, error) {
	text, ok := strings.CutSuffix(value, "!")
	if !ok {
		return "", errors.New("the value cannot be decrypted")
	}
	var out strings.Builder
	for i := len(text) - 1; i >= 0; i-- {
		out.WriteByte(text[i])
	}
	return out.String(), nil
}

func TestEncryptedValuesAreReadAndLookedAtAsOthers(t *testing.T) {
	tree := treeOf(render.KVPair{Key: "/a/x", Value: "cba!"}, render.KVPair{Key: "/a/y", Value: "aaz!"}, render.KVPair{Key: "/plain", Value: "hidden"})
	for text, want := range map[string]string{
		`{{with cget "/a/x"}}{{.Key}}={{.Value}}{{end}}`: "/a/x=abc",
		`{{cgetv "/a/x"}}`: "abc",
		`{{range cgets "/a/*"}}{{base .Key}}={{.Value}} {{end}}`: "x=abc y=zaa ",
		`{{cgetvs "/a/*"}}`:                             "[zaa abc]", // in the order of what is encrypted
		`{{len (cgets "/none/*")}}`:                     "0",
		`{{cgetv "/plain"}}`:                            "the value cannot be decrypted (the value of /plain)",
		`{{cgets "/*"}}`:                                "the value cannot be decrypted",
		`{{cgetvs "/*"}}`:                               "the value cannot be decrypted",
		`{{cgetv (print "/pla" "in")}}`:                 "the value cannot be decrypted",
		`{{cget "/none"}}`:                              "/none",
		`{{if exists "/none"}}{{cgetv "/none"}}{{end}}`: "",
	} {
		for _, sensitive := range []bool{false, true} {
			parsed, err := render.Parse("t", text, render.Env{Decrypt: reversed, Sensitive: sensitive})
			if err != nil {
				t.Fatal(err)
			}
			out, err := parsed.Render(context.Background(), tree, nil)
			switch {
			case err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden")):
				t.Errorf("%s: %v, want %q", text, err, want)
			case err != nil && sensitive && strings.Contains(text, "print") && strings.Contains(err.Error(), "/plain"):
				t.Errorf("%s: %v names a key that the template has made", text, err)
			case err == nil && string(out.Content) != want:
				t.Errorf("%s: %q, want %q", text, out.Content, want)
			}
			if strings.Contains(text, `"/a/`) && !out.Reads.Touches("/a/x") {
				t.Errorf("%s: a change of what it reads is not seen", text)
			}
		}
	}
	parsed, err := render.Parse("t", `{{cgetv "/a/x"}}`, render.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parsed.Render(context.Background(), tree, nil); err == nil || !strings.Contains(err.Error(), "give --secret-keyring") {
		t.Errorf("without keys: %v", err)
	}
}
