package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/invite"
	"github.com/kvd-io/kvd/pkg/kv"
)

// joinPath is where the peer port takes invitations.
const joinPath = "/kvd/join"

const (
	joinTimeout  = 10 * time.Second       // for one member to answer
	joinPause    = 500 * time.Millisecond // between two attempts
	joinPatience = time.Minute            // while no member answers, or can decide
)

// joinRequest is what a new member sends with its invitation.
type joinRequest struct {
	Token    string   `json:"token"`
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
}

// joinAnswer is what it has to know to join.
type joinAnswer struct {
	Member  string       `json:"member"` // its id
	Token   string       `json:"token"`  // of the cluster
	Members []joinMember `json:"members"`
}

type joinMember struct {
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
}

// serveJoin adds the member that comes with an invitation.
func (d *Daemon) serveJoin(w http.ResponseWriter, r *http.Request) {
	var in joinRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil { // the port bounds the body
		http.Error(w, "the body is not what a new member sends: "+err.Error(), http.StatusBadRequest)
		return
	}
	id, err := d.service.Redeem(r.Context(), in.Token, service.NewMember{Name: in.Name, PeerURLs: in.PeerURLs}, r.RemoteAddr)
	if err != nil {
		status, text := joinStatus(err)
		http.Error(w, text, status)
		return
	}
	answer := joinAnswer{Member: raftnode.ID(id).String(), Token: d.node.Status().ClusterToken}
	for _, m := range d.service.Members() {
		if m.Name != "" {
			answer.Members = append(answer.Members, joinMember{m.Name, m.PeerURLs})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

// joinStatus returns how a refusal is told. 503 is worth another attempt.
func joinStatus(err error) (status int, text string) {
	var e *kv.Error
	if !errors.As(err, &e) {
		return http.StatusServiceUnavailable, err.Error()
	}
	switch e.Kind {
	case kv.Denied:
		return http.StatusForbidden, e.Cause
	case kv.Exists:
		return http.StatusConflict, "another member has one of these peer URLs already"
	case kv.Invalid:
		return http.StatusBadRequest, e.Cause
	}
	return http.StatusServiceUnavailable, e.Error()
}

// accept makes cfg that of a member which joins by its invitation, if it has one and has not started
// before. Errors that another attempt cannot change are *ConfigError.
func (c *Config) accept(ctx context.Context, peerURLs []string, secure *peer.TLS, log *slog.Logger) error {
	if c.Join == "" {
		return nil
	}
	i, err := invite.Parse(c.Join)
	if err != nil { // Validate has looked
		return configErrorf("join", "%v", err)
	}
	switch {
	case i.Name == "" || i.Name == c.Name:
	case c.Name == DefaultConfig().Name:
		c.Name = i.Name
	default:
		return configErrorf("join", "the invitation is for a member that is called %s, and this one is %s: leave out --name", i.Name, c.Name)
	}
	if self, started := raftnode.Started(c.dataDir()); started {
		log.Info("the invitation is left out of account: this member has joined before", "member", self.MemberID)
		c.InitialClusterToken = self.ClusterToken
		return nil
	}
	if i.CA != "" {
		if secure == nil {
			return configErrorf("join", "the cluster's members speak https: give this one an https url in --listen-peer-urls, --peer-cert-file, --peer-key-file and --peer-trusted-ca-file")
		}
		if secure, err = pinned(secure, c.PeerTLS.CA, i.CA); err != nil {
			return err
		}
	}
	request, err := json.Marshal(joinRequest{Token: i.Token, Name: c.Name, PeerURLs: peerURLs})
	if err != nil {
		return err
	}
	answer, err := knock(ctx, i.Peers, request, secure, log)
	if err != nil {
		return err
	}
	list := []string{}
	for _, m := range append(answer.Members, joinMember{c.Name, peerURLs}) {
		for _, url := range m.PeerURLs {
			if part := m.Name + "=" + url; !slices.Contains(list, part) {
				list = append(list, part)
			}
		}
	}
	c.InitialCluster, c.InitialClusterState, c.InitialClusterToken = strings.Join(list, ","), stateExisting, answer.Token
	log.Info("joining", "member", answer.Member, "cluster", c.InitialCluster)
	return nil
}

// knock shows an invitation to the members until one lets in or refuses for good.
func knock(ctx context.Context, members []string, request []byte, secure *peer.TLS, log *slog.Logger) (joinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	for {
		var problems []error
		for _, url := range members {
			attempt, cancel := context.WithTimeout(ctx, joinTimeout)
			text, err := peer.Post(attempt, url+joinPath, request, secure)
			cancel()
			var answer joinAnswer
			if err == nil {
				err = json.Unmarshal(text, &answer)
			}
			if err == nil {
				return answer, nil
			}
			var refusal *peer.Refusal
			if errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable {
				return joinAnswer{}, configErrorf("join", "%s has not let this member in: %s%s", url, refusal.Text, joinRemedy(refusal.Status))
			}
			problems = append(problems, err)
		}
		log.Warn("no member of the cluster has let this one in yet", "err", errors.Join(problems...))
		select {
		case <-time.After(joinPause):
		case <-ctx.Done():
			return joinAnswer{}, fmt.Errorf("join: no member of the cluster has let this one in: %w", errors.Join(problems...))
		}
	}
}

func joinRemedy(status int) string {
	switch status {
	case http.StatusForbidden:
		return "; make a new invitation with kvctl member invite"
	case http.StatusConflict:
		return "; remove that member with kvctl member remove if this one takes its place, or give this one other --initial-advertise-peer-urls"
	case http.StatusNotFound:
		return "; it runs a version of kvd that takes no invitations"
	}
	return ""
}

// pinned returns secure for the members whose certificates the authority with a fingerprint has signed.
func pinned(secure *peer.TLS, file, fingerprint string) (*peer.TLS, error) {
	if file == "" {
		return nil, configErrorf("join", "the invitation names the authority of the cluster, %s: give this member its certificate with --peer-trusted-ca-file", fingerprint)
	}
	authorities, err := readAuthorities(file)
	if err != nil {
		return nil, configErrorf("peer-trusted-ca-file", "%v", err)
	}
	at := slices.IndexFunc(authorities, func(c *x509.Certificate) bool { return fingerprintOf(c) == fingerprint })
	if at < 0 {
		var found []string
		for _, c := range authorities {
			found = append(found, fingerprintOf(c))
		}
		return nil, configErrorf("join", "the authority of the cluster has the fingerprint %s, but %s holds %s: it is not the authority of this cluster, or not its invitation",
			fingerprint, file, strings.Join(found, ", "))
	}
	narrow := *secure
	verify := secure.VerifyPeer
	narrow.VerifyPeer = func(state tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
		options.Roots.AddCert(authorities[at])
		if len(state.PeerCertificates) == 0 {
			return errors.New("it has shown no certificate")
		}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		if _, err := state.PeerCertificates[0].Verify(options); err != nil {
			return fmt.Errorf("its certificate is not signed by the authority that the invitation names: %w", err)
		}
		if verify != nil {
			return verify(state)
		}
		return nil
	}
	return &narrow, nil
}

// authority returns the fingerprint of the first authority in the file for peers, "" without one.
func (c *Config) authority() string {
	if c.PeerTLS.CA == "" || !slices.ContainsFunc(c.ListenPeerURLs, isHTTPS) {
		return ""
	}
	authorities, err := readAuthorities(c.PeerTLS.CA)
	if err != nil || len(authorities) == 0 {
		return ""
	}
	return fingerprintOf(authorities[0])
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func readAuthorities(file string) (list []*x509.Certificate, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(bytes.TrimSpace(data)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, c)
	}
	return list, nil
}
