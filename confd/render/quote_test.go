package render_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/e2e/parts"
)

// hostile are texts that mean something to the programs that read files.
var hostile = []string{"", "plain", `a "b" 'c'`, `back\slash \n \x41 \`, "$HOME ${HOME} $host", "#no comment", "a;b{c}", "line\nbreak\r\n", "tab\tbell\a", "%[path] %% %d",
	"{{getv \"/x\"}}", "é日本😀", "\u2028\u0085\ufeff", "<a&b>", "--- !!str x: - y", "'", `"`, `\`, "null", "12", "\x7f", "a b"}

func quoted(function, text string) (string, error) {
	parsed, err := render.Parse("t", "{{"+function+` (getv "/x")}}`, render.Env{World: world})
	if err != nil {
		return "", err
	}
	out, err := parsed.Render(context.Background(), treeOf(render.KVPair{Key: "/x", Value: text}), nil)
	return string(out.Content), err
}

func TestAQuotedTextIsReadBackByJSONAndYAMLAndTOML(t *testing.T) {
	check := func(t testing.TB, text string) {
		quoted, err := quoted("quoteJson", text)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.ToValidUTF8(text, "\ufffd")
		var fromJSON struct{ V string }
		if err := json.Unmarshal([]byte(`{"V":`+quoted+`}`), &fromJSON); err != nil || fromJSON.V != want {
			t.Errorf("JSON reads %q as %q (%v)", quoted, fromJSON.V, err)
		}
		var fromYAML struct{ V string }
		if err := yaml.Unmarshal([]byte("v: "+quoted+"\n"), &fromYAML); err != nil || fromYAML.V != want {
			t.Errorf("YAML reads %q as %q (%v)", quoted, fromYAML.V, err)
		}
		var fromTOML struct{ V string }
		if _, err := toml.Decode("V = "+quoted+"\n", &fromTOML); err != nil || fromTOML.V != want {
			t.Errorf("TOML reads %q as %q (%v)", quoted, fromTOML.V, err)
		}
		if strings.ContainsAny(quoted, "\n\r") {
			t.Errorf("%q is of several lines", quoted)
		}
	}
	for _, text := range hostile {
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		quoted, err := quoted("quoteJson", text)
		var back string
		if err != nil || json.Unmarshal([]byte(quoted), &back) != nil || back != strings.ToValidUTF8(text, "\ufffd") {
			t.Fatalf("%q is read back as %q (%v)", quoted, back, err)
		}
	})
}

func TestAQuotedRegularExpressionMatchesItsTextAlone(t *testing.T) {
	for _, text := range hostile {
		quoted, err := quoted("quoteRegex", text)
		if err != nil || !regexp.MustCompile("^(?:"+quoted+")$").MatchString(text) {
			t.Errorf("%q does not match %q (%v)", quoted, text, err)
		}
	}
}

// The programs answer with the text that stands quoted in their configuration.
func TestAQuotedTextIsOneWordOfTheProxy(t *testing.T) {
	for program, c := range map[string]struct {
		function, config, answer, end string
		flags                         []string
	}{
		"haproxy": {"quoteHaproxy", "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\nfrontend f\n  bind unix@%s\n",
			"  http-request return status 200 content-type text/plain string %s if { path /%d }\n", "", []string{"-db", "-f"}},
		"nginx": {"quoteNginx", "daemon off; master_process off; pid nginx.pid; error_log stderr; events {}\nhttp { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; server { listen unix:%s;\n",
			"location = /%[2]d { default_type text/plain; return 200 %[1]s; }\n", "}}\n", []string{"-e", "stderr", "-p", ".", "-c"}},
	} {
		t.Run(program, func(t *testing.T) {
			path := parts.Path(t, program)
			dir, err := os.MkdirTemp("", "quote") // short, for the socket's sake
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			socket := filepath.Join(dir, "s")
			config := fmt.Sprintf(c.config, socket)
			asked := map[int]string{}
			for i, text := range hostile {
				quoted, err := quoted(c.function, text)
				if err != nil {
					if program == "haproxy" || !strings.ContainsAny(text, "$\a\x7f") {
						t.Errorf("%q is refused: %v", text, err)
					}
					continue
				}
				if text == "" {
					continue // no answer to be seen
				}
				asked[i] = text
				config += fmt.Sprintf(c.answer, quoted, i)
			}
			if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config+c.end), 0o644); err != nil {
				t.Fatal(err)
			}
			var output strings.Builder
			command := exec.Command(path, append(c.flags, filepath.Join(dir, "config"))...)
			command.Dir, command.Stdout, command.Stderr = dir, &output, &output
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				command.Process.Signal(syscall.SIGTERM)
				command.Wait()
				if t.Failed() {
					t.Log(output.String())
				}
			}()
			client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "unix", socket)
			}}}
			defer client.CloseIdleConnections()
			for i, text := range asked {
				body, err := get(&client, fmt.Sprintf("http://proxy/%d", i))
				if err != nil || body != text {
					t.Errorf("%s answers %q (%v), want %q", program, body, err, text)
				}
			}
		})
	}
}

// get asks until the program listens.
func get(client *http.Client, url string) (string, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		response, err := client.Get(url)
		if err == nil {
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			return string(body), err
		}
		if time.Now().After(deadline) {
			return "", err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
