package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
)

// TestAHostWithConfdIsMigratedAsPrinted begins with a directory as confd's users have it, a file that
// confd has made of it, and its keys in a store, and does what the manual says.
func TestAHostWithConfdIsMigratedAsPrinted(t *testing.T) {
	manual, err := os.ReadFile("../docs/how-to/migrate-from-confd.md")
	if err != nil {
		t.Fatal(err)
	}
	folder, bin, store := t.TempDir(), parts.Build(t), daemontest.Start(t, 1).URL()
	for name, content := range map[string]string{
		"etc/confd/confd.toml":         "backend = \"etcd\"\ninterval = 600\n",
		"etc/confd/conf.d/app.toml":    "[template]\nsrc = \"app.tmpl\"\ndest = \"/etc/app/app.conf\"\nkeys = [\"/app\"]\nmode = \"0644\"\ncheck_cmd = \"grep -q server {{.src}}\"\nreload_cmd = \"echo reloaded >>/etc/app/reloads\"\n",
		"etc/confd/templates/app.tmpl": "{{range gets \"/app/upstream/*\"}}server {{.Value}};\n{{end}}",
		"etc/app/app.conf":             "server 10.0.0.1:8080;\n",
		"local/empty":                  "",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "/etc/", folder+"/etc/")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set := exec.Command(filepath.Join(bin, "kvctl"), "--endpoints", store, "set", "/app/upstream/1", "10.0.0.1:8080")
	if output, err := set.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	text := strings.NewReplacer("/etc/", folder+"/etc/", "/usr/bin/", bin+"/", "/usr/local/bin/", folder+"/local/", "http://127.0.0.1:2379", store).Replace(string(manual))
	sh := startShell(t, folder, append(os.Environ(), "PATH="+folder+"/local:"+bin+":"+os.Getenv("PATH"), "KVCTL_ENDPOINTS="+store,
		"KVCONFD_CONFIG_FILE="+folder+"/etc/confd/confd.toml", "KVCONFD_SOCKET=", "KVCONFD_STATE_DIR="))
	blocks := section(t, text, "In five minutes")
	done := 0
	for i, b := range blocks {
		switch {
		case b.language != "sh":
			continue
		case i+1 == len(blocks) || blocks[i+1].language != "text":
			sh.run(b.text)
		default:
			sh.await(b.text, blocks[i+1].text+"\n")
		}
		done++
	}
	if done < 5 {
		t.Errorf("only %d blocks were run", done)
	}
}
