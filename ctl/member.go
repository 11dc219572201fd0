package ctl

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/printable"
)

// acceptQuorumLoss is the value of --accept-risk.
const acceptQuorumLoss = "lose-quorum"

func memberCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "member COMMAND", Short: "show, add, promote, demote and remove the members of the cluster", GroupID: groupCluster,
		Long: `Show, add, promote, demote and remove the members of the cluster.

A MEMBER is an id or a name. Before a change, what it does to the quorum is said on stderr;
one that would lose the quorum is refused unless --accept-risk=lose-quorum is given.`,
		Example: `  kvctl member list
  kvctl member add n4 http://10.0.0.4:2380
  kvctl member remove n2
  kvctl member transfer n3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "list the members, and how they are", RunE: s.run(listMembers)},
		memberAdd(s),
		memberInvite(s),
		&cobra.Command{Use: "update MEMBER URLS", Short: "give a member other peer URLs, separated by commas", RunE: s.run(updateMember)},
		&cobra.Command{Use: "promote MEMBER", Short: "give a learner a vote", RunE: s.run(promoteMember)},
		memberDemote(s),
		memberRemove(s),
		&cobra.Command{Use: "transfer [MEMBER]", Short: "have another member lead, MEMBER if it is given", RunE: s.run(transferLeadership)},
	)
	return cmd
}

func listMembers(ctx context.Context, c *session, args []string) error {
	if err := noMoreWords(args, 0); err != nil {
		return err
	}
	cluster, err := c.client.Cluster(ctx)
	if isNotServed(err) {
		return c.plainMembers(ctx)
	}
	if err != nil {
		return err
	}
	c.said(clusterTable(cluster), cluster)
	return nil
}

// isNotServed reports whether a server has answered that it has no such thing: an etcd.
func isNotServed(err error) bool { return err != nil && kv.KindOf(err) == kv.Internal }

// plainMembers prints what an etcd tells, in etcdctl's words.
func (c *session) plainMembers(ctx context.Context) error {
	members, err := c.client.Members(ctx)
	if err != nil {
		return err
	}
	lines := make([]string, len(members))
	for i, m := range members {
		lines[i] = fmt.Sprintf("%s: name=%s peerURLs=%s clientURLs=%s", m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","))
	}
	c.names(lines, struct {
		Members []kvclient.Member `json:"members"`
	}{append([]kvclient.Member{}, members...)})
	return nil
}

// clusterTable is the members in columns, and a line on the quorum.
func clusterTable(v kvclient.Cluster) string {
	rows := [][]string{{"ID", "NAME", "ROLE", "STATE", "APPLIED", "HEARD LEADER", "ROUND TRIP", "VERSION", "PEER URLS", "CLIENT URLS"}}
	for _, m := range v.Members {
		rows = append(rows, []string{
			m.ID, dash(m.Name), m.Role, stateOf(m), numberOf(m.AppliedIndex), heard(m), milliseconds(m.RoundTripMs), dash(text(m.Version)),
			dash(strings.Join(m.PeerURLs, ",")), dash(strings.Join(m.ClientURLs, ",")),
		})
	}
	sum := v.Quorum
	if v.Leader == "" {
		sum += "; but member " + v.Member + ", who says so, knows no leader"
	}
	return table(rows) + "\n" + sum
}

// table sets rows in columns, without a newline at the end.
func table(rows [][]string) string {
	var b strings.Builder
	columns := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable.Line(cell)
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}
	_ = columns.Flush() // a strings.Builder takes everything
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func stateOf(m kvclient.ClusterMember) string {
	switch {
	case !m.Alive:
		return "down"
	case m.Leader:
		return "leader"
	}
	return "follower"
}

func heard(m kvclient.ClusterMember) string {
	if m.Leader {
		return "-"
	}
	return milliseconds(m.LastContactMs)
}

func milliseconds(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return strconv.FormatFloat(*ms, 'f', -1, 64) + " ms"
}

func numberOf(n *uint64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(*n, 10)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// memberDone is the JSON of a change.
type memberDone struct {
	Member   string             `json:"member"`
	Name     string             `json:"name,omitempty"`
	Done     string             `json:"done"`
	Forecast *kvclient.Forecast `json:"forecast,omitempty"` // absent if an etcd does not tell
}

// foresee tells what a change would do, and returns an error if it must not be made.
func (c *session) foresee(ctx context.Context, change kvclient.MemberChange, risk string) (*kvclient.Forecast, error) {
	if risk != "" && risk != acceptQuorumLoss {
		return nil, &usageError{text: fmt.Sprintf("--accept-risk %s: there is no such risk", risk), hint: "the only one is " + acceptQuorumLoss}
	}
	f, err := c.client.CheckMemberChange(ctx, change)
	switch {
	case isNotServed(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if c.format != asJSON {
		fmt.Fprintln(c.env.Stderr, f.Text)
	}
	if f.Stuck || f.Voters == 0 || f.LosesQuorum && risk == "" {
		return nil, &quorumError{f}
	}
	return &f, nil
}

// quorumError is a change that is not made because of what it would do.
type quorumError struct{ forecast kvclient.Forecast }

func (e *quorumError) Error() string { return "not done: " + e.forecast.Text }

func (e *quorumError) hint() string {
	if e.forecast.Stuck {
		return "start the members that are down; if their data is lost for good, see docs/how-to/lost-quorum.md"
	}
	if e.forecast.Voters == 0 {
		return "a cluster has a member that votes: to end it, stop kvd and remove its data directory"
	}
	return "start the members that are down first; with --accept-risk=" + acceptQuorumLoss + " it is done all the same"
}

func memberAdd(s *settings) *cobra.Command {
	var learner bool
	cmd := &cobra.Command{
		Use: "add NAME URLS", Short: "add a member, and print the settings to start it with; URLS are its peer URLs, separated by commas",
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			if len(args) < 2 {
				return &usageError{text: "name and peer URL required", hint: "kvctl member add n4 http://10.0.0.4:2380"}
			}
			if err := noMoreWords(args, 2); err != nil {
				return err
			}
			urls, err := peerURLs(args[1])
			if err != nil {
				return err
			}
			name, change := args[0], "add"
			if learner {
				change = "add-learner"
			}
			forecast, err := c.foresee(ctx, kvclient.MemberChange{Change: change, Name: name}, "")
			if err != nil {
				return err
			}
			m, err := c.client.AddMember(ctx, kvclient.NewMember{PeerURLs: urls, Name: name, Learner: learner})
			if err != nil {
				return err
			}
			members, err := c.client.Members(ctx)
			if err != nil {
				return err
			}
			cluster := initialCluster(members, m.ID, name)
			c.said(fmt.Sprintf("Added member named %s with ID %s to cluster\n\nETCD_NAME=\"%s\"\nETCD_INITIAL_CLUSTER=\"%s\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\"", name, m.ID, name, cluster), struct {
				memberDone
				InitialCluster string `json:"initialCluster"`
			}{memberDone{m.ID, name, "added", forecast}, cluster})
			return nil
		}),
	}
	cmd.Flags().BoolVar(&learner, "learner", false, "without a vote until it is promoted")
	return cmd
}

// peerURLs returns the URLs of an argument.
func peerURLs(text string) ([]string, error) {
	urls := strings.Split(text, ",")
	for _, url := range urls {
		if !strings.Contains(url, "://") {
			return nil, &usageError{text: fmt.Sprintf("%q is no peer URL", url), hint: fmt.Sprintf("http://%s, or https://%[1]s if the members speak TLS with each other", url)}
		}
	}
	return urls, nil
}

func memberInvite(s *settings) *cobra.Command {
	var name string
	var ttl time.Duration
	cmd := &cobra.Command{Use: "invite", Short: "print one line that the kvd --join of a new member takes", RunE: s.run(func(ctx context.Context, c *session, args []string) error {
		if err := noMoreWords(args, 0); err != nil {
			return err
		}
		if ttl < time.Second {
			return &usageError{text: fmt.Sprintf("--ttl %v: it must be a second at least", ttl)}
		}
		line, err := c.client.Invite(ctx, name, ttl)
		if err != nil {
			return err
		}
		c.said(line, struct {
			Invitation string `json:"invitation"`
		}{line})
		return nil
	})}
	cmd.Flags().StringVar(&name, "name", "", "what the member is to be called (default: its own --name)")
	cmd.Flags().DurationVar(&ttl, "ttl", 10*time.Minute, "how long the line is good for, once; a day at most")
	return cmd
}

// initialCluster is the --initial-cluster of a new member.
func initialCluster(members []kvclient.Member, id, name string) string {
	var parts []string
	for _, m := range members {
		if m.ID == id {
			m.Name = name
		}
		if m.Name == "" { // it has not started: nobody can learn anything from it
			continue
		}
		for _, url := range m.PeerURLs {
			parts = append(parts, m.Name+"="+url)
		}
	}
	return strings.Join(parts, ",")
}

// member returns the member that text names, by its id or its name.
func (c *session) member(ctx context.Context, args []string) (kvclient.Member, error) {
	if len(args) == 0 || args[0] == "" {
		return kvclient.Member{}, &usageError{text: "member required", hint: "its id or name; kvctl member list shows them"}
	}
	members, err := c.client.Members(ctx)
	if err != nil {
		return kvclient.Member{}, err
	}
	var found []kvclient.Member
	for _, m := range members {
		if m.ID == strings.TrimLeft(strings.ToLower(args[0]), "0") {
			return m, nil
		}
		if m.Name == args[0] {
			found = append(found, m)
		}
	}
	switch {
	case len(found) > 1:
		return kvclient.Member{}, &kv.Error{Op: "member", Kind: kv.Invalid, Cause: fmt.Sprintf("%d members are called %s: take the id", len(found), args[0])}
	case len(found) == 1:
		return found[0], nil
	case isID(args[0]): // the member that is asked may not know of it, or know that it was removed
		return kvclient.Member{ID: args[0]}, nil
	}
	return kvclient.Member{}, &kv.Error{Op: "member", Kind: kv.NotFound, Cause: "Couldn't find a member in the cluster with an ID of " + args[0] + "."}
}

func isID(text string) bool {
	_, err := strconv.ParseUint(text, 16, 64)
	return err == nil
}

func updateMember(ctx context.Context, c *session, args []string) error {
	m, err := c.member(ctx, args)
	if err != nil {
		return err
	}
	if len(args) < 2 || args[1] == "" {
		return &usageError{text: "peer URL required", hint: "kvctl member update n4 http://10.0.0.4:2380"}
	}
	if err := noMoreWords(args, 2); err != nil {
		return err
	}
	urls, err := peerURLs(args[1])
	if err != nil {
		return err
	}
	if err := c.client.UpdateMember(ctx, m.ID, urls); err != nil {
		return err
	}
	c.said(fmt.Sprintf("Updated member with ID %s in cluster", m.ID), memberDone{Member: m.ID, Name: m.Name, Done: "updated"})
	return nil
}

func promoteMember(ctx context.Context, c *session, args []string) error {
	m, err := c.member(ctx, args)
	if err != nil {
		return err
	}
	if err := noMoreWords(args, 1); err != nil {
		return err
	}
	forecast, err := c.foresee(ctx, kvclient.MemberChange{Change: "promote", Member: m.ID}, "")
	if err != nil {
		return err
	}
	if err := c.client.PromoteMember(ctx, m.ID); err != nil {
		return err
	}
	c.said(fmt.Sprintf("Promoted member %s", m.ID), memberDone{m.ID, m.Name, "promoted", forecast})
	return nil
}

func memberDemote(s *settings) *cobra.Command {
	var risk string
	cmd := &cobra.Command{Use: "demote MEMBER", Short: "take a member's vote away; it stays a learner", RunE: s.run(func(ctx context.Context, c *session, args []string) error {
		m, err := c.member(ctx, args)
		if err != nil {
			return err
		}
		if err := noMoreWords(args, 1); err != nil {
			return err
		}
		forecast, err := c.foresee(ctx, kvclient.MemberChange{Change: "demote", Member: m.ID}, risk)
		if err != nil {
			return err
		}
		if err := c.client.DemoteMember(ctx, m.ID, risk != ""); err != nil {
			return err
		}
		c.said(fmt.Sprintf("Demoted member %s", m.ID), memberDone{m.ID, m.Name, "demoted", forecast})
		return nil
	})}
	riskFlag(cmd, &risk)
	return cmd
}

// riskFlag defines --accept-risk.
func riskFlag(cmd *cobra.Command, risk *string) {
	cmd.Flags().StringVar(risk, "accept-risk", "", "`lose-quorum` does it although writes stop then")
}

func memberRemove(s *settings) *cobra.Command {
	var risk string
	cmd := &cobra.Command{Use: "remove MEMBER", Short: "remove a member for good", RunE: s.run(func(ctx context.Context, c *session, args []string) error {
		m, err := c.member(ctx, args)
		if err != nil {
			return err
		}
		if err := noMoreWords(args, 1); err != nil {
			return err
		}
		forecast, err := c.foresee(ctx, kvclient.MemberChange{Change: "remove", Member: m.ID}, risk)
		if kv.Is(err, kv.NotFound) && risk == "" {
			err = nil // the answer to the removal itself says whether there ever was one
		}
		if err != nil {
			return err
		}
		if err := c.client.RemoveMember(ctx, m.ID, risk != ""); err != nil {
			return err
		}
		c.said(fmt.Sprintf("Removed member %s from cluster", m.ID), memberDone{m.ID, m.Name, "removed", forecast})
		return nil
	})}
	riskFlag(cmd, &risk)
	return cmd
}

func transferLeadership(ctx context.Context, c *session, args []string) error {
	var to kvclient.Member
	if len(args) > 0 {
		var err error
		if to, err = c.member(ctx, args); err != nil {
			return err
		}
	}
	if err := noMoreWords(args, 1); err != nil {
		return err
	}
	if err := c.client.TransferLeadership(ctx, to.ID); err != nil {
		return err
	}
	cluster, err := c.client.Cluster(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(cluster.Members, func(m kvclient.ClusterMember) bool { return m.ID == cluster.Leader })
	if at < 0 {
		return &kv.Error{Op: "member transfer", Kind: kv.NoLeader, Cause: "the leadership was given up, and no member has taken it over yet"}
	}
	leader := cluster.Members[at]
	c.said(fmt.Sprintf("Member %s (%s) leads", leader.ID, dash(leader.Name)), memberDone{Member: leader.ID, Name: leader.Name, Done: "leads"})
	return nil
}
