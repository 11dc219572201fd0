package resource

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fileBytesMax bounds a resource file.
const fileBytesMax = 1 << 20

// Loaded is what became of one resource file: a Resource, or the reason why not.
type Loaded struct {
	File     string
	Resource Resource // valid if Err is nil
	Warnings []string
	Err      error
}

// Load reads every resource file of a configuration directory, in the order of their paths. A
// file that cannot be used does not touch the others. err is about the directory: it has no
// conf.d, or cannot be read; it is an fs.ErrNotExist if the directory itself is not there.
func Load(confDir, globalPrefix string) (loaded []Loaded, err error) {
	if _, err := os.Stat(confDir); errors.Is(err, fs.ErrNotExist) {
		return nil, &missingDirectory{confDir}
	}
	files, err := find(filepath.Join(confDir, "conf.d"))
	if err != nil {
		return nil, err
	}
	owners := map[string]string{} // dest -> the file that writes it
	seen := map[string]bool{}
	for _, file := range files {
		if real, err := filepath.EvalSymlinks(file); err == nil {
			if seen[real] {
				continue // a link to a file that is here under its own name
			}
			seen[real] = true
		}
		entry := Loaded{File: file}
		data, err := readFile(file)
		if err == nil {
			entry.Resource, entry.Warnings, err = Parse(file, data, filepath.Join(confDir, "templates"), globalPrefix)
		}
		if other, taken := owners[entry.Resource.Dest]; err == nil && taken {
			err = fmt.Errorf("dest %s is already written by %s", entry.Resource.Dest, other)
		}
		if err != nil {
			entry.Err = fmt.Errorf("resource file %s: %w", file, err)
		} else {
			owners[entry.Resource.Dest] = file
		}
		loaded = append(loaded, entry)
	}
	return loaded, nil
}

// missingDirectory says that a configuration directory does not exist.
type missingDirectory struct{ path string }

func (m *missingDirectory) Error() string {
	return m.path + " does not exist: create it with conf.d and templates in it, or name another directory with --confdir"
}

func (m *missingDirectory) Is(target error) bool { return target == fs.ErrNotExist }

// find returns the resource files below dir.
func find(dir string) ([]string, error) {
	files, err := Find(dir, "*toml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: put the resource files (*.toml) there, or name another directory with --confdir", dir)
	}
	return files, err
}

// Find returns the files below dir whose names match pattern, in the order of their paths, or dir
// itself if it is a file. A link to a file counts, a link to a directory is not entered. Names
// that begin with ".." are passed over: they are how Kubernetes keeps the versions of a mounted
// ConfigMap, whose current files are links beside them.
func Find(dir, pattern string) ([]string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == root && !entry.IsDir():
			files = append(files, dir)
			return nil
		case path != root && strings.HasPrefix(entry.Name(), ".."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if matches, err := filepath.Match(pattern, entry.Name()); err != nil || !matches {
			return err
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil
		}
		files = append(files, filepath.Join(dir, strings.TrimPrefix(path, root)))
		return nil
	})
	slices.Sort(files)
	return files, err
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, fileBytesMax+1))
	if err == nil && len(data) > fileBytesMax {
		err = fmt.Errorf("larger than %d bytes", fileBytesMax)
	}
	return data, err
}
