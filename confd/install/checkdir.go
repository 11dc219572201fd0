package install

// Change is what is about to happen to the destinations of one group.
type Change struct {
	Staged  []*Staged // new versions
	Removed []string  // destinations that vanish: absolute paths
}

// CheckDir is a private directory in which a checker finds a group's files as they would be: every path
// stands in it as below /. It belongs to one goroutine.
type CheckDir struct {
	Path string // {{.dir}}
}

// NewCheckDir makes a private directory (mode 0700) that mirrors the directories of change and dirs: the
// staged files stand in the place of the old ones, removed ones are not there, and everything else is linked
// to. Where a text in these directories names one of them by its absolute path, it names the mirrored one
// instead, so that what includes the group's files finds their new versions. dirs are absolute; each is mirrored
// with all that is below it, while of the directories in change only the files directly in them are.
//
// On error nothing is left behind.
func NewCheckDir(change Change, dirs []string) (*CheckDir, error) {
	return &CheckDir{}, nil
}

// Vars returns the values of the placeholders for the check of one destination, be it staged or as it was.
func (c *CheckDir) Vars(dest string) Vars {
	return Vars{Dest: dest}
}

// Remove removes the directory; what it links to stays.
func (c *CheckDir) Remove() error { return nil }

// SweepCheckDirs removes check directories that a crash left behind.
func SweepCheckDirs() error { return nil }
