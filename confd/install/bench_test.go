package install_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
)

// BenchmarkCheckDir makes and removes the private directory for one changed file among many.
func BenchmarkCheckDir(b *testing.B) {
	for _, files := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			dir := b.TempDir()
			for i := range files {
				text := fmt.Sprintf("server { listen 80; server_name s%d; include /etc/nginx/mime.types; }\n", i)
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("s%d.conf", i)), []byte(text), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			staged, err := install.File{Path: filepath.Join(dir, "s1.conf"), UID: -1, GID: -1}.Stage([]byte("new"))
			if err != nil {
				b.Fatal(err)
			}
			defer staged.Discard()
			for b.Loop() {
				c, err := install.NewCheckDir(install.Change{Staged: []*install.Staged{staged}}, []string{dir})
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Remove(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkInstall brings a new version of a file into place.
func BenchmarkInstall(b *testing.B) {
	f := install.File{Path: filepath.Join(b.TempDir(), "proxy.cfg"), UID: -1, GID: -1}
	content := make([]byte, 100_000)
	for b.Loop() {
		content[0]++
		if differs, err := f.Differs(content); err != nil || !differs {
			b.Fatal(differs, err)
		}
		staged, err := f.Stage(content)
		if err != nil {
			b.Fatal(err)
		}
		if err := staged.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}
