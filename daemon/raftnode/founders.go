package raftnode

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Founder is one of the members that begin a cluster together. All of them are told the same list.
type Founder struct {
	Name     string
	PeerURLs []string
}

// ParseFounders reads a list as --initial-cluster has it: name=url,name=url. A name with several URLs is
// there once for each. Errors say what is wrong with the text; URLs are not looked into. The founders are
// ordered by name, each with its URLs sorted.
func ParseFounders(text string) ([]Founder, error) {
	if text == "" {
		return nil, nil
	}
	owners := map[string]string{} // of URLs
	var list []Founder
	for part := range strings.SplitSeq(text, ",") {
		name, url, ok := strings.Cut(part, "=")
		url = strings.TrimRight(url, "/")
		if !ok || name == "" || url == "" {
			return nil, fmt.Errorf("%q is not of the form name=url", part)
		}
		if owner, taken := owners[url]; taken {
			if owner == name {
				return nil, fmt.Errorf("%q is there twice", part)
			}
			return nil, fmt.Errorf("the members %q and %q have the same url %s: each needs one of its own", owner, name, url)
		}
		owners[url] = name
		at := slices.IndexFunc(list, func(f Founder) bool { return f.Name == name })
		if at < 0 {
			list, at = append(list, Founder{Name: name}), len(list)
		}
		list[at].PeerURLs = append(list[at].PeerURLs, url)
	}
	return newFounders(list), nil
}

// founders is a list of founders in the one order in which it is compared: by name, each with its
// URLs sorted.
type founders []Founder

func newFounders(list []Founder) founders {
	sorted := make(founders, len(list))
	for i, f := range list {
		sorted[i] = Founder{Name: f.Name, PeerURLs: slices.Sorted(slices.Values(f.PeerURLs))}
	}
	slices.SortFunc(sorted, func(a, b Founder) int { return cmp.Compare(a.Name, b.Name) })
	return sorted
}

// String returns the list as --initial-cluster has it.
func (f founders) String() string {
	var parts []string
	for _, founder := range f {
		for _, url := range founder.PeerURLs {
			parts = append(parts, founder.Name+"="+url)
		}
	}
	return strings.Join(parts, ",")
}

// named returns the founder of that name.
func (f founders) named(name string) (Founder, bool) {
	i := slices.IndexFunc(f, func(founder Founder) bool { return founder.Name == name })
	if i < 0 {
		return Founder{}, false
	}
	return f[i], true
}

// memberID returns the id of a founder, which every founder computes alike.
func (f Founder) memberID(token string) ID {
	return DerivedID(append([]string{"member", token, f.Name}, f.PeerURLs...)...)
}

// clusterID returns the id of the cluster that f found under token. Clusters of other lists, or
// other tokens, have others.
func (f founders) clusterID(token string) ID {
	parts := []string{"cluster", token}
	for _, founder := range f {
		parts = append(parts, founder.memberID(token).String())
	}
	slices.Sort(parts[2:])
	return DerivedID(parts...)
}

// majority is how many of n voters decide.
func majority(n int) int { return n/2 + 1 }
