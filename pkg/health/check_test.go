package health

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTCPPassesWhileSomethingListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	check := TCP{Address: listener.Addr().String()}
	if err := check.Run(t.Context()); err != nil {
		t.Error(err)
	}
	listener.Close()
	if err := check.Run(t.Context()); err == nil {
		t.Error("passed although nobody listens")
	}
}

func TestHTTPWantsATwoHundredAndFollowsNoRedirect(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Location", "/200")
		w.WriteHeader(code)
	}))
	defer server.Close()
	for code, pass := range map[string]bool{"200": true, "204": true, "302": false, "404": false, "503": false} {
		err := HTTP{URL: server.URL + "/" + code}.Run(t.Context())
		if (err == nil) != pass {
			t.Errorf("status %s: %v", code, err)
		}
	}
	err := HTTP{URL: server.URL + "/302"}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "redirects are not followed") {
		t.Errorf("a redirect is explained as: %v", err)
	}
}

func TestHTTPSVerifiesUnlessToldNotTo(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the refused handshake is expected
	defer server.Close()
	address := server.Listener.Addr().String()
	strict, err := Parse("https:/", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate gave %v", err)
	}
	lenient, err := Parse("https+insecure:/", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := lenient.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestACheckThatHangsEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (HTTP{URL: "http://" + listener.Addr().String()}).Run(ctx); err == nil {
		t.Error("passed without an answer")
	}
}

func TestExecPassesByExitCodeAndShowsTheOutput(t *testing.T) {
	if err := (Exec{Args: []string{"true"}}).Run(t.Context()); err != nil {
		t.Error(err)
	}
	err := Exec{Args: []string{"ls", "/does/not/exist"}}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") || !strings.Contains(err.Error(), "exit status") {
		t.Errorf("got %v", err)
	}
}

func TestExecKillsTheWholeGroupWhenTimeIsUp(t *testing.T) {
	dir := t.TempDir()
	script, pidFile := filepath.Join(dir, "check"), filepath.Join(dir, "pid")
	body := "#!/bin/sh\nsleep 300 &\necho $! > " + pidFile + ".new\nmv " + pidFile + ".new " + pidFile + "\nwait\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { // cancel once the grandchild runs
		for range 1000 {
			if _, err := os.Stat(pidFile); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel(context.DeadlineExceeded)
	}()
	if err := (Exec{Args: []string{script}}).Run(ctx); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("got %v", err)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if gone(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the grandchild is still alive")
}

// gone reports whether a process has ended; one that waits to be reaped by init has.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestParseReadsEveryFormAndSpellsItBack(t *testing.T) {
	for text, want := range map[string]string{
		"tcp":                       "tcp:10.0.0.1:80",
		"tcp:db:5432":               "tcp:db:5432",
		"tcp:[::1]:53":              "tcp:[::1]:53",
		"http:/healthz?full=1":      "http://10.0.0.1:80/healthz?full=1",
		"https:/":                   "https://10.0.0.1:80/",
		"https+insecure:/x":         "https+insecure://10.0.0.1:80/x",
		"http://127.0.0.1:9/ready":  "http://127.0.0.1:9/ready",
		"https://example.org/ready": "https://example.org/ready",
		"exec:true  --flag":         "exec:true --flag",
		"none":                      "none",
	} {
		check, err := Parse(text, "10.0.0.1:80")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := check.String(); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
		again, err := Parse(check.String(), "10.0.0.1:80")
		if err != nil || again.String() != want {
			t.Errorf("%s does not read back: %v, %v", want, again, err)
		}
	}
}

func TestParseExplainsWhatItCannotRead(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "unknown form",
		"udp":                       "use one of",
		"tcp:db":                    "HOST:PORT",
		"tcp::80":                   "host is missing",
		"tcp:db:99999":              "1 to 65535",
		"http:healthz":              "a path or an address must follow",
		"http":                      "a path or an address must follow",
		"http://":                   "must be like",
		"http://u:p@h/":             "without a user",
		"exec:":                     "command is missing",
		"exec:/no/such/command":     "no such file",
		"exec:echo 'hello world'":   "quotes are not interpreted",
		"https+insecure://h:80/#at": "fragment",
	} {
		_, err := Parse(text, "10.0.0.1:80")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
	if _, err := Parse("tcp", ""); err == nil {
		t.Error("tcp without an address was accepted")
	}
}
