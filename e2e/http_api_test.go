package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// call is one command of the reference: a curl line, continued after a backslash, with the status
// that it answers in a comment at its end. The block after it, if there is one, is what it prints.
type call struct {
	line    int // of docs/reference/http-api.md
	command string
	status  string
	answer  block // language "" if the page shows none
}

var statusComment = regexp.MustCompile(`\s+# (\d{3})$`)

// readCalls returns the commands of a page in their order. A command that is no curl has no status.
func readCalls(t *testing.T, page string) (calls []call) {
	t.Helper()
	var language, command string
	for i, line := range strings.Split(page, "\n") {
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			language = fence
			if language != "" && language != "sh" && len(calls) > 0 {
				calls[len(calls)-1].answer.language = language
			}
			continue
		}
		switch {
		case language == "sh" && strings.HasSuffix(line, `\`):
			command += strings.TrimSuffix(line, `\`)
		case language == "sh" && command+line != "":
			c := call{line: i + 1, command: command + line}
			if status := statusComment.FindStringSubmatch(c.command); status != nil {
				c.status = status[1]
			}
			if c.status == "" && strings.Contains(c.command, "curl ") {
				t.Errorf("line %d: %s: no status at its end, such as # 200", c.line, c.command)
			}
			calls, command = append(calls, c), ""
		case language != "" && len(calls) > 0:
			calls[len(calls)-1].answer.text += line + "\n"
		}
	}
	return calls
}

// TestEveryCallOfTheReferenceAnswersAsPrinted types the page into a shell, from its beginning to
// its end, against the built kvd with a fresh store.
func TestEveryCallOfTheReferenceAnswersAsPrinted(t *testing.T) {
	parts.Need(t, "curl")
	page, err := os.ReadFile("../docs/reference/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	calls := readCalls(t, string(page))
	if len(calls) < 30 {
		t.Fatalf("only %d commands in the page: is it still read as it is written?", len(calls))
	}
	folder := t.TempDir()
	// What a person would see is the page's matter; how the test gets at it is curl's configuration.
	curlrc := "silent\nmax-time = 20\nwrite-out = \"%{stderr}%{http_code}\"\n"
	if err := os.WriteFile(filepath.Join(folder, ".curlrc"), []byte(curlrc), 0o600); err != nil {
		t.Fatal(err)
	}
	url := startKVD(t)
	sh := startShell(t, folder, append(os.Environ(), "CURL_HOME="+folder))
	for _, c := range calls {
		command := strings.ReplaceAll(c.command, "http://127.0.0.1:2379", url)
		printed := sh.run("{ " + command + "\n} 2>stderr; echo")
		status, err := os.ReadFile(filepath.Join(folder, "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		if string(status) != c.status {
			t.Errorf("line %d: %s\nstatus %s\n%s", c.line, c.command, status, printed)
		}
		if c.answer.language == "" {
			continue
		}
		volatile := strings.Contains(command, "/v2/stats") || strings.Contains(command, "/metrics")
		got, want := normal(c.answer.language, printed, volatile), normal(c.answer.language, c.answer.text, volatile)
		if !matches(got, want) {
			t.Errorf("line %d: %s\nprinted\n%s\nand not\n%s", c.line, c.command, got, want)
		}
	}
}

// startKVD runs the built kvd on free ports and returns its URL once it is healthy.
func startKVD(t *testing.T) string {
	t.Helper()
	ports := freePorts(t, 2)
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	cmd := exec.Command(filepath.Join(parts.Build(t), "kvd"), "--data-dir", t.TempDir(),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("kvd:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if response, err := http.Get(client + "/health"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return client
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("kvd is not healthy")
		}
	}
}

// What differs from one run to the next, and what becomes of it in an answer.
var (
	volatileText = []struct {
		pattern *regexp.Regexp
		put     string
	}{
		{regexp.MustCompile(`"expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`), `"expiration":"TIME"`},
		{regexp.MustCompile(`"(id|lease|cluster|member|leader)":"[0-9a-f]{1,16}"`), `"$1":"ID"`},
		{regexp.MustCompile(`token=[0-9a-f]{32}`), `token=TOKEN`},
		{regexp.MustCompile(`"term":\d+`), `"term":N`},
		{regexp.MustCompile(`"appliedIndex":\d+`), `"appliedIndex":N`},
		{regexp.MustCompile(`"version":"[^"]+"`), `"version":"VERSION"`},
		{regexp.MustCompile(`"raftIndex":\d+,"sum":"[0-9a-f]{32}"`), `"raftIndex":N,"sum":"SUM"`},
		{regexp.MustCompile(`(?m)^(Date|X-Etcd-Cluster-Id|X-Raft-Index|X-Raft-Term): .*$`), `$1: VOLATILE`},
		{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), `URL`},
	}
	ttlField = regexp.MustCompile(`"(?:ttl|remaining)":(\d+)`)
	// In statistics: times, durations, ids and numbers.
	measured = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z|\b[0-9a-f]{15,16}\b|\b([\d.]+(h|ms|µs|m|s))+\b|-?\b\d+(\.\d+)?(e[+-]\d+)?\b`)
)

// normal returns what an answer says whenever it is given. JSON may be printed over several lines.
func normal(language, text string, volatile bool) string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	switch language {
	case "json":
		text = compact(text)
	case "http":
		head, body, _ := strings.Cut(text, "\n\n")
		lines := strings.Split(strings.TrimSpace(head), "\n")
		slices.Sort(lines[1:]) // their order means nothing
		text = strings.Join(lines, "\n") + "\n\n" + body
	}
	for _, v := range volatileText {
		text = v.pattern.ReplaceAllString(text, v.put)
	}
	text = ttlField.ReplaceAllStringFunc(text, func(field string) string {
		name, digits, _ := strings.Cut(field, ":")
		seconds, _ := strconv.Atoi(digits)                      // the pattern admits nothing else
		return fmt.Sprintf("%s:%d", name, (seconds+99)/100*100) // what a slow machine takes does not count
	})
	if volatile {
		text = measured.ReplaceAllString(text, "N")
	}
	return strings.TrimRight(text, "\n")
}

// compact returns each value of a JSON text on one line; what is no JSON stays as it is.
func compact(text string) string {
	var values []string
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var value json.RawMessage
		if err := decoder.Decode(&value); err == io.EOF {
			return strings.Join(values, "\n")
		} else if err != nil {
			return text
		}
		var line bytes.Buffer
		if err := json.Compact(&line, value); err != nil {
			return text
		}
		values = append(values, line.String())
	}
}

// matches reports whether got is want, in which a line of three dots stands for any lines.
func matches(got, want string) bool {
	return matchLines(strings.Split(got, "\n"), strings.Split(want, "\n"))
}

func matchLines(got, want []string) bool {
	for i, line := range want {
		if line == "..." {
			rest := want[i+1:]
			return slices.ContainsFunc(suffixes(got[min(i, len(got)):]), func(lines []string) bool { return matchLines(lines, rest) })
		}
		if i >= len(got) || got[i] != line {
			return false
		}
	}
	return len(got) == len(want)
}

// suffixes returns lines, lines without the first, and so on to no lines.
func suffixes(lines []string) (all [][]string) {
	for i := range len(lines) + 1 {
		all = append(all, lines[i:])
	}
	return all
}

func TestDotsStandForAnyLines(t *testing.T) {
	for _, c := range []struct {
		got, want string
		matches   bool
	}{
		{"a\nb\nc", "a\nb\nc", true}, {"a\nb\nc", "a\n...\nc", true}, {"a\nc", "a\n...\nc", true},
		{"a\nb", "...", true}, {"a\nb\nc\nb\nd", "...\nb\nd", true}, {"a\nb\nc", "a\nb", false},
		{"a\nb\nc", "...\nb", false}, {"a", "b", false}, {"a", "a\nb", false},
	} {
		if got := matches(c.got, c.want); got != c.matches {
			t.Errorf("%q matches %q: %v", c.got, c.want, got)
		}
	}
}
