package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// What the doctor takes for sound.
const (
	soundSync     = 32 * time.Millisecond // of 99 in 100 syncs of the log
	enoughSyncs   = 100                   // to judge by
	soundClock    = 2 * time.Second       // between a member and this machine
	soundContact  = time.Second           // since a member has heard from the leader
	soundElection = 2 * time.Second       // timeout, where it follows what is measured
	soundLag      = 5000                  // entries behind the member that is furthest
	soundTrip     = 50 * time.Millisecond // between two members
	soundLifetime = 30 * 24 * time.Hour   // that a certificate has left
)

// How bad a finding is.
const (
	severe  = "trouble" // something does not work
	warning = "warning" // something may stop working
)

// finding is one thing that is wrong.
type finding struct {
	Severity string `json:"severity"`
	Subject  string `json:"subject"` // a member, a port or a file
	Finding  string `json:"finding"`
	Meaning  string `json:"meaning"`
	Remedy   string `json:"remedy"`
}

func (f finding) rank() int {
	if f.Severity == severe {
		return 0
	}
	return 1
}

// judgeCluster returns what is wrong with the members. cluster is how one of them sees all.
func judgeCluster(cluster kvclient.Cluster, patients []patient) (findings []finding) {
	add := func(severity, subject, what, meaning, remedy string) {
		findings = append(findings, finding{severity, subject, what, meaning, remedy})
	}
	if cluster.Leader == "" {
		add(severe, "cluster", "there is no leader", "nothing can be written, and nothing read by quorum", "start members that are down, and look whether the others reach each other: "+cluster.Quorum)
	}
	down := map[string]bool{}
	for _, p := range patients {
		name := called(p.ClusterMember)
		switch {
		case p.problem == nil:
		case !p.Alive && p.Role == "joining" && p.Name != "" && len(p.ClientURLs) == 0:
			down[p.ID] = true
			add(warning, name, "it was added, and has not come: "+p.Problem, "it has no vote until it has", "start it with the settings that kvctl member add has printed, or take it back with kvctl member remove "+p.ID)
		case !p.Alive:
			down[p.ID] = true
			add(severe, name, "it is down, or cut off: "+p.Problem, cluster.Quorum, "start it, or replace it: docs/how-to/replace-a-member.md")
		case p.endpoint == "":
			add(warning, name, "it has no client URL", "clients cannot use it", "give it --advertise-client-urls")
		default:
			add(severe, name, "its client port does not answer: "+p.problem.Error(), "clients that have only this one cannot work; the other members reach it", "look at its log, at firewalls and at --advertise-client-urls")
		}
	}
	var furthest uint64
	versions := map[string][]string{}
	for _, p := range patients {
		if p.AppliedIndex != nil {
			furthest = max(furthest, *p.AppliedIndex)
		}
		if p.Version != nil {
			versions[*p.Version] = append(versions[*p.Version], called(p.ClusterMember))
		}
	}
	for _, p := range patients {
		findings = append(findings, judgeMember(p, furthest)...)
		findings = append(findings, judgePairs(p, down)...)
	}
	if len(versions) > 1 {
		var parts []string
		for version, names := range versions {
			slices.Sort(names)
			parts = append(parts, version+" on "+strings.Join(names, ", "))
		}
		slices.Sort(parts)
		add(warning, "cluster", "its members run different versions: "+strings.Join(parts, "; "), "that is meant for the time of an upgrade only", "finish it: docs/how-to/rolling-upgrade.md")
	}
	return findings
}

// judgeStrays returns what is wrong with endpoints that are client URLs of no member.
func judgeStrays(cluster kvclient.Cluster, strays []patient) (findings []finding) {
	for _, p := range strays {
		switch {
		case p.problem != nil:
			findings = append(findings, finding{warning, p.endpoint, "this endpoint does not answer, and no member names it: " + p.problem.Error(), "whoever has it tries it in vain", "correct --endpoints"})
		case p.view.ID != cluster.ID:
			findings = append(findings, finding{severe, p.endpoint, "this endpoint belongs to another cluster: " + p.view.ID + ", not " + cluster.ID,
				"what is written goes now to one of them, and now to the other", "name endpoints of one cluster"})
		}
	}
	return findings
}

// judgeMember returns what is wrong with one member by itself.
func judgeMember(p patient, furthest uint64) (findings []finding) {
	name := called(p.ClusterMember)
	add := func(severity, what, meaning, remedy string) {
		findings = append(findings, finding{severity, name, what, meaning, remedy})
	}
	if p.problem != nil {
		return nil
	}
	var e *kv.Error
	if errors.As(p.health, &e) && strings.HasPrefix(e.Cause, "ALARM ") {
		add(severe, "it has raised the alarm "+strings.TrimPrefix(e.Cause, "ALARM "), alarmMeans(e.Cause), "see docs/reference/kvd.md")
	} else if p.health != nil && p.view.Leader != "" {
		add(severe, "it is not well: "+diagnose(p.health).Message, "it cannot answer reads by quorum", "look at its log")
	}
	if p.view.Leader == "" {
		add(severe, "it knows no leader", "it can answer local reads only", "look whether it reaches the other members")
	} else if ms := p.LastContactMs; ms != nil && p.view.Leader != p.ID && (*ms < 0 || *ms > float64(soundContact/time.Millisecond)) {
		add(warning, fmt.Sprintf("it has not heard from the leader for %v ms", *ms), "what it reads locally is old", "look at the network between it and the leader, and at the load of both")
	}
	if p.AppliedIndex != nil && furthest > *p.AppliedIndex+soundLag {
		add(warning, fmt.Sprintf("it is %d entries behind", furthest-*p.AppliedIndex), "what it reads locally is old, and it is no help if another member fails", "wait if it has just started; otherwise look at its disk and its processor")
	}
	if slow := p.sync.Quantile(0.99); p.sync.Count >= enoughSyncs && slow > soundSync {
		add(warning, fmt.Sprintf("its disk is slow: more than one in a hundred syncs of the log take longer than %v", soundSync), "writes wait for it, and elections may follow", "give --data-dir a disk that nothing else writes to, an SSD at best")
	}
	if ms := p.ElectionTimeoutMs; ms != nil && !p.ElectionFixed && *ms > float64(soundElection/time.Millisecond) {
		add(warning, fmt.Sprintf("its election timeout has risen to %v ms: round trips or syncs of the log take long, or the machine has too much to do", *ms), "writes wait that much longer when the leader fails", "compare kvd_peer_round_trip_duration_seconds, kvd_log_sync_duration_seconds and kvd_scheduling_delay_seconds in its /metrics; if that is how it has to be, give all members --election-timeout")
	}
	if skew := clockSkew(p.asked, p.view); skew > soundClock || skew < -soundClock {
		word := "ahead of"
		if skew < 0 {
			word, skew = "behind", -skew
		}
		add(warning, fmt.Sprintf("its clock is %v %s this machine's", skew.Round(time.Second), word), "TTLs do not depend on it, but certificates and the times in logs do", "let all machines keep their clocks with NTP")
	}
	return findings
}

func alarmMeans(cause string) string {
	if strings.Contains(cause, "NOSPACE") {
		return "only what makes the store smaller is written"
	}
	return "it differs from the other members, and answers no reads by quorum"
}

// clockSkew returns by how much a member's clock is surely ahead of this machine's; below 0 it is behind.
// The member tells whole seconds, at some time between question and answer.
func clockSkew(asked time.Time, v kvclient.Cluster) time.Duration {
	switch answered := asked.Add(v.RoundTrip); {
	case v.Date.IsZero() || asked.IsZero():
		return 0
	case v.Date.After(answered):
		return v.Date.Sub(answered)
	case v.Date.Add(time.Second).Before(asked):
		return v.Date.Add(time.Second).Sub(asked)
	}
	return 0
}

// judgePairs returns which members p does not reach well, but for those that are down for all.
func judgePairs(p patient, down map[string]bool) (findings []finding) {
	if p.problem != nil {
		return nil
	}
	from := called(p.ClusterMember)
	for _, m := range p.view.Members {
		pair := from + " to " + called(m)
		switch {
		case m.ID == p.ID || down[m.ID]:
		case !m.Alive:
			findings = append(findings, finding{severe, pair, "it cannot be reached at " + strings.Join(m.PeerURLs, ", ") + ": " + m.Problem,
				"one of them may lose the leader, and elections may follow", "open the peer port between them, or correct the URL with kvctl member update"})
		case m.RoundTripMs != nil && *m.RoundTripMs > float64(soundTrip/time.Millisecond):
			findings = append(findings, finding{warning, pair, fmt.Sprintf("a round trip takes %v ms", *m.RoundTripMs),
				"each write waits for one at least", "let members stand near each other"})
		}
	}
	return findings
}

// judgeCerts returns which certificates are over or will soon be.
func judgeCerts(found []foundCert, now time.Time) (findings []finding) {
	const renew = "kvctl cert renew, or ask whoever has issued it; kvd and kvctl take the new files without a restart"
	for _, f := range found {
		left := f.notAfter.Sub(now)
		switch {
		case f.problem != nil:
			findings = append(findings, finding{warning, f.where, "its certificate cannot be read: " + f.problem.Error(), "whether it ends soon is not known", "look at the port, or the file"})
		case left <= 0:
			findings = append(findings, finding{severe, f.where, "its certificate has ended, on " + f.notAfter.UTC().Format(time.DateOnly), "nobody who checks it connects", renew})
		case left < soundLifetime:
			findings = append(findings, finding{warning, f.where, fmt.Sprintf("its certificate ends in %d days, on %s", left/(24*time.Hour), f.notAfter.UTC().Format(time.DateOnly)),
				"nobody who checks it connects from then on", renew})
		}
	}
	return findings
}

func called(m kvclient.ClusterMember) string {
	if m.Name != "" {
		return m.Name
	}
	return m.ID
}
