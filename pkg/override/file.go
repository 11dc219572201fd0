package override

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
)

const (
	fileName     = "overrides.json"
	fileBytesMax = 8 << 20 // the overrides of overridesMax instances are smaller
)

// memory is the form of the file.
type memory struct {
	Overrides []remembered `json:"overrides"` // as the store had them
	Pending   []remembered `json:"pending"`   // not written to the store yet
}

type remembered struct {
	Service  string   `json:"service"`
	Instance string   `json:"instance"`
	Override Override `json:"override"`
}

// load reads what an earlier run has remembered; a file that is not there is empty.
func load(dir string) (known map[name]Override, wishes map[name]wish, text string, err error) {
	known, wishes = map[name]Override{}, map[name]wish{}
	if dir == "" {
		return known, wishes, "", nil
	}
	path := filepath.Join(dir, fileName)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, wishes, "", nil
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("overrides that this host remembers: %w", err)
	}
	m, err := parseMemory(data)
	if err != nil {
		return nil, nil, "", fmt.Errorf("overrides that this host remembers: %s: %w; correct it or remove it", path, err)
	}
	for _, r := range m.Overrides {
		known[name{r.Service, r.Instance}] = r.Override
	}
	for _, r := range m.Pending {
		wishes[name{r.Service, r.Instance}] = wish{Override: r.Override}
	}
	return known, wishes, string(data), nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, fileBytesMax+1))
	if err == nil && len(data) > fileBytesMax {
		err = fmt.Errorf("%s is larger than %d bytes", path, fileBytesMax)
	}
	return data, err
}

// parseMemory reads the file. It accepts nothing that is not valid.
func parseMemory(data []byte) (m memory, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return memory{}, err
	}
	if len(m.Overrides) > overridesMax || len(m.Pending) > wishesMax {
		return memory{}, errors.New("it holds too many overrides")
	}
	for _, list := range [][]remembered{m.Overrides, m.Pending} {
		for _, r := range list {
			if err := errors.Join(ValidateNames(r.Service, r.Instance), r.Override.Validate()); err != nil {
				return memory{}, err
			}
		}
	}
	return m, nil
}

// save brings the file to what is known. It returns when that is on the disk.
func (s *Source) save() error {
	if s.cfg.StateDir == "" {
		return nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	text := s.remember()
	if text == s.saved {
		return nil
	}
	if err := os.MkdirAll(s.cfg.StateDir, 0o750); err != nil {
		return err
	}
	// renameio syncs the file before the rename; the rename itself is only durable with the directory.
	err := renameio.WriteFile(filepath.Join(s.cfg.StateDir, fileName), []byte(text), 0o640, renameio.WithTempDir(s.cfg.StateDir))
	if err != nil {
		return err
	}
	directory, err := os.Open(s.cfg.StateDir)
	if err != nil {
		return err
	}
	defer directory.Close()
	if err := directory.Sync(); err != nil {
		return err
	}
	s.saved = text
	return nil
}

// remember returns the file as it should be.
func (s *Source) remember() string {
	m := memory{Overrides: []remembered{}, Pending: []remembered{}}
	s.mu.Lock()
	for n, o := range s.known {
		m.Overrides = append(m.Overrides, remembered{n.service, n.instance, o})
	}
	for n, w := range s.wishes {
		m.Pending = append(m.Pending, remembered{n.service, n.instance, w.Override})
	}
	s.mu.Unlock()
	for _, list := range [][]remembered{m.Overrides, m.Pending} {
		slices.SortFunc(list, func(a, b remembered) int {
			return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
		})
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("override: strings and numbers cannot be encoded: %v", err))
	}
	return string(data) + "\n"
}
