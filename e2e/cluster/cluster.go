package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	clientPort = "2379"
	peerPort   = "2380"

	// startMax bounds the wait for a cluster to answer.
	startMax = time.Minute
	// stopMax bounds the wait for a process to end when it is asked to.
	stopMax = 30 * time.Second
	// pollEvery is how often something is asked that has to become true.
	pollEvery = 10 * time.Millisecond
)

// Program is what members run. Both take etcd's flags.
type Program struct {
	Name string // "kvd" or "etcd"
	Path string
}

// KVD is the kvd at path.
func KVD(path string) Program { return Program{"kvd", path} }

// Etcd is the etcd at path, 3.4 or 3.5: one that still serves the v2 API.
func Etcd(path string) Program { return Program{"etcd", path} }

// Config says what a cluster is.
type Config struct {
	Program Program
	Members int
	Dir     string   // for data and logs; the caller's, who removes it
	Args    []string // further flags of every member

	// Loopback puts all members on the caller's own network, each with an address of 127.0.0.0/8. That
	// takes no rights, and nothing can be cut.
	Loopback bool

	// Domain has the members find each other by the SRV records of this domain, in place of
	// --initial-cluster. Each sees an /etc/resolv.conf of its own, which names Nameserver: the caller
	// has the records served there, before Start.
	Domain string
}

// Cluster is a number of members. Its methods are for one goroutine at a time.
type Cluster struct {
	config  Config
	network *network // nil on loopback
	members []*Member
	token   string
	caller  *Caller
	resolv  string // file for Config.Domain

	nameserver string
}

// New makes the places where the members will live. The caller closes the cluster, also when it is
// never started.
func New(config Config) (*Cluster, error) {
	c := &Cluster{config: config, token: filepath.Base(config.Dir), caller: NewCaller(2), resolv: filepath.Join(config.Dir, "resolv.conf")}
	addresses := make([]string, config.Members)
	places := make([]*place, config.Members)
	var err error
	if config.Loopback {
		addresses, err = loopback(config.Members)
	} else {
		c.network, err = newNetwork()
		for i := 0; i < config.Members && err == nil; i++ {
			if places[i], err = c.network.connect(memberName(i)); err == nil {
				addresses[i] = places[i].address
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if config.Domain != "" {
		c.nameserver = addresses[0][:strings.LastIndex(addresses[0], ".")] + ".1"
		if err := os.WriteFile(c.resolv, []byte("nameserver "+c.nameserver+"\noptions timeout:1 attempts:2\n"), 0o644); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	for i, address := range addresses {
		c.members = append(c.members, &Member{
			Name: memberName(i), cluster: c, place: places[i],
			ClientURL: "http://" + net.JoinHostPort(address, clientPort),
			PeerURL:   "http://" + net.JoinHostPort(address, peerPort),
			data:      filepath.Join(config.Dir, memberName(i)),
			log:       filepath.Join(config.Dir, memberName(i)+".log"),
		})
	}
	return c, nil
}

func memberName(i int) string { return fmt.Sprintf("m%d", i+1) }

// Start starts all members and returns when each says that it is healthy.
func (c *Cluster) Start(ctx context.Context) error {
	for _, m := range c.members {
		if err := m.Launch(); err != nil {
			return err
		}
	}
	return c.AwaitHealthy(ctx)
}

// Close kills all members and removes the network. It may be called again.
func (c *Cluster) Close() error {
	for _, m := range c.members {
		m.Kill()
	}
	c.network.close()
	c.network = nil
	c.caller.Close()
	return nil
}

// Nameserver returns the address, without the port 53, where members with a Config.Domain ask for names.
func (c *Cluster) Nameserver() string { return c.nameserver }

// Members returns all there are, also those that are down. It is the cluster's.
func (c *Cluster) Members() []*Member { return c.members }

// Others returns all members but m.
func (c *Cluster) Others(m *Member) []*Member {
	var others []*Member
	for _, other := range c.members {
		if other != m {
			others = append(others, other)
		}
	}
	return others
}

// AwaitHealthy returns when all members that run are healthy, in the sense of their /health, or an
// error that names one that is not.
func (c *Cluster) AwaitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for _, m := range c.members {
		if err := m.AwaitHealthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Leader returns the member that leads, and that the majority of the members takes for the leader. It
// waits until there is one.
func (c *Cluster) Leader(ctx context.Context) (*Member, error) {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		votes := map[string]int{}
		ids := map[string]*Member{}
		for _, m := range c.members {
			if self, err := c.self(ctx, m); err == nil && m.Running() {
				votes[self.Leader.ID]++
				ids[self.ID] = m
			}
		}
		for id, count := range votes {
			if m := ids[id]; m != nil && 2*count > len(c.members) {
				return m, nil
			}
		}
		if err := pause(ctx, pollEvery); err != nil {
			return nil, fmt.Errorf("wait for a leader: %w", err)
		}
	}
}

// self is what a member says of itself at /v2/stats/self.
type self struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Leader struct {
		ID string `json:"leader"`
	} `json:"leaderInfo"`
}

func (c *Cluster) self(ctx context.Context, m *Member) (s self, err error) {
	const quick = 500 * time.Millisecond // of a member that is paused or cut off
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	err = c.caller.JSON(ctx, "GET", m.ClientURL+"/v2/stats/self", nil, &s)
	return s, err
}

// Cut drops all packets of links, in addition to those that are cut already. Connections stay, and
// nothing arrives.
func (c *Cluster) Cut(links ...Link) error {
	if c.network == nil {
		return errors.New("members on loopback cannot be cut off from each other")
	}
	return c.network.cut(links)
}

// Heal lets the packets of all links pass again.
func (c *Cluster) Heal() error {
	if c.network == nil {
		return nil
	}
	return c.network.heal()
}

// Around returns the links between m and all other members, in both directions.
func (c *Cluster) Around(m *Member) []Link {
	var links []Link
	for _, other := range c.Others(m) {
		links = append(links, Between(m.Name, other.Name)...)
	}
	return links
}

// Between returns both directions between two places.
func Between(a, b string) []Link { return []Link{{a, b}, {b, a}} }

// Replace takes m out of the cluster and puts an empty member with a new id into its place, with the
// same name and address. What it held is deleted. It returns when the new one is healthy.
func (c *Cluster) Replace(ctx context.Context, m *Member) error {
	if err := c.Vacate(ctx, m); err != nil {
		return err
	}
	if err := m.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	return m.AwaitHealthy(ctx)
}

// Transfer has the leader hand over to a member, and returns when that member leads.
func (c *Cluster) Transfer(ctx context.Context, to *Member) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		from, err := c.Leader(ctx)
		if err != nil || from == to {
			return err
		}
		err = c.handOver(ctx, from, to)
		if late := pause(ctx, pollEvery); late != nil {
			return fmt.Errorf("hand the leadership to %s: %w: %w", to.Name, late, err)
		}
	}
}

// handOver asks once. Of etcd, only the v3 API has it.
func (c *Cluster) handOver(ctx context.Context, from, to *Member) error {
	id, err := c.id(ctx, to, from)
	if err != nil {
		return err
	}
	if c.config.Program.Name == "kvd" {
		return c.caller.JSON(ctx, "POST", from.ClientURL+"/v2/cluster/leader", map[string]string{"member": id}, nil)
	}
	cmd := exec.CommandContext(ctx, "etcdctl", "--endpoints", from.ClientURL, "--command-timeout", "3s", "move-leader", id)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	output, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("etcdctl move-leader %s: %w: %s", id, err, output)
	}
	return err
}

// Vacate is Replace without a process: what Launch starts then is the new member.
func (c *Cluster) Vacate(ctx context.Context, m *Member) error {
	m.Kill()
	if err := c.remove(ctx, m); err != nil {
		return err
	}
	if err := m.Wipe(); err != nil {
		return err
	}
	m.joining = true
	return c.add(ctx, m)
}

// listed is a member in the answer of /v2/members.
type listed struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
}

func (c *Cluster) list(ctx context.Context, from *Member) ([]listed, error) {
	var answer struct{ Members []listed }
	err := c.caller.JSON(ctx, "GET", from.ClientURL+"/v2/members", nil, &answer)
	return answer.Members, err
}

// id returns the id of the member that lives at m's place.
func (c *Cluster) id(ctx context.Context, m, from *Member) (string, error) {
	all, err := c.list(ctx, from)
	for _, one := range all {
		if len(one.PeerURLs) > 0 && one.PeerURLs[0] == m.PeerURL {
			return one.ID, nil
		}
	}
	return "", err
}

// remove takes m out of the list of members, whether it is in it or not.
func (c *Cluster) remove(ctx context.Context, m *Member) error {
	return c.change(ctx, "remove "+m.Name, c.Others(m), func(from *Member) error {
		id, err := c.id(ctx, m, from)
		if err != nil || id == "" {
			return err
		}
		return c.caller.JSON(ctx, "DELETE", from.ClientURL+"/v2/members/"+id, nil, nil)
	})
}

// add puts m into the list of members.
func (c *Cluster) add(ctx context.Context, m *Member) error {
	return c.change(ctx, "add "+m.Name, c.Others(m), func(from *Member) error {
		id, err := c.id(ctx, m, from)
		if err != nil || id != "" {
			return err
		}
		body := map[string]any{"peerURLs": []string{m.PeerURL}}
		return c.caller.JSON(ctx, "POST", from.ClientURL+"/v2/members", body, nil)
	})
}

// change asks one member after the other until one has done it.
func (c *Cluster) change(ctx context.Context, what string, members []*Member, do func(from *Member) error) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	var err error
	for i := 0; ; i++ {
		from := members[i%len(members)]
		if from.Running() {
			if err = do(from); err == nil {
				return nil
			}
		}
		if late := pause(ctx, 20*pollEvery); late != nil {
			return fmt.Errorf("%s: %w: %w", what, late, err)
		}
	}
}

// initial is the list of members that a process is started with.
func (c *Cluster) initial() string {
	var list []string
	for _, m := range c.members {
		list = append(list, m.Name+"="+m.PeerURL)
	}
	return strings.Join(list, ",")
}

// pause waits for d, or for the end of ctx, whose error it returns.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
