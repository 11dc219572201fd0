package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commandMax bounds a call of ip, iptables or nsenter.
const commandMax = 20 * time.Second

// Clients is the place from which the caller and its load reach the members.
const Clients = "clients"

// Link is one direction between two places: names of members, or Clients.
type Link struct{ From, To string }

// namespace is a network of its own. It lasts as long as the process that holds it, and that process
// no longer than this one.
type namespace struct {
	holder *exec.Cmd
}

func newNamespace() (*namespace, error) {
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w; it takes the rights of root", err)
	}
	return &namespace{holder}, nil
}

func (n *namespace) pid() string { return strconv.Itoa(n.holder.Process.Pid) }

// enter returns the words that, before a command line, have it run in n, as the same process.
func (n *namespace) enter() []string {
	return []string{"nsenter", "--net=/proc/" + n.pid() + "/ns/net", "--"}
}

// run gives a program lines to read, in the namespace, or in the caller's for a nil one.
func (n *namespace) run(input []string, args ...string) error {
	if n != nil {
		args = append(n.enter(), args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdin = strings.NewReader(strings.Join(input, "\n") + "\n")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

func (n *namespace) ip(lines ...string) error { return n.run(lines, "ip", "-batch", "-") }

func (n *namespace) close() {
	if n != nil {
		n.holder.Process.Kill()
		n.holder.Wait()
	}
}

// Naming returns the words that, before a command line, have it see the resolv.conf of a Config.Domain. It
// takes the rights of root.
func (c *Cluster) Naming() []string {
	return []string{"unshare", "--mount", "--", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, c.resolv}
}

// network is a switch and the places that are connected to it. Its methods are for one goroutine.
type network struct {
	hub    *namespace
	subnet string // "198.18.7."
	places map[string]*place
	cuts   map[Link]bool
}

// place is where a member lives.
type place struct {
	address string
	space   *namespace
}

// newNetwork makes a switch that only the caller is connected to.
func newNetwork() (*network, error) {
	hub, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &network{hub: hub, places: map[string]*place{}, cuts: map[Link]bool{}}
	if err := n.claim(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// claim finds a subnet that nobody uses and connects the caller to it.
func (n *network) claim() error {
	const subnets = 512 // of 256 addresses, in 198.18.0.0/15
	const attempts = 50
	var err error
	for range attempts {
		subnet := rand.IntN(subnets)
		wire := fmt.Sprintf("kvdtest%d", subnet)
		if err = (*namespace)(nil).ip(fmt.Sprintf("link add %s type veth peer name caller netns %s", wire, n.hub.pid())); err != nil {
			continue // most likely somebody has it
		}
		n.subnet = fmt.Sprintf("198.%d.%d.", 18+subnet/256, subnet%256)
		return errors.Join(
			(*namespace)(nil).ip("addr add "+n.callerAddress()+"/24 dev "+wire, "link set "+wire+" up"),
			n.hub.ip("link add switch type bridge", "link set switch up", "link set caller master switch", "link set caller up"),
		)
	}
	return fmt.Errorf("no subnet could be claimed in %d attempts: %w", attempts, err)
}

func (n *network) callerAddress() string { return n.subnet + "1" }

// connect adds a place.
func (n *network) connect(name string) (*place, error) {
	space, err := newNamespace()
	if err != nil {
		return nil, err
	}
	number := len(n.places)
	p := &place{address: n.subnet + strconv.Itoa(10+number), space: space}
	n.places[name] = p
	port := fmt.Sprintf("port%d", number)
	return p, errors.Join(
		n.hub.ip("link add "+port+" type veth peer name eth0 netns "+space.pid(), "link set "+port+" master switch", "link set "+port+" up"),
		space.ip("link set lo up", "addr add "+p.address+"/24 dev eth0", "link set eth0 up"),
	)
}

// cut drops all packets of links from now on; heal lets those of all links pass again.
func (n *network) cut(links []Link) error {
	for _, link := range links {
		n.cuts[link] = true
	}
	return n.apply(links)
}

func (n *network) heal() error {
	links := slices.Collect(maps.Keys(n.cuts))
	clear(n.cuts)
	return n.apply(links)
}

// apply writes the rules of the places that links end at. A packet is dropped where it arrives; what
// goes to the caller, where it leaves.
func (n *network) apply(links []Link) error {
	touched := map[string]bool{}
	for _, link := range links {
		where := link.To
		if where == Clients {
			where = link.From
		}
		if n.places[where] == nil {
			return fmt.Errorf("there is no link from %q to %q", link.From, link.To)
		}
		touched[where] = true
	}
	var errs []error
	for name := range touched {
		rules := []string{"*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]"}
		for link := range n.cuts {
			switch {
			case link.To == name:
				rules = append(rules, "-A INPUT -s "+n.addressOf(link.From)+" -j DROP")
			case link.From == name && link.To == Clients:
				rules = append(rules, "-A OUTPUT -d "+n.callerAddress()+" -j DROP")
			}
		}
		errs = append(errs, n.places[name].space.run(append(rules, "COMMIT"), "iptables-restore", "-w"))
	}
	return errors.Join(errs...)
}

func (n *network) addressOf(name string) string {
	if name == Clients {
		return n.callerAddress()
	}
	return n.places[name].address
}

// close removes everything: an interface lasts no longer than the namespace of its other end.
func (n *network) close() {
	if n == nil {
		return
	}
	for _, p := range n.places {
		p.space.close()
	}
	n.hub.close()
}

// loopback returns the addresses of members that share the caller's network. They are chosen so that
// runs side by side do not meet.
func loopback(members int) ([]string, error) {
	const attempts = 50
	for range attempts {
		subnet := fmt.Sprintf("127.%d.%d.", 64+rand.IntN(128), rand.IntN(256))
		addresses := make([]string, members)
		var err error
		for i := range addresses {
			addresses[i] = subnet + strconv.Itoa(10+i)
			for _, port := range []string{clientPort, peerPort} {
				var l net.Listener
				if l, err = net.Listen("tcp", net.JoinHostPort(addresses[i], port)); err != nil {
					break
				}
				l.Close()
			}
		}
		if err == nil {
			return addresses, nil
		}
	}
	return nil, fmt.Errorf("no free addresses on loopback in %d attempts", attempts)
}
