package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestThePageOnTakingOutAServiceWorksAsPrinted types what the page shows. Its two hosts are two agents: that of
// h1 follows the engine, that of h2 has a service described by a file.
func TestThePageOnTakingOutAServiceWorksAsPrinted(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/take-out-a-service.md")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	var session strings.Builder
	for i, part := range strings.Split(string(page), "\n```") {
		if language, text, _ := strings.Cut(part, "\n"); i%2 == 1 && language == "console" {
			session.WriteString(text + "\n")
		}
	}
	path := filepath.Join(folder, "take-out-a-service.md")
	if err := os.WriteFile(path, []byte(session.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	m := host(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := m.Shell("cat " + folder + "/*.log; docker ps -a")
			t.Log(logs)
		}
	})
	m.Must("ip addr add 10.0.0.7/32 dev lo; ip addr add 10.0.0.8/32 dev lo")
	m.Must("docker run -d --name shop -p 10.0.0.7:8000:80 -e PORTS=80 -l SERVICE_NAME=web -l SERVICE_6379_IGNORE=true redis")
	m.Must("docker run -d --name db -p 10.0.0.7:5432:5432 -e PORTS=5432 -l SERVICE_NAME=db redis")
	if err := os.MkdirAll(folder+"/h2", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder+"/h2/web.yaml", []byte("web: {port: 8000, id: h2_shop_80, check: none}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Must("kvagent --host h1 --ip 10.0.0.7 --socket '' --services-dir " + folder + "/none >" + folder + "/h1.log 2>&1 &")
	m.Must("kvagent --host h2 --ip 10.0.0.8 --socket '' --docker-host unix:///none --services-dir " + folder + "/h2 >" + folder + "/h2.log 2>&1 &")
	play(t, path, m.Shell)
}
