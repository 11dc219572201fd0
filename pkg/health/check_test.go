package health

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/pkg/fuzztest"
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
		"tcp":                               "tcp:10.0.0.1:80",
		"tcp:db:5432":                       "tcp:db:5432",
		"tcp:[::1]:53":                      "tcp:[::1]:53",
		"http:/healthz?full=1":              "http://10.0.0.1:80/healthz?full=1",
		"https:/":                           "https://10.0.0.1:80/",
		"https+insecure:/x":                 "https+insecure://10.0.0.1:80/x",
		"http://127.0.0.1:9/ready":          "http://127.0.0.1:9/ready",
		"https://example.org/ready":         "https://example.org/ready",
		"exec:true  --flag":                 "exec:true --flag",
		"none":                              "none",
		"docker":                            "docker",
		"systemd":                           "systemd",
		"grpc":                              "grpc://10.0.0.1:80",
		"grpc:/a.b.C":                       "grpc://10.0.0.1:80/a.b.C",
		"grpcs://[::1]:9/a.b.C":             "grpcs://[::1]:9/a.b.C",
		"grpcs+insecure":                    "grpcs+insecure://10.0.0.1:80",
		"grpcs:/ host=a.example":            "grpcs://10.0.0.1:80 host=a.example",
		"http:/  status=200-299 method=GET": "http://10.0.0.1:80/",
		"https:/x method=HEAD  host=a:81 status=204":       "https://10.0.0.1:80/x method=HEAD host=a:81 status=204-204",
		"http://h:1/ status=301-308 method=OPTIONS host=b": "http://h:1/ method=OPTIONS host=b status=301-308",
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
		"http:/ method=DELETE":      "a check changes nothing",
		"http:/ status=600":         "must be a status",
		"http:/ status=300-200":     "must be a status",
		"http:/ host=":              "must be a host name",
		"http:/ host=a/b":           "must be a host name",
		"http:/ colour=red":         "unknown option",
		"grpc:name":                 "must follow",
		"grpc://host/x":             "HOST:PORT",
		"grpc:/a?b=c":               "no name of a gRPC service",
		"grpc:/a status=200":        "unknown option",
		"tcp\nhost:80":              "only visible characters",
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

func TestWhatSomebodyElseWroteAsksForNothingButTheServiceItself(t *testing.T) {
	for text, ok := range map[string]bool{
		"tcp": true, "http:/x host=other": true, "grpc:/a.B": true, "grpcs": true, "docker": true, "none": true,
		"tcp:10.0.0.2:80": false, "http://10.0.0.2/": false, "https+insecure://h/": false, "grpc://h:1/": false, "exec:true": false,
	} {
		if _, err := ParseOwn(text, "10.0.0.1:80"); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestHTTPAsksAsItIsTold(t *testing.T) {
	var method, host string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, host = r.Method, r.Host
		http.Error(w, "  the database is away\nand more", http.StatusTeapot)
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	check, err := Parse("http:/ method=HEAD host=web.example status=418", address)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := check.(Talker).Ask(t.Context())
	if err != nil || seen != "418 I'm a teapot" || method != "HEAD" || host != "web.example" {
		t.Errorf("%q, %v; %s of %s", seen, err, method, host)
	}
	if err := (HTTP{URL: server.URL}).Run(t.Context()); err == nil || !strings.HasSuffix(err.Error(), `I'm a teapot: "the database is away"`) {
		t.Errorf("a failure says %v", err)
	}
}

// FuzzParse reads texts of checks. One that is read spells itself back, and what ParseOwn reads stays at
// the service.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"tcp", "tcp:h:80", "http:/x method=HEAD host=h status=200-204", "https+insecure://h:1/", "grpc:/a.B host=c", "exec:true a", "none", "docker"} {
		f.Add(text)
	}
	const own = "10.0.0.1:80"
	f.Fuzz(func(t *testing.T, text string) {
		var check Check
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(text))+fuzztest.Fixed, func() { check, err = Parse(text, own) })
		ownCheck, ownErr := ParseOwn(text, own)
		if err != nil {
			if ownErr == nil {
				t.Fatalf("%q is read only when somebody else wrote it", text)
			}
			return
		}
		again, err := Parse(check.String(), own)
		if err != nil || again.String() != check.String() {
			t.Fatalf("%q became %q, which became %v, %v", text, check, again, err)
		}
		if ownErr != nil {
			return
		}
		switch c := ownCheck.(type) {
		case None, Engine:
		case TCP:
			if c.Address != own {
				t.Fatalf("%q asks %s", text, c.Address)
			}
		case HTTP:
			if u, err := url.Parse(c.URL); err != nil || u.Host != own {
				t.Fatalf("%q asks %s", text, c.URL)
			}
		case GRPC:
			if c.Address != own {
				t.Fatalf("%q asks %s", text, c.Address)
			}
		default:
			t.Fatalf("%q became a %T", text, c)
		}
	})
}
