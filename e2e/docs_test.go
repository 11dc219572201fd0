package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var markdownLink = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

func TestEveryDocumentIsInTheIndexAndEveryLinkLeadsSomewhere(t *testing.T) {
	linked := map[string]bool{}
	var documents []string
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		documents = append(documents, path)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range markdownLink.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(match[1], "://") || strings.HasPrefix(match[1], "mailto:") {
				continue
			}
			target := filepath.Join(filepath.Dir(path), match[1])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, match[1], err)
			}
			if path == filepath.Join("..", "docs", "README.md") {
				linked[target] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(documents) < 3 {
		t.Fatalf("only %q were found", documents)
	}
	docs := filepath.Join("..", "docs")
	for _, document := range documents {
		if strings.HasPrefix(document, docs) && document != filepath.Join(docs, "README.md") && !linked[document] {
			t.Errorf("%s is not in docs/README.md", document)
		}
	}
}
