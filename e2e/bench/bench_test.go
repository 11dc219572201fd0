package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

func TestMain(m *testing.M) {
	if serveFloor(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

func TestEveryScenarioRuns(t *testing.T) {
	parts.Need(t, "wrk")
	etcd := parts.Path(t, "etcd")
	bin := parts.Build(t)
	kvd, kvagent, kvconfd := filepath.Join(bin, "kvd"), filepath.Join(bin, "kvagent"), filepath.Join(bin, "kvconfd")
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if s.name == "registration" {
				parts.Need(t, "root")
				parts.Need(t, "dockerd")
				parts.Need(t, "busybox")
				parts.Need(t, "ip")
			}
			if s.name == "proxied" {
				parts.Need(t, "haproxy")
			}
			jsonFile := filepath.Join(t.TempDir(), "report.json")
			args := []string{"-short", "-run", s.name, "-kvd", kvd, "-kvagent", kvagent, "-kvconfd", kvconfd, "-etcd", etcd, "-json", jsonFile}
			if err := run(t.Context(), args, io.Discard, t.Output()); err != nil {
				t.Fatal(err)
			}
			got := readReport(t, jsonFile)
			if len(got.Tables) == 0 {
				t.Error("it has measured nothing")
			}
			for _, table := range got.Tables {
				for _, row := range table.Rows {
					if table.Scenario != s.name || row.Figures[0].Value <= 0 {
						t.Errorf("%s: %s: %s has %v", table.Scenario, table.Work, row.Subject, row.Figures[0])
					}
				}
			}
		})
	}
}

func readReport(t *testing.T, file string) (r report) {
	t.Helper()
	encoded, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(encoded, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheTablesOfADocumentAreReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(file, []byte("before\n"+docBegin+"old\n"+docEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := report{Machine: []fact{{"date", "today"}}, Tables: []table{{Work: "GET, 64 connections", Rows: []row{{"kvd", []figure{{"requests/s", 1234.5, 1}}}}}}}
	if err := r.writeDoc(file); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	if !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "after\n") || strings.Contains(text, "old") {
		t.Errorf("the document is\n%s", text)
	}
	if want := "| GET, 64 connections | requests/s |\n|---|---:|\n| kvd | 1234.5 |\n"; !strings.Contains(text, want) {
		t.Errorf("the document is\n%s\nand should hold\n%s", text, want)
	}
}

func TestAFailedAnswerIsNotMeasuredAsAFastOne(t *testing.T) {
	const good = `Running 1s test @ http://127.0.0.1:1
  1 threads and 64 connections
  Latency Distribution
     50%    1.50ms
     99%    2.25s 
  1000 requests in 2.00s, 3.00MB read
Requests/sec:    500.25
Transfer/sec:      1.50MB
`
	s, requests, err := parseWrk([]byte(good))
	want := sample{rate: 500.25, p50: 1500 * time.Microsecond, p99: 2250 * time.Millisecond, bytesRate: 1.5 * (1 << 20)}
	if err != nil || requests != 1000 || s != want {
		t.Errorf("got %+v, %d requests, %v", s, requests, err)
	}
	for _, bad := range []string{"", strings.Replace(good, "Requests/sec", "  Non-2xx or 3xx responses: 3\nRequests/sec", 1),
		strings.Replace(good, "Requests/sec", "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec", 1)} {
		if _, _, err := parseWrk([]byte(bad)); err == nil {
			t.Errorf("taken for a good report: %q", bad)
		}
	}
}

func TestAKeyHasFortyBytes(t *testing.T) {
	if key := manyKey(999_999); len(key) != 40 {
		t.Errorf("%q has %d", key, len(key))
	}
}
