package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for what has to come.
const patience = 20 * time.Second

// await waits for something that is on its way.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in %v it did not happen that %s", patience, what)
		}
	}
}

// everything lets everybody do everything.
func everything(cfg *Config) { cfg.Allow = []string{"0.0.0.0/0=rw:/", "::/0=rw:/", "unix=rw:/"} }

// running is a gateway that runs until its test ends.
type running struct {
	*Server
	url  string
	stop func() // and wait
}

// start runs a gateway on loopback in front of endpoints, in the order in which they are to be used.
func start(t *testing.T, endpoints []string, change ...func(*Config)) *running {
	t.Helper()
	cfg := Config{
		Listen: []string{"127.0.0.1:0"}, Services: "/services", CacheBytes: 8 << 20,
		Store: kvclient.Config{Endpoints: endpoints, Shuffle: func(int, func(i, j int)) {}},
		Log:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	r := &running{Server: s, stop: func() { cancel(); <-done }}
	t.Cleanup(r.stop)
	await(t, "the gateway listens", func() bool { return len(s.Stats().Listening) >= len(cfg.Listen) })
	for _, address := range s.Stats().Listening {
		if !strings.HasPrefix(address, "/") {
			r.url = "http://" + address
		}
	}
	return r
}

// reply is an answer as a test looks at it.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) index() kv.Index { return number(r.header, "X-Etcd-Index") }

// call sends a request and returns the whole answer. form is its body unless it is "".
func call(t *testing.T, method, target, form string, headers ...string) reply {
	t.Helper()
	r, err := try(method, target, form, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var httpClient = &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport: &http.Transport{DisableKeepAlives: true}}

func try(method, target, form string, headers ...string) (reply, error) {
	request, err := http.NewRequest(method, target, strings.NewReader(form))
	if err != nil {
		return reply{}, err
	}
	if form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Set(name, value)
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

// want fails the test unless an answer has a status and a text in its body.
func want(t *testing.T, r reply, status int, text string) {
	t.Helper()
	if r.status != status || !strings.Contains(r.body, text) {
		t.Errorf("answered %d %s, want %d with %s", r.status, r.body, status, text)
	}
}

func urls(c *daemontest.Cluster) (list []string) {
	for _, m := range c.Members() {
		list = append(list, m.URL())
	}
	return list
}

func TestAContainerReadsWritesAndWatches(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value=1"), 201, `"value":"1"`)
	want(t, call(t, "GET", g.url+"/v2/keys/a", ""), 200, `"value":"1"`)
	want(t, call(t, "GET", cluster.URL()+"/v2/keys/a", ""), 200, `"value":"1"`)
	want(t, call(t, "GET", g.url+"/v2/keys/a?wait=true&waitIndex=1", ""), 200, `"action":"set"`)
	want(t, call(t, "GET", g.url+"/version", ""), 200, `"etcdserver"`)
	want(t, call(t, "GET", g.url+"/health", ""), 200, `"health":"true"`)
	if r := call(t, "HEAD", g.url+"/v2/keys/a", ""); r.status != 200 || r.body != "" || r.index() == 0 {
		t.Errorf("HEAD: %+v", r)
	}
}

func TestMembersAndMachinesNameTheGatewayAlone(t *testing.T) {
	g := start(t, []string{"127.0.0.1:1"}, everything)
	for path, text := range map[string]string{
		"/v2/machines":       g.url,
		"/v2/members":        `"clientURLs":["` + g.url + `"]`,
		"/v2/members/leader": `"clientURLs":["` + g.url + `"]`,
	} {
		want(t, call(t, "GET", g.url+path, ""), 200, text)
	}
	if r := call(t, "GET", g.url+"/v2/machines", "", "X-Unused: 1"); r.body != g.url {
		t.Errorf("machines: %q", r.body)
	}
}

func TestWhatIsNotForContainersIsRefusedInWords(t *testing.T) {
	g := start(t, []string{"127.0.0.1:1"}, everything)
	for _, c := range []string{"GET /v2/auth/users", "PUT /v2/auth/enable", "POST /v2/members", "DELETE /v2/members/abc", "GET /v2/stats/self",
		"GET /v2/cluster", "POST /v2/cluster/invite", "GET /v2/snapshot", "GET /metrics", "GET /debug/state"} {
		method, path, _ := strings.Cut(c, " ")
		want(t, call(t, method, g.url+path, ""), 403, "gateway")
	}
	want(t, call(t, "GET", g.url+"/elsewhere", ""), 404, "")
	want(t, call(t, "PATCH", g.url+"/v2/keys/a", ""), 405, "")
}

func TestABigAnswerComesWholeAndABigFormIsRefused(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	value := strings.Repeat("x", 1<<20)
	for i := range 5 {
		want(t, call(t, "PUT", fmt.Sprintf("%s/v2/keys/big/%d?noValueOnSuccess=true", g.url, i), "value="+value), 201, "set")
	}
	direct, through := call(t, "GET", cluster.URL()+"/v2/keys/big?sorted=true", ""), call(t, "GET", g.url+"/v2/keys/big?sorted=true", "")
	if direct.body != through.body || len(through.body) < 5<<20 {
		t.Errorf("%d bytes directly, %d through the gateway", len(direct.body), len(through.body))
	}
	want(t, call(t, "PUT", g.url+"/v2/keys/big/6", "value="+value+value), 413, `"errorCode":210`)
}

func TestCredentialsOfAContainerReplaceThoseOfTheGateway(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	admin, err := kvclient.New(kvclient.Config{Endpoints: urls(cluster), Username: "root:secret", RequestTimeout: time.Minute}) // hashes of passwords take long on a busy machine
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx := t.Context()
	for _, err := range []error{admin.AddUser(ctx, "root", "secret"), admin.AddUser(ctx, "app", "pw"), admin.AddRole(ctx, "app"),
		admin.Grant(ctx, "app", rights("/app/*")), admin.GrantRoles(ctx, "app", "app"), admin.SetAuth(ctx, true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Revoke(ctx, "guest", rights("/*")); err != nil {
		t.Fatal(err)
	}
	g := start(t, urls(cluster), func(cfg *Config) {
		cfg.Store.Username = "root:secret"
		cfg.Allow = []string{"127.0.0.1=rw:/app,rw:/other"}
	})
	const app = "Authorization: Basic YXBwOnB3"
	want(t, call(t, "PUT", g.url+"/v2/keys/other/a", "value=1"), 201, "set") // the gateway's own user may
	want(t, call(t, "GET", g.url+"/v2/keys/other/a", ""), 200, "get")        // and is remembered
	want(t, call(t, "GET", g.url+"/v2/keys/other/a", "", app), 401, `"errorCode":110`)
	want(t, call(t, "GET", g.url+"/v2/keys/other/a?wait=true", "", app), 401, `"errorCode":110`)
	want(t, call(t, "PUT", g.url+"/v2/keys/other/a", "value=2", app), 401, `"errorCode":110`)
	want(t, call(t, "PUT", g.url+"/v2/keys/app/a", "value=2", app), 201, "set")
	want(t, call(t, "GET", g.url+"/v2/keys/app/a?wait=true&waitIndex=1", "", app), 200, "set")
	want(t, call(t, "GET", g.url+"/v2/keys/secret", "", "Authorization: Basic cm9vdDpzZWNyZXQ="), 403, "--gateway-allow") // root is held to the rules too
}

func rights(pattern string) (p kvclient.Permissions) {
	p.KV.Read, p.KV.Write = []string{pattern}, []string{pattern}
	return p
}

func TestAStopEndsWatchesAndLetsRequestsFinish(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	type end struct {
		body string
		err  error
	}
	ends := make(chan end, 2)
	for _, query := range []string{"?wait=true", "?wait=true&stream=true"} {
		response, err := httpClient.Get(g.url + "/v2/keys/a" + query)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			ends <- end{string(body), err}
		}()
	}
	await(t, "both watches are there", func() bool { return g.Stats().Watches == 2 })
	g.stop()
	var broken, complete int
	for range 2 {
		e := <-ends
		if e.body != "" {
			t.Errorf("a watch ended with %q", e.body)
		}
		if e.err != nil {
			broken++
		} else {
			complete++
		}
	}
	if broken != 1 || complete != 1 {
		t.Errorf("%d broke off and %d were complete, want a stream that breaks off and a poll that is complete", broken, complete)
	}
}

// lines reads an answer line by line.
func lines(body io.Reader) <-chan string {
	out := make(chan string, 100)
	go func() {
		defer close(out)
		var rest bytes.Buffer
		part := make([]byte, 4096)
		for {
			n, err := body.Read(part)
			rest.Write(part[:n])
			for {
				line, e := rest.ReadString('\n')
				if e != nil {
					rest.WriteString(line)
					break
				}
				out <- strings.TrimSuffix(line, "\n")
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// next returns the next line, or fails the test.
func next(t *testing.T, in <-chan string) string {
	t.Helper()
	select {
	case line, ok := <-in:
		if !ok {
			t.Fatal("the stream has ended")
		}
		return line
	case <-time.After(patience):
		t.Fatal("no line comes")
	}
	return ""
}

// rawGet sends a GET with a Host header.
func rawGet(t *testing.T, base, path, host string) reply {
	t.Helper()
	request, err := http.NewRequest("GET", base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}
}
