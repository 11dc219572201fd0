package registry

import (
	"strings"
	"testing"
	"time"
)

func TestRecordsThatCannotBecomeAKeyOrAConfigurationLineAreRefused(t *testing.T) {
	for _, c := range []struct {
		spoil func(*Record)
		want  string
	}{
		{func(r *Record) { r.Service = "" }, "service name is missing"},
		{func(r *Record) { r.Service = "a/b" }, "without a slash"},
		{func(r *Record) { r.Service = "_hidden" }, "hidden"},
		{func(r *Record) { r.Instance = ".." }, "is a path"},
		{func(r *Record) { r.Instance = "a\nb" }, "control bytes"},
		{func(r *Record) { r.Instance = strings.Repeat("x", 254) }, "at most 253"},
		{func(r *Record) { r.Instance = "\xff" }, "not UTF-8"},
		{func(r *Record) { r.Port = -1 }, "1 to 65535"},
		{func(r *Record) { r.Port = 65536 }, "1 to 65535"},
		{func(r *Record) { r.Address = "" }, "address is missing"},
		{func(r *Record) { r.Address = "10.0.0.1:80" }, "without a port"},
		{func(r *Record) { r.Address = "0.0.0.0" }, "nobody can connect"},
		{func(r *Record) { r.Address = "fe80::1%eth0" }, "zone"},
		{func(r *Record) { r.Address = "a b" }, "host name"},
		{func(r *Record) { r.ID = "a/b" }, "id"},
		{func(r *Record) { r.Protocol = "icmp" }, "tcp or udp"},
		{func(r *Record) { r.State = "down" }, "state"},
		{func(r *Record) { r.Weight = -1 }, "weight"},
		{func(r *Record) { r.Weight = WeightMax + 1 }, "1 to 256"},
		{func(r *Record) { r.Tags = make([]string, 65) }, "at most 64"},
		{func(r *Record) { r.Tags = []string{""} }, "empty"},
		{func(r *Record) { r.Meta = map[string]string{"k": "a\x00b"} }, "control bytes"},
		{func(r *Record) { r.Meta = map[string]string{"k": strings.Repeat("x", 70000)} }, "at most 65536"},
	} {
		record := web()
		c.spoil(&record)
		if err := record.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q expected, got %v", c.want, err)
		}
	}
	for _, address := range []string{"::1", "10.0.0.1", "db-1.example.org", "localhost"} {
		record := web()
		record.Address = address
		if err := record.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestARecordSurvivesItsEncoding(t *testing.T) {
	record := web()
	record.Tags, record.Meta = []string{"blue"}, map[string]string{"zone": "eu"}
	got, err := Decode(record.encode())
	if err != nil || got.encode() != record.encode() {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Decode("10.0.0.1:80"); err == nil {
		t.Error("a bare address was taken for a record")
	}
}

func TestOwnersDifferByRunAndAgreeByMachine(t *testing.T) {
	a, b := NewOwner(), NewOwner()
	if a == b || !sameMachine(a, b) || sameMachine(a, "other/run") || sameMachine("", "") {
		t.Errorf("owners %q and %q", a, b)
	}
}

func TestStandingOwnersAreTheSameForEveryRunAndTellProgramsAndSettingsApart(t *testing.T) {
	a := StandingOwner("h1", "agent", "x=1")
	if again := StandingOwner("h1", "agent", "x=1"); again != a {
		t.Errorf("owners %q and %q of one program", a, again)
	}
	changed, other, run := StandingOwner("h1", "agent", "x=2"), StandingOwner("h1", "other", "x=1"), NewOwner()
	if changed == a || !sameProgram(a, changed) || !sameMachine(a, changed) {
		t.Errorf("owners %q and %q of one program with two settings", a, changed)
	}
	if sameProgram(a, other) || sameProgram(a, run) || sameProgram(run, NewOwner()) || sameProgram("", "") {
		t.Errorf("owners %q, %q and %q are taken for one program's", a, other, run)
	}
}

func TestTTLsAndPrefixesAreChecked(t *testing.T) {
	for _, ttl := range []time.Duration{0, -time.Second, 1500 * time.Millisecond, 25 * time.Hour} {
		if ValidateTTL(ttl) == nil {
			t.Errorf("ttl %v accepted", ttl)
		}
	}
	for _, prefix := range []string{"", "services", "/", "/a//b", "/_x", "/a/.."} {
		if ValidatePrefix(prefix) == nil {
			t.Errorf("prefix %q accepted", prefix)
		}
	}
	for prefix, want := range map[string]string{"/": "below the root", "/services/": "a slash too many"} {
		if err := ValidatePrefix(prefix); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("prefix %q: %v, want %q", prefix, err, want)
		}
	}
	if err := ValidatePrefix("/a/b"); err != nil {
		t.Error(err)
	}
}
