package install

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
	p, ok := parseStat(1, text)
	return p.started, ok
}
