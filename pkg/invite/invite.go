// Package invite is the line that a new member is invited with: who to ask, the secret that it may be
// used with once, and whom to trust. It knows the text and nothing of what is done with it.
//
//	http://10.0.0.1:2380,http://10.0.0.2:2380,token=0f5c...,name=n4
package invite

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"strings"
)

const (
	// TokenBytes is the size of the secret.
	TokenBytes = 16
	caBytes    = 32
	peersMax   = 16
	lineMax    = 16 << 10
)

// Invitation is what the line says.
type Invitation struct {
	Peers []string // peer URLs of members, at least one, all http or all https
	Token string   // TokenBytes in hex
	CA    string   // SHA-256 of the certificate of the authority that signs for members, in hex; "" with http
	Name  string   // that the member is to have; "" leaves it to the member
}

// String returns the line. It needs no quotes in a shell unless the name does.
func (i Invitation) String() string {
	parts := append(append([]string{}, i.Peers...), "token="+i.Token)
	if i.CA != "" {
		parts = append(parts, "ca="+i.CA)
	}
	if i.Name != "" {
		parts = append(parts, "name="+i.Name)
	}
	return strings.Join(parts, ",")
}

// Parse reads a line. Errors say what is wrong with it, and never show the token.
func Parse(line string) (Invitation, error) {
	line = strings.TrimSpace(line)
	if len(line) > lineMax {
		return Invitation{}, fmt.Errorf("it has %d bytes, an invitation has at most %d", len(line), lineMax)
	}
	var i Invitation
	for n, part := range strings.Split(line, ",") {
		name, value, field := strings.Cut(part, "=")
		switch {
		case !field && strings.Contains(part, "://"):
			if err := checkPeer(part, i.Peers); err != nil {
				return Invitation{}, err
			}
			i.Peers = append(i.Peers, part)
		case field && name == "token" && i.Token == "" && isHex(value, TokenBytes):
			i.Token = value
		case field && name == "ca" && i.CA == "" && isHex(value, caBytes):
			i.CA = value
		case field && name == "name" && i.Name == "" && value != "":
			i.Name = value
		default:
			return Invitation{}, fmt.Errorf("its part %d is not one of an invitation: copy the whole line that kvctl member invite has printed", n+1)
		}
	}
	switch {
	case len(i.Peers) == 0:
		return Invitation{}, fmt.Errorf("it names no member to ask")
	case i.Token == "":
		return Invitation{}, fmt.Errorf("it has no token")
	case i.CA != "" && strings.HasPrefix(i.Peers[0], "http:"):
		return Invitation{}, fmt.Errorf("it names an authority, but members that speak plain http")
	}
	return i, nil
}

func checkPeer(text string, others []string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || text != u.String() {
		return fmt.Errorf("%q is no peer URL such as http://10.0.0.1:2380", text)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return fmt.Errorf("%q is no peer URL with a port, such as http://10.0.0.1:2380", text)
	}
	if len(others) >= peersMax {
		return fmt.Errorf("it names more than %d members", peersMax)
	}
	if len(others) > 0 && !strings.HasPrefix(others[0], u.Scheme+":") {
		return fmt.Errorf("it names members that speak http and members that speak https")
	}
	return nil
}

func isHex(text string, size int) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && len(decoded) == size
}
