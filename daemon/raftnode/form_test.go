package raftnode

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

func TestAFounderIsTurnedAwayWithTheReasonAndTheRemedy(t *testing.T) {
	list, err := ParseFounders("m1=http://h1:2380,m2=http://h2:2380,m3=http://h3:2380")
	if err != nil {
		t.Fatal(err)
	}
	self := record{Founders: founders(list).String(), Identity: Identity{
		Name: "m1", MemberID: list[0].memberID("t"), ClusterID: founders(list).clusterID("t"), ClusterToken: "t",
	}}
	fine := clusterPage{Cluster: self.ClusterID, Token: "t", Member: list[1].memberID("t"), Name: "m2", Founders: self.Founders}
	for _, c := range []struct {
		name   string
		change func(p *clusterPage)
		want   string // "" lets it in
	}{
		{"one that agrees", func(*clusterPage) {}, ""},
		{"one that runs", func(p *clusterPage) { p.Started = true }, ""},
		{"another token", func(p *clusterPage) { p.Token, p.Cluster = "u", 7 }, `the token "u", this member is started with "t"`},
		{"another list", func(p *clusterPage) { p.Founders, p.Cluster = "m2=http://h2:2380", 7 }, "it has m2=http://h2:2380, this member has m1=http://h1:2380,m2="},
		{"another cluster", func(p *clusterPage) { p.Founders, p.Cluster = "", 7 }, "belongs to another cluster (id 7"},
		{"itself", func(p *clusterPage) { p.Member = self.MemberID }, "a member that is called"},
		{"a removal", func(p *clusterPage) { p.Removed = true }, "was removed from the cluster"},
		{"an earlier start", func(p *clusterPage) { p.Repeated = true }, "has started before"},
	} {
		page := fine
		c.change(&page)
		err := judgeFounder(self, list[1], page)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAMemberThatJoinsFindsItselfByItsURLs(t *testing.T) {
	page := clusterPage{Cluster: 5, Token: "t", Started: true, Members: []pageMember{
		{ID: 1, Name: "m1", PeerURLs: []string{"http://h1:2380"}, Started: true},
		{ID: 2, PeerURLs: []string{"http://h2:7001", "http://h2:2380"}},
	}}
	fresh := record{Identity: Identity{Name: "m2", ClusterToken: "t"}}
	got, err := joined(fresh, page, "http://h1:2380", []string{"http://h2:2380", "http://h2:7001"})
	if err != nil || got.MemberID != 2 || got.ClusterID != 5 || !got.Joining {
		t.Errorf("%+v, %v", got, err)
	}
	for want, urls := range map[string][]string{
		"add it first with kvctl member add m2 http://h3:2380": {"http://h3:2380"},
		"has started before": {"http://h1:2380"},
	} {
		if _, err := joined(fresh, page, "http://h1:2380", urls); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", urls, err, want)
		}
	}
	if _, err := joined(record{Identity: Identity{Name: "m2", ClusterToken: "u"}}, page, "http://h1:2380", nil); err == nil || !strings.Contains(err.Error(), `the token "t"`) {
		t.Errorf("another token: %v", err)
	}
}

// FuzzFounders: a list that is accepted is read again from what is written of it.
func FuzzFounders(f *testing.F) {
	f.Add("m1=http://h1:2380,m2=http://h2:2380,m1=http://h1:7001/")
	f.Add("m1=,=http://h1:1,m1")
	f.Fuzz(func(t *testing.T, text string) {
		var list []Founder
		var err error
		fuzztest.WantBounded(t, 1024*uint64(len(text))+fuzztest.Fixed, func() { list, err = ParseFounders(text) })
		if err != nil {
			return
		}
		again, err := ParseFounders(founders(list).String())
		if err != nil || founders(again).String() != founders(list).String() {
			t.Fatalf("%q is %q, then %v, %v", text, founders(list), again, err)
		}
	})
}

// FuzzNumbers: what is accepted is written again as it was, unless it was written at too great length.
func FuzzNumbers(f *testing.F) {
	f.Add(appendNumbers(nil, 0, 1<<63, 7))
	f.Add([]byte{0x80, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		numbers, err := parseNumbers(data, 3)
		if err != nil {
			return
		}
		if again := appendNumbers(nil, numbers...); len(again) > len(data) || len(numbers) != 3 {
			t.Fatalf("%x is %v, and that %x", data, numbers, again)
		}
	})
}
