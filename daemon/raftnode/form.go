package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/peer"
)

// ClusterPath is where a peer port tells who lives there and which cluster that is.
const ClusterPath = "/kvd/cluster"

const (
	formAskTimeout = 2 * time.Second        // for one member to answer
	formPause      = 200 * time.Millisecond // between two rounds of asking
	formToldFirst  = time.Second            // until the first log line about who is waited for
	formTold       = 10 * time.Second       // between two of them
	formVerdict    = time.Second            // for which no majority can agree, until a founder ends: the others are to see it, too
	formBodyMax    = 64 << 10

	// settledTimeout bounds the wait for the leader, who knows what this member may not know yet.
	settledTimeout = time.Second
)

// clusterPage is the answer of ClusterPath.
type clusterPage struct {
	Cluster  ID           `json:"cluster"`
	Token    string       `json:"token"`
	Member   ID           `json:"member"` // who answers
	Name     string       `json:"name"`
	Process  ID           `json:"process"` // another one after each start
	Founders string       `json:"founders,omitempty"`
	Started  bool         `json:"started"` // who answers has joined in
	Members  []pageMember `json:"members"`

	// Of a member that has told that it starts:
	Repeated bool `json:"repeated,omitempty"` // it has started before, with another disk
	Removed  bool `json:"removed,omitempty"`  // it was removed
}

type pageMember struct {
	ID       ID       `json:"id"`
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
	Started  bool     `json:"started"` // it has served clients
	Voter    bool     `json:"voter"`
}

// start is what a member tells the others when it starts for the first time.
type start struct {
	Cluster     ID `json:"cluster"`
	Member      ID `json:"member"`
	Incarnation ID `json:"incarnation"`
}

// serveCluster answers ClusterPath.
func (n *Node) serveCluster(w http.ResponseWriter, r *http.Request) {
	var told start
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(io.LimitReader(r.Body, formBodyMax))
		if err == nil {
			err = json.Unmarshal(body, &told)
		}
		if err != nil {
			http.Error(w, "the body is not what a member says when it starts: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	page, err := n.selfPage(), error(nil)
	if !r.URL.Query().Has(selfQuery) {
		page, err = n.clusterPage(r.Context(), told)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(page)
}

// selfPage returns who lives here.
func (n *Node) selfPage() clusterPage {
	own := n.notes.look()
	return clusterPage{
		Cluster: own.ClusterID, Token: own.ClusterToken, Member: own.MemberID, Name: own.Name, Process: ID(n.registry.origin),
		Founders: own.Founders, Started: n.ready.Load(), Members: []pageMember{},
	}
}

// clusterPage returns what this member knows, or knows through its leader once there has been one,
// and notes that a founder starts.
func (n *Node) clusterPage(ctx context.Context, told start) (clusterPage, error) {
	own := n.notes.look()
	page := n.selfPage()
	if page.Started && n.raft.LastIndex() > 1 {
		// A member that lags, or that is cut off, would not know of others that have started.
		ctx, cancel := context.WithTimeout(ctx, settledTimeout)
		defer cancel()
		if err := n.ReadBarrier(ctx); err != nil {
			return page, errors.New("this member has no leader now, so that it cannot tell who has started before")
		}
	}
	if page.Started {
		for _, m := range n.fsm.machine.Members() {
			page.Members = append(page.Members, pageMember{ID: ID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, Started: len(m.ClientURLs) > 0, Voter: m.Voter})
		}
	}
	if told.Cluster != own.ClusterID || !own.founded(told.Member) {
		return page, nil
	}
	page.Removed = page.Started && n.fsm.machine.Removed(uint64(told.Member))
	first, noted := own.Starts[told.Member]
	page.Repeated = noted && first != told.Incarnation ||
		!noted && slices.ContainsFunc(page.Members, func(m pageMember) bool { return m.ID == told.Member && m.Started })
	if noted || page.Repeated || page.Removed {
		return page, nil
	}
	return page, n.notes.note(func(r *record) {
		if r.Starts == nil {
			r.Starts = map[ID]ID{}
		}
		r.Starts[told.Member] = told.Incarnation
	})
}

// founded reports whether a member is one of the founders.
func (r record) founded(member ID) bool {
	list, err := ParseFounders(r.Founders)
	return err == nil && slices.ContainsFunc(list, func(f Founder) bool { return f.memberID(r.ClusterToken) == member })
}

// astray reports whether page is of a founder that was started with another token or list than the member
// of record, and has not begun: it is about to begin another cluster, whose ids are all others. One that runs
// is none: what the member of record is about to begin may be there already, under another list.
func (p clusterPage) astray(r record) bool {
	return !p.Started && (p.Token != r.ClusterToken || p.Cluster != r.ClusterID)
}

// form returns when this founder may start: a majority of the founders is there, this one among them,
// and none of them knows that it has started before. One that has, and has lost its disk, could vote
// a second time in a term in which it has voted. A founder that is astray counts as one that is not there,
// so that the others go on if they are a majority, and it ends when it sees that it cannot find one. They do
// not if those of its list could be a majority without them: then there would be two clusters.
func (n *Node) form(ctx context.Context, list founders) error {
	own := n.notes.look()
	told, err := json.Marshal(start{Cluster: own.ClusterID, Member: own.MemberID, Incarnation: own.Incarnation})
	if err != nil {
		return err
	}
	lastTold := n.now().Add(formToldFirst - formTold)
	astray := map[string]stray{}
	var hopeless time.Time // since when no majority can agree
	for {
		agreed, missing, refusal := n.askFounders(ctx, own, list, told, astray)
		reached := len(agreed)
		possible := reached + len(missing)
		for _, name := range slices.Sorted(maps.Keys(astray)) {
			missing = append(missing, astray[name].why.Error())
		}
		n.waits(fmt.Sprintf("%d of %d members that begin the cluster are there, %d are needed; not reached: %s", reached, len(list), majority(len(list)), strings.Join(missing, ", ")))
		switch {
		case refusal != nil:
			return refusal
		case reached >= majority(len(list)):
			return n.leaveOut(astray, agreed)
		case ctx.Err() != nil:
			return fmt.Errorf("start member %s: %w; it has waited for a majority of the cluster, but not reached %s", own.Name, ctx.Err(), strings.Join(missing, ", "))
		case possible >= majority(len(list)):
			hopeless = time.Time{}
		case hopeless.IsZero():
			hopeless = n.now()
		case n.now().Sub(hopeless) >= formVerdict:
			return astray[slices.Min(slices.Collect(maps.Keys(astray)))].why
		}
		if n.now().Sub(lastTold) >= formTold {
			lastTold = n.now()
			n.log.Warn("waiting for a majority of the cluster", "reached", reached, "needed", majority(len(list)), "missing", strings.Join(missing, ", "))
		}
		select {
		case <-time.After(formPause):
		case <-ctx.Done():
		}
	}
}

// stray is a founder that is astray.
type stray struct {
	founders string // its list
	why      error  // what is wrong about it
}

// leaveOut tells who is left out when those who have agreed begin. It returns an error if they must not.
func (n *Node) leaveOut(astray map[string]stray, agreed []Founder) error {
	for _, s := range astray {
		if couldBegin(s.founders, agreed) {
			return s.why
		}
	}
	for _, s := range astray {
		n.log.Warn("a majority of the cluster agrees, and begins without a member that does not", "err", s.why, "try", "start that one with the settings of the others")
	}
	return nil
}

// couldBegin reports whether the founders in a list could be a majority without any of others.
func couldBegin(list string, others []Founder) bool {
	founders, err := ParseFounders(list)
	if err != nil || len(founders) == 0 {
		return true
	}
	free := slices.DeleteFunc(slices.Clone(founders), func(f Founder) bool {
		return slices.ContainsFunc(others, func(o Founder) bool {
			return slices.ContainsFunc(f.PeerURLs, func(url string) bool { return slices.Contains(o.PeerURLs, url) })
		})
	})
	return len(free) >= majority(len(founders))
}

// askFounders tells the others that this member starts. It returns who agrees, this one among them, who
// was not reached, with the reason, and why this member must not start, nil if nobody says so. Who is astray
// is put into astray by its name, and stays there until it says something else.
func (n *Node) askFounders(ctx context.Context, own record, list founders, told []byte, astray map[string]stray) (agreed []Founder, missing []string, refusal error) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, founder := range list {
		if founder.memberID(own.ClusterToken) == own.MemberID {
			mu.Lock()
			agreed = append(agreed, founder)
			mu.Unlock()
			continue
		}
		asking.Go(func() {
			page, err := n.askFounder(ctx, founder, told)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if _, known := astray[founder.Name]; !known {
					missing = append(missing, fmt.Sprintf("%s (%v)", founder.Name, err))
				}
				return
			}
			delete(astray, founder.Name)
			switch why := judgeFounder(own, founder, page); {
			case why == nil:
				agreed = append(agreed, founder)
			case page.astray(own):
				astray[founder.Name] = stray{page.Founders, why}
			default:
				refusal = why
			}
		})
	}
	asking.Wait()
	slices.Sort(missing)
	return agreed, missing, refusal
}

// askFounder tells a founder that this member starts and returns its answer. It tries all URLs.
func (n *Node) askFounder(ctx context.Context, founder Founder, told []byte) (clusterPage, error) {
	var problems []error
	for _, url := range founder.PeerURLs {
		page, err := n.askCluster(ctx, url, told)
		if err == nil {
			return page, nil
		}
		problems = append(problems, err)
	}
	return clusterPage{}, errors.Join(problems...)
}

func (n *Node) askCluster(ctx context.Context, url string, told []byte) (page clusterPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, formAskTimeout)
	defer cancel()
	var body []byte
	url = strings.TrimSuffix(url, "/") + ClusterPath
	if told == nil {
		body, err = peer.Get(ctx, url, n.tls)
	} else {
		body, err = peer.Post(ctx, url, told, n.tls)
	}
	if err != nil {
		return page, err
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return page, fmt.Errorf("%s does not answer as a member of kvd does: %w", url, err)
	}
	return page, nil
}

// judgeFounder returns why the member of record must not start, from what founder says; nil if it may
// for all that founder knows.
func judgeFounder(r record, founder Founder, page clusterPage) error {
	where := founder.Name + " (" + strings.Join(founder.PeerURLs, ", ") + ")"
	switch {
	case page.Token != r.ClusterToken:
		return mismatch("%s belongs to a cluster with the token %q, this member is started with %q: give all members the same --initial-cluster-token", where, page.Token, r.ClusterToken)
	case page.Cluster != r.ClusterID && page.Founders != r.Founders && page.Founders != "":
		return mismatch("%s is started with another --initial-cluster: it has %s, this member has %s; give all members the same list", where, page.Founders, r.Founders)
	case page.Cluster != r.ClusterID:
		return mismatch("%s belongs to another cluster (id %s, not %s): it was not founded with --initial-cluster %s; to add this member to it, use kvctl member add and --initial-cluster-state existing", where, page.Cluster, r.ClusterID, r.Founders)
	case page.Member == r.MemberID:
		return mismatch("at the address of %s a member that is called %s answers, as this one is: each needs a --name and an address of its own", where, r.Name)
	case page.Removed:
		return mismatch("member %s (id %s) was removed from the cluster, says %s; add it as a new member with kvctl member add, and start it with --initial-cluster-state existing", r.Name, r.MemberID, where)
	case page.Repeated:
		return mismatch("member %s (id %s) has started before, says %s, and this data directory is empty. If it runs elsewhere, --name is wrong here. If its data is gone, it must not vote again without it; replace it: kvctl member remove %s, kvctl member add %s, then start it with an empty --data-dir and --initial-cluster-state existing",
			r.Name, r.MemberID, where, r.MemberID, r.Name)
	}
	return nil
}

// join returns the record of a member that was added to a cluster and has not started before. It asks
// the members that list names, all but the one that has urls: this one.
func (n *Node) join(ctx context.Context, r record, list founders, urls []string) (record, error) {
	lastTold := n.now().Add(formToldFirst - formTold)
	for {
		var problems []string
		for _, other := range list {
			if sameURLs(other.PeerURLs, urls) || other.Name == n.config.Founder {
				continue
			}
			for _, url := range other.PeerURLs {
				page, err := n.askCluster(ctx, url, nil)
				if err == nil && !page.Started {
					err = errors.New("it is no member of a cluster yet")
				}
				if err != nil {
					problems = append(problems, fmt.Sprintf("%s (%v)", other.Name, err))
					continue
				}
				return joined(r, page, url, urls)
			}
		}
		n.waits("no member of the cluster that it joins has answered: " + strings.Join(problems, ", "))
		if ctx.Err() != nil {
			return r, fmt.Errorf("join as member %s: %w; no member of the cluster has answered: %s", r.Name, ctx.Err(), strings.Join(problems, ", "))
		}
		if n.now().Sub(lastTold) >= formTold {
			lastTold = n.now()
			n.log.Warn("waiting for a member of the cluster to join", "asked", strings.Join(problems, ", "))
		}
		select {
		case <-time.After(formPause):
		case <-ctx.Done():
		}
	}
}

// joined returns the record of the member with urls in the cluster that page, from url, tells of.
func joined(r record, page clusterPage, url string, urls []string) (record, error) {
	if page.Token != r.ClusterToken {
		return r, mismatch("the cluster at %s has the token %q, this member is started with %q: give it the same --initial-cluster-token", url, page.Token, r.ClusterToken)
	}
	at := slices.IndexFunc(page.Members, func(m pageMember) bool { return sameURLs(m.PeerURLs, urls) })
	if at < 0 {
		var known []string
		for _, m := range page.Members {
			known = append(known, m.Name+"="+strings.Join(m.PeerURLs, "|"))
		}
		return r, mismatch("the cluster at %s has no member with the peer url %s, only %s: add it first with kvctl member add %s %s", url, strings.Join(urls, ","), strings.Join(known, ", "), r.Name, strings.Join(urls, ","))
	}
	self := page.Members[at]
	if self.Started {
		return r, mismatch("member %s (id %s) has started before, says %s, and this data directory is empty. If it runs elsewhere, the peer url is wrong here. If its data is gone, it must not vote again without it; replace it: kvctl member remove %s, then kvctl member add %s, and start it with an empty --data-dir",
			r.Name, self.ID, url, self.ID, r.Name)
	}
	r.ClusterID, r.MemberID, r.Joining = page.Cluster, self.ID, true
	return r, nil
}

func sameURLs(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
