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

// statusHandler shows an agent to whoever asks: a page for people at /, and below it JSON, metrics and
// health. It changes nothing.
//
//	/                       the page
//	/v1/status              Report
//	/v1/explain?what=NAME   Explanation; 404 when there is no such workload
//	/metrics                for Prometheus
//	/health                 200 while the registry is true as far as is known, else 503; problems line by line
func statusHandler(report func() Report, explain func(what string) Explanation) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = page.Execute(w, pageData{report(), time.Now()}) // who asked has gone
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, report()) })
	mux.HandleFunc("GET /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		e := explain(r.FormValue("what"))
		status := http.StatusOK
		if !e.Found {
			status = http.StatusNotFound
		}
		writeJSON(w, status, e)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		writeMetrics(w, report(), time.Now())
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		problems := report().Problems
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

// writeMetrics writes a report in Prometheus' text format.
func writeMetrics(w io.Writer, r Report, now time.Time) {
	metric := func(name, kind, help string, samples ...string) {
		fmt.Fprintf(w, "# HELP kvagent_%s %s\n# TYPE kvagent_%s %s\n", name, help, name, kind)
		for _, sample := range samples {
			fmt.Fprintf(w, "kvagent_%s%s\n", name, sample)
		}
	}
	value := func(v any) string { return fmt.Sprintf(" %v", v) }
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	phases := map[string]int{}
	for _, i := range r.Instances {
		phases[i.Phase]++
	}
	var inPhase []string
	for _, phase := range allPhases() {
		inPhase = append(inPhase, fmt.Sprintf("{phase=%q} %d", phase, phases[phase]))
	}
	mistakes := 0
	for _, refusal := range r.Refused {
		mistakes += bit(refusal.Mistake)
	}
	metric("ready", "gauge", "Whether all that answered at the start is registered.", value(bit(r.Ready)))
	metric("healthy", "gauge", "Whether the registry is true as far as is known.", value(bit(len(r.Problems) == 0)))
	metric("instances", "gauge", "Instances of services on this host, by where they stand.", inPhase...)
	metric("refusals", "gauge", "Workloads and ports that are not registered as somebody may expect.",
		fmt.Sprintf("{mistake=\"false\"} %d", len(r.Refused)-mistakes), fmt.Sprintf("{mistake=\"true\"} %d", mistakes))
	metric("records_wanted", "gauge", "Records that are to be in the store.", value(r.Store.Wanted))
	metric("records_registered", "gauge", "Records that are in the store.", value(r.Store.Registered))
	metric("store_up", "gauge", "Whether the store agrees.", value(bit(r.Store.Err == "")))
	if !r.Store.Heartbeat.IsZero() {
		metric("heartbeat_age_seconds", "gauge", "Since the latest renewal that the store has confirmed.", value(now.Sub(r.Store.Heartbeat).Seconds()))
		metric("expires_seconds", "gauge", "Until the records expire if nothing renews them.", value(r.Store.Expires.Sub(now).Seconds()))
	}
	metric("writes_total", "counter", "Keys written or removed.", value(r.Store.Writes))
	metric("renewals_total", "counter", "Renewals of the lease, or of single keys.", value(r.Store.Renewals))
	metric("corrections_total", "counter", "Keys found missing or changed by somebody else, and put right.", value(r.Store.Corrections))
	metric("leases_lost_total", "counter", "Leases that ended although they were to live.", value(r.Store.LeasesLost))
	each := func(sample func(SourceStatus) any) (list []string) {
		for _, s := range r.Sources {
			list = append(list, fmt.Sprintf("{source=%q} %v", s.Name, sample(s)))
		}
		return list
	}
	metric("source_up", "gauge", "Whether changes of a source are told as they happen.", each(func(s SourceStatus) any { return bit(s.Connected) })...)
	metric("source_workloads", "gauge", "Containers, units or files that a source has.", each(func(s SourceStatus) any { return s.Workloads })...)
	metric("source_event_lag_seconds", "gauge", "From the latest event, by the source's clock, to its arrival.", each(func(s SourceStatus) any { return s.Lag.Seconds() })...)
	metric("source_relists_total", "counter", "How often everything was compared with what the source says.", each(func(s SourceStatus) any { return s.Relists })...)
	metric("source_missed_total", "counter", "Changes that only such a comparison found.", each(func(s SourceStatus) any { return s.Missed })...)
	metric("source_dropped_total", "counter", "Messages of a source that could not be understood.", each(func(s SourceStatus) any { return s.Dropped })...)
	var servers []string
	for _, s := range r.Servers {
		servers = append(servers, fmt.Sprintf("{server=%q} %d", s.Name, bit(s.Err == "")))
	}
	metric("server_up", "gauge", "Whether a server that runs beside registering does.", servers...)
	for _, s := range r.Servers {
		for _, f := range s.Figures {
			metric(s.Name+"_"+f.Name, f.Kind, f.Help, value(f.Value))
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
<p class="dim">started {{.Ago .Started}}, heartbeat {{.Ago .Store.Heartbeat}}, store {{range .Store.Endpoints}}{{.}} {{end}}, layouts {{range .Store.Layouts}}{{.}} {{end}}</p>
<h2>Instances</h2>
<table><tr><th>service</th><th>instance</th><th>address</th><th>of</th><th>stands</th><th>why</th></tr>
{{range .Instances}}<tr><td>{{.Service}}</td><td>{{.Instance}}</td><td>{{.Address}}</td><td>{{.Source}} {{.Workload}}</td><td class="{{if eq .Phase "up"}}ok{{else}}bad{{end}}">{{.Phase}}</td><td>{{.Reason}}{{if .Kept}} kept{{end}}</td></tr>
{{else}}<tr><td colspan="6" class="dim">none</td></tr>{{end}}</table>
<h2>Sources</h2>
<table><tr><th>source</th><th></th><th>follows</th><th>since</th><th>workloads</th><th></th></tr>
{{range .Sources}}<tr><td>{{.Name}}</td><td>{{.Detail}}</td><td class="{{if .Connected}}ok{{else}}bad{{end}}">{{if .Connected}}yes{{else}}no{{end}}</td><td>{{$.Ago .Since}}</td><td>{{.Workloads}}</td><td>{{.Err}}</td></tr>
{{end}}</table>
{{if .Servers}}<h2>Servers</h2><table>{{range .Servers}}<tr><td>{{.Name}}</td><td class="{{if .Err}}bad{{else}}ok{{end}}">{{if .Err}}{{.Err}}{{else}}runs{{end}}{{range .Listening}} {{.}}{{end}}{{range .Waiting}}<br>{{.}}{{end}}</td></tr>{{end}}</table>{{end}}
<h2>Not registered, or not as asked</h2>
<table><tr><th>workload</th><th>port</th><th>reason</th></tr>
{{range .Refused}}<tr><td>{{.Source}} {{.Workload}}</td><td>{{if .Port}}{{.Port}}{{end}}</td><td{{if .Mistake}} class="bad"{{end}}>{{.Reason}}</td></tr>
{{else}}<tr><td colspan="3" class="dim">none</td></tr>{{end}}</table>
<p class="dim"><a href="/v1/status">JSON</a>, <a href="/metrics">metrics</a>, <a href="/health">health</a></p>
</body></html>
`))
