package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// more answers what package local does not: a page for people, health, and what is known of workloads
// that are not registered.
//
//	/                        the page
//	/v1/agent                Report
//	/v1/workload?what=NAME   Explanation
//	/health                  200 while the registry is true as far as is known, else 503; problems line by line
func (c *console) more() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = page.Execute(w, pageData{c.report(), time.Now()}) // who asked may have gone
	})
	mux.HandleFunc("GET /v1/agent", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, c.report()) })
	mux.HandleFunc("GET /v1/workload", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, c.agent.Explain(r.URL.Query().Get("what")))
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		problems := c.report().Problems
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if len(problems) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, strings.Join(problems, "\n"))
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // who asked has gone
}

// statusServer serves the status over TCP.
type statusServer struct {
	listener net.Listener
	handler  http.Handler
	log      *slog.Logger
}

func listenStatus(address string, handler http.Handler, log *slog.Logger) (*statusServer, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &statusServer{listener: listener, handler: handler, log: log}, nil
}

// Run serves until ctx ends.
func (s *statusServer) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	s.log.Info("status page", "url", fmt.Sprintf("http://%s/", s.listener.Addr()))
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// writeMetrics writes what package local does not, in Prometheus' text format.
func writeMetrics(w io.Writer, r Report) {
	metric := func(name, kind, help string, samples ...string) {
		fmt.Fprintf(w, "# HELP kvagent_%s %s\n# TYPE kvagent_%s %s\n", name, help, name, kind)
		for _, sample := range samples {
			fmt.Fprintf(w, "kvagent_%s%s\n", name, sample)
		}
	}
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	mistakes := 0
	for _, refusal := range r.Refused {
		mistakes += bit(refusal.Mistake)
	}
	each := func(sample func(SourceStatus) int) (list []string) {
		for _, s := range r.Follows {
			list = append(list, fmt.Sprintf("{source=%q} %d", s.Name, sample(s)))
		}
		return list
	}
	var servers []string
	for _, s := range r.Servers {
		servers = append(servers, fmt.Sprintf("{server=%q} %d", s.Name, bit(s.Err == "")))
	}
	metric("ready", "gauge", "1 once all that ran and answered at the start was registered.", fmt.Sprintf(" %d", bit(r.Ready)))
	metric("healthy", "gauge", "1 while the registry is true as far as is known.", fmt.Sprintf(" %d", bit(len(r.Problems) == 0)))
	metric("refusals", "gauge", "Workloads and ports that are not registered as somebody may expect.",
		fmt.Sprintf("{mistake=\"false\"} %d", len(r.Refused)-mistakes), fmt.Sprintf("{mistake=\"true\"} %d", mistakes))
	metric("workloads", "gauge", "Containers, units or files that a source has.", each(func(s SourceStatus) int { return s.Workloads })...)
	metric("relists_total", "counter", "How often everything was compared with what a source says.", each(func(s SourceStatus) int { return s.Relists })...)
	metric("missed_total", "counter", "Changes that only such a comparison found.", each(func(s SourceStatus) int { return s.Missed })...)
	metric("dropped_total", "counter", "Messages of a source that could not be understood.", each(func(s SourceStatus) int { return s.Dropped })...)
	metric("server_up", "gauge", "1 while a server beside registering runs.", servers...)
	for _, s := range r.Servers {
		for _, f := range s.Figures {
			metric(s.Name+"_"+f.Name, f.Kind, f.Help, fmt.Sprintf(" %v", f.Value))
		}
	}
}

type pageData struct {
	Report
	Now time.Time
}

// Ago says how long ago something was.
func (d pageData) Ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return ago(t, d.Now)
}

var page = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>kvagent on {{.Host}}</title><meta name="viewport" content="width=device-width">
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.3rem;font-weight:600}h2{font-size:1rem;font-weight:600;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}
th{font-weight:500;color:#666}.ok{color:#176b2c}.bad{color:#a11}.dim{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,.dim{color:#999}th,td{border-color:#333}.ok{color:#6c6}.bad{color:#f77}}
</style></head><body>
<h1>kvagent on {{.Host}} <span class="dim">{{.Address}}, {{.Version}}</span></h1>
{{if .Problems}}{{range .Problems}}<p class="bad">{{.}}</p>{{end}}{{else}}<p class="ok">The registry is true: {{.Store.Registered}} of {{.Store.Wanted}} registered.</p>{{end}}
<p class="dim">started {{.Ago .Started}}, heartbeat {{.Ago .Store.Heartbeat}}, store {{range .Endpoints}}{{.}} {{end}}, layouts {{range .Layouts}}{{.}} {{end}}</p>
<h2>Instances</h2>
<table><tr><th>service</th><th>instance</th><th>address</th><th>of</th><th>stands</th><th>why</th></tr>
{{range .Instances}}<tr><td>{{.Service}}</td><td>{{.Instance}}</td><td>{{.Address}}</td><td>{{.Source}} {{.Workload}}</td><td class="{{if eq .Phase "up"}}ok{{else}}bad{{end}}">{{.Phase}}</td><td>{{.Reason}}{{if .Kept}} kept{{end}}</td></tr>
{{else}}<tr><td colspan="6" class="dim">none</td></tr>{{end}}</table>
<h2>Sources</h2>
<table><tr><th>source</th><th></th><th>follows</th><th>since</th><th>workloads</th><th></th></tr>
{{range .Follows}}<tr><td>{{.Name}}</td><td>{{.Detail}}</td><td class="{{if .Connected}}ok{{else}}bad{{end}}">{{if .Connected}}yes{{else}}no{{end}}</td><td>{{$.Ago .Since}}</td><td>{{.Workloads}}</td><td>{{.Err}}</td></tr>
{{end}}</table>
{{if .Servers}}<h2>Servers</h2><table>{{range .Servers}}<tr><td>{{.Name}}</td><td class="{{if .Err}}bad{{else}}ok{{end}}">{{if .Err}}{{.Err}}{{else}}runs{{end}}{{range .Listening}} {{.}}{{end}}{{range .Waiting}}<br>{{.}}{{end}}</td></tr>{{end}}</table>{{end}}
<h2>Not registered, or not as asked</h2>
<table><tr><th>workload</th><th>port</th><th>reason</th></tr>
{{range .Refused}}<tr><td>{{.Source}} {{.Workload}}</td><td>{{if .Port}}{{.Port}}{{end}}</td><td{{if .Mistake}} class="bad"{{end}}>{{.Reason}}</td></tr>
{{else}}<tr><td colspan="3" class="dim">none</td></tr>{{end}}</table>
<p class="dim"><a href="/v1/agent">JSON</a>, <a href="/metrics">metrics</a>, <a href="/health">health</a></p>
</body></html>
`))
