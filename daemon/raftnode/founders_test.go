package raftnode

import "testing"

func TestEveryFounderComputesTheSameIDs(t *testing.T) {
	a := newFounders([]Founder{{"m1", []string{"http://h1:2380", "http://h1:7001"}}, {"m2", []string{"http://h2:2380"}}})
	b := newFounders([]Founder{{"m2", []string{"http://h2:2380"}}, {"m1", []string{"http://h1:7001", "http://h1:2380"}}})
	if a.String() != b.String() || a.clusterID("t") != b.clusterID("t") || a[0].memberID("t") != b[0].memberID("t") {
		t.Errorf("%s is %s, %s is %s", a, a.clusterID("t"), b, b.clusterID("t"))
	}
	if want := "m1=http://h1:2380,m1=http://h1:7001,m2=http://h2:2380"; a.String() != want {
		t.Errorf("%s, want %s", a, want)
	}
	seen := map[ID]string{}
	for what, id := range map[string]ID{
		"cluster": a.clusterID("t"), "cluster of another token": a.clusterID("u"), "cluster of fewer": a[:1].clusterID("t"),
		"m1": a[0].memberID("t"), "m2": a[1].memberID("t"), "m1 of another token": a[0].memberID("u"),
		"m1 elsewhere": Founder{"m1", []string{"http://h3:2380"}}.memberID("t"),
	} {
		if other, taken := seen[id]; taken || id == 0 {
			t.Errorf("%s and %s have the id %s", what, other, id)
		}
		seen[id] = what
	}
}
