package install

import "context"

// WithFault returns f with a function that may fail each of its calls, by name.
func WithFault(f File, fault func(call string) error) File {
	f.fault = fault
	return f
}

// ParseManifest is parseManifest for names that end in .conf.
func ParseManifest(data []byte) (map[string][]string, error) {
	return parseManifest(data, (&Manifest{suffix: ".conf"}).isOwn)
}

// ParseGood is parseGood.
func ParseGood(data []byte) (Good, error) { return parseGood(data) }

// ParseTeller is parseTeller, and ParseStat parseStat, with what they have found.
func ParseTeller(text string) (pid int, started uint64) {
	p := parseTeller(text)
	return p.pid, p.started
}

func ParseStat(text string) (started uint64, ok bool) {
	s, ok := parseStat(1, text)
	return s.started, ok
}

// TellWith is Tell with another way to note the process, and Note is Tell's own.
func (f File) TellWith(ctx context.Context, c Command, note func(pid int) error) {
	f.tell(ctx, c, note)
}

func (f File) Note(pid int) error { return f.note(pid) }
