package main

import (
	"encoding/json"
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
	dir := t.TempDir()
	jsonFile, docFile := filepath.Join(dir, "report.json"), filepath.Join(dir, "doc.md")
	if err := os.WriteFile(docFile, []byte("before\n"+docBegin+"old\n"+docEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	args := []string{"-short", "-kvd", filepath.Join(parts.Build(t), "kvd"), "-etcd", etcd, "-json", jsonFile, "-doc", docFile}
	if err := run(t.Context(), args, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	encoded, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for _, table := range got.Tables {
		measured[table.Scenario] = true
		for _, row := range table.Rows {
			if row.Figures[0].Value <= 0 {
				t.Errorf("%s: %s has %v", table.Work, row.Subject, row.Figures[0])
			}
		}
	}
	for _, s := range scenarios {
		if !measured[s.name] {
			t.Errorf("%s has measured nothing", s.name)
		}
	}
	doc, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(doc); !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "after\n") || strings.Contains(text, "old") || !strings.Contains(text, "| GET, 64 connections |") {
		t.Errorf("the document is\n%s", text)
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
