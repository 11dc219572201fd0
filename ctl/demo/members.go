package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

// memberStartMax is how long a member may take until it serves.
const memberStartMax = 10 * time.Second

// member is one kvd of the cluster, and its process of the moment.
type member struct {
	name    string
	url     string // where it serves clients
	argv    []string
	process *process
}

// planMembers describes the members of a cluster that begins with them. clients and peers are the
// ports of each.
func (s *stage) planMembers(clients, peers []int) {
	var cluster []string
	for i, port := range peers {
		cluster = append(cluster, fmt.Sprintf("kvd-%d=http://%s", i+1, loopback(port)))
	}
	for i, port := range clients {
		name, url, peer := fmt.Sprintf("kvd-%d", i+1), "http://"+loopback(port), "http://"+loopback(peers[i])
		s.members = append(s.members, &member{name: name, url: url, argv: []string{
			s.programs.kvd, "--name", name, "--data-dir", s.file(name),
			"--listen-client-urls", url, "--advertise-client-urls", url,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", s.service,
		}})
	}
}

// urls returns where members serve clients.
func urls(members []*member) []string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.url
	}
	return all
}

// endpoints are those of all members, as a flag takes them.
func (s *stage) endpoints() string { return strings.Join(urls(s.members), ",") }

// launch starts a member. From then on its death fails the demo.
func (s *stage) launch(m *member) error {
	p, err := start(s.folder, m.name, nil, m.argv...)
	if err != nil {
		return err // the process before, if there was one, stays what there is to stop
	}
	m.process = p
	s.crew.rely(p)
	return nil
}

func (m *member) healthy() bool { return healthy(m.url + "/health") }

func (s *stage) startMembers(ctx context.Context) error {
	return s.perform(ctx, step{
		name: "start three members of kvd", expected: "healthy", within: memberStartMax,
		act: func(context.Context) (time.Time, error) {
			for _, m := range s.members {
				if err := s.launch(m); err != nil {
					return time.Time{}, err
				}
				s.crew.later(func() error { return m.process.stop(stopGrace) })
			}
			return time.Time{}, nil
		},
		held: func() (time.Time, bool) {
			for _, m := range s.members {
				if !m.healthy() {
					return time.Time{}, false
				}
			}
			return time.Now(), true
		},
	})
}

// loseLeader kills the leader in the middle of writes through the others, and starts it again.
func (s *stage) loseLeader(ctx context.Context) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return m == leader })
	w, stop, err := s.startWriter(ctx, "/demo/leader-killed", others)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.killLeader(ctx, leader, w); err != nil {
		return err
	}
	return s.restartMember(ctx, leader, w, stop)
}

func (s *stage) killLeader(ctx context.Context, leader *member, w *writer) error {
	registered, err := s.registered(ctx)
	if err != nil {
		return err
	}
	var killed time.Time
	return s.perform(ctx, step{
		name: "kill -9 the leader, under writes", expected: "none lost, writes go on", within: 3 * time.Second,
		act: func(context.Context) (time.Time, error) {
			w.mark()
			s.crew.release(leader.process)
			leader.process.kill()
			killed = time.Now()
			return killed, nil
		},
		held: s.writesGoOn(w, &killed),
		check: func(ctx context.Context) error {
			if err := w.lost(ctx); err != nil {
				return err
			}
			now, err := s.registered(ctx)
			if err == nil && !slices.Equal(registered, now) {
				err = fmt.Errorf("%d services were registered, %d are", len(registered), len(now))
			}
			return err
		},
	})
}

// writesGoOn holds once a write that began after *since is acknowledged. What it took is the longest
// gap between two acknowledgements.
func (s *stage) writesGoOn(w *writer, since *time.Time) func() (time.Time, bool) {
	return func() (time.Time, bool) {
		gap, goesOn := w.gap(*since)
		return since.Add(gap), goesOn
	}
}

func (s *stage) restartMember(ctx context.Context, m *member, w *writer, stopWrites func()) error {
	return s.perform(ctx, step{
		name: "start it again", expected: "equal to the others", within: memberStartMax,
		act: func(ctx context.Context) (time.Time, error) {
			since := time.Now()
			if err := s.launch(m); err != nil {
				return since, err
			}
			err := s.crew.await(ctx, s.allowed(memberStartMax), m.healthy)
			stopWrites()
			return since, err
		},
		held:  func() (time.Time, bool) { return time.Now(), equal(urls(s.members)) },
		check: w.lost,
	})
}

// rollMembers stops and starts one member after the other, as for a new version, while a writer goes
// on through all of them.
func (s *stage) rollMembers(ctx context.Context) error {
	w, stop, err := s.startWriter(ctx, "/demo/rolled", s.members)
	if err != nil {
		return err
	}
	defer stop()
	var rolled time.Time
	return s.perform(ctx, step{
		name: "restart all three in turn", expected: "none lost, writes go on", within: time.Second,
		act: func(ctx context.Context) (time.Time, error) {
			w.mark()
			for _, m := range s.members {
				if err := s.restart(ctx, m); err != nil {
					return time.Time{}, err
				}
			}
			rolled = time.Now()
			return rolled, nil
		},
		held:  s.writesGoOn(w, &rolled),
		check: w.lost,
	})
}

// restart asks a member to stop, starts it again, and returns when it is healthy.
func (s *stage) restart(ctx context.Context, m *member) error {
	s.crew.release(m.process)
	if err := m.process.stop(s.allowed(stopGrace)); err != nil {
		return err
	}
	if err := s.launch(m); err != nil {
		return err
	}
	if err := s.crew.await(ctx, s.allowed(memberStartMax), m.healthy); err != nil {
		return fmt.Errorf("%s is not healthy again: %w", m.name, err)
	}
	return nil
}

// startWriter begins to write through members, and returns once a write is acknowledged. stop ends
// the writing; the end of the demo does so too.
func (s *stage) startWriter(ctx context.Context, prefix string, members []*member) (w *writer, stop func(), err error) {
	client, err := kvclient.New(kvclient.Config{Endpoints: urls(members)})
	if err != nil {
		return nil, nil, err
	}
	s.crew.later(client.Close)
	w = &writer{store: client, prefix: prefix}
	s.writers = append(s.writers, w)
	stop = s.background(ctx, w.run)
	err = s.crew.await(ctx, s.allowed(2*time.Second), func() bool { n, _, _ := w.counts(); return n > 0 })
	if err != nil {
		return nil, nil, fmt.Errorf("no write is acknowledged: %w", err)
	}
	return w, stop, nil
}

// leader returns the member that leads.
func (s *stage) leader(ctx context.Context) (*member, error) {
	client, err := kvclient.New(kvclient.Config{Endpoints: urls(s.members)})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	cluster, err := client.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, known := range cluster.Members {
		for _, m := range s.members {
			if known.ID == cluster.Leader && known.Name == m.name {
				return m, nil
			}
		}
	}
	return nil, errors.New("the cluster has no leader")
}

// registered returns the keys of all instances of the service, sorted.
func (s *stage) registered(ctx context.Context) ([]string, error) {
	client, err := kvclient.New(kvclient.Config{Endpoints: urls(s.members)})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	result, err := client.Read(ctx, kv.Read{Key: registry.DefaultPrefix + "/" + s.service, Sorted: true, Quorum: true})
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, node := range result.Node.Nodes {
		keys = append(keys, node.Key)
	}
	return keys, nil
}

// state is where a member stands: the last entry of the log that it has executed, and the sum over
// all that it holds.
type state struct {
	RaftIndex uint64 `json:"raftIndex"`
	Sum       string `json:"sum"`
}

// equal reports whether the members at urls have executed the same log and hold the same.
func equal(urls []string) bool {
	var first state
	for i, url := range urls {
		s, err := stateOf(url)
		if i == 0 {
			first = s
		}
		if err != nil || s.Sum == "" || s != first {
			return false
		}
	}
	return true
}

func stateOf(url string) (s state, err error) {
	err = ask(url+"/debug/state", func(body io.Reader) error { return json.NewDecoder(body).Decode(&s) })
	return s, err
}

// healthy reports whether a GET of url answers 200.
func healthy(url string) bool { return ask(url, func(io.Reader) error { return nil }) == nil }

// ask makes a GET of url and hands the start of the answer to read, if that is a success.
func ask(url string, read func(io.Reader) error) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return read(io.LimitReader(response.Body, 64<<10))
}
