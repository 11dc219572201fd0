package httpv2

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Gate lets in who sends requests. Errors by Kind: Denied, Unavailable, Timeout.
type Gate interface {
	// Open returns the store as the sender of a request about keys may use it.
	Open(ctx context.Context, c service.Credentials) (kv.Store, error)
	// Authenticate returns the session of the sender of any other request.
	Authenticate(ctx context.Context, c service.Credentials) (Session, error)
	AuthEnabled() bool
}

// Session is what one principal may do beside reading, writing and watching keys; *service.Session is one, and
// documents the methods.
type Session interface {
	kv.Leaser
	Administrator() bool
	Refuse(operation string) error
	Auth() (*service.Auth, error)
	EnableAuth(ctx context.Context, on bool) error
	ChangeUser(ctx context.Context, change service.UserChange) (user service.User, created bool, err error)
	ChangeRole(ctx context.Context, change service.RoleChange) (service.Role, error)
	AddMember(ctx context.Context, m service.NewMember) (service.MemberView, error)
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) error
	RemoveMember(ctx context.Context, id uint64, acceptRisk bool) error
	PromoteMember(ctx context.Context, id uint64) error
	DemoteMember(ctx context.Context, id uint64, acceptRisk bool) error
	Invite(ctx context.Context, ttl time.Duration) (token string, peers []string, err error)
	TransferLeadership(ctx context.Context, to uint64) error
}

// credentials returns what r shows of who sends it.
func credentials(r *http.Request) service.Credentials {
	c := service.Credentials{Source: r.RemoteAddr}
	if r.Header.Get("Authorization") != "" {
		user, password, _ := r.BasicAuth() // what cannot be read is nobody's name
		c.Given, c.User, c.Password = true, user, service.Secret(password)
	}
	if r.TLS != nil {
		c.CertifiedAs = certifiedAs(r)
	}
	return c
}

// certifiedAs returns the common name of the certificate that the sender of r has shown, if it is
// one for clients. What came through a proxy is not the proxy's own request, so that its certificate
// says nothing about who sends it.
func certifiedAs(r *http.Request) string {
	if len(r.TLS.VerifiedChains) == 0 || r.Header.Get("Forwarded") != "" || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Via") != "" {
		return ""
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return ""
	}
	return leaf.Subject.CommonName
}

type sessionKey struct{}

// OnlyRoot returns what passes on to next the requests of root, or of anybody while access control is
// off, and refuses the others as etcd does.
func OnlyRoot(gate Gate) func(next http.HandlerFunc) http.HandlerFunc {
	return func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			session, err := gate.Authenticate(r.Context(), credentials(r))
			if err == nil && !session.Administrator() {
				err = session.Refuse(r.Method + " " + r.URL.Path)
			}
			if err != nil {
				replyAuthError(w, err)
				return
			}
			next(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, session)))
		}
	}
}

// session returns the session that OnlyRoot has let pass.
func session(r *http.Request) Session {
	s, _ := r.Context().Value(sessionKey{}).(Session) // there, because the route needs root
	return s
}

const (
	authPath   = "/v2/auth"
	enablePath = authPath + "/enable"
	usersPath  = authPath + "/users"
	rolesPath  = authPath + "/roles"
)

// userJSON is a user with the names of its roles.
type userJSON struct {
	User  string   `json:"user"`
	Roles []string `json:"roles"`
}

// userChangeJSON is what a request says of a user.
type userChangeJSON struct {
	userJSON
	Password      service.Secret `json:"password"`
	Grant, Revoke []string
}

// userWithRolesJSON is a user with all that its roles are.
type userWithRolesJSON struct {
	User  string     `json:"user"`
	Roles []roleJSON `json:"roles,omitempty"`
}

type roleJSON struct {
	Role        string          `json:"role"`
	Permissions permissionsJSON `json:"permissions"`
}

type permissionsJSON struct {
	KV patternsJSON `json:"kv"`
}

type patternsJSON struct {
	Read  []string `json:"read"`
	Write []string `json:"write"`
}

// roleChangeJSON is what a request says of a role.
type roleChangeJSON struct {
	roleJSON
	Grant, Revoke permissionsJSON
}

func (p permissionsJSON) empty() bool { return len(p.KV.Read)+len(p.KV.Write) == 0 }

// rights keeps apart a list that is empty and one that is absent.
func (p permissionsJSON) rights() service.Rights {
	ranges := func(patterns []string) []kv.KeyRange {
		if patterns == nil {
			return nil
		}
		list := make([]kv.KeyRange, len(patterns))
		for i, p := range patterns {
			list[i] = kv.PatternRange(p)
		}
		return list
	}
	return service.Rights{Read: ranges(p.KV.Read), Write: ranges(p.KV.Write)}
}

func encodeRole(role service.Role) roleJSON {
	patterns := func(ranges []kv.KeyRange) []string {
		if ranges == nil {
			return nil
		}
		list := make([]string, 0, len(ranges))
		for _, r := range ranges {
			if p, ok := r.Pattern(); ok {
				list = append(list, p)
			}
		}
		return list
	}
	return roleJSON{Role: role.Name, Permissions: permissionsJSON{patternsJSON{patterns(role.Read), patterns(role.Write)}}}
}

func (h *handler) serveEnable(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		h.setClusterID(w)
		h.replyJSON(w, http.StatusOK, struct {
			Enabled bool `json:"enabled"`
		}{h.Gate.AuthEnabled()}, "\n")
		return
	}
	h.setClusterID(w)
	h.done(w, session(r).EnableAuth(r.Context(), r.Method == http.MethodPut))
}

func (h *handler) serveUsers(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	auth, err := session(r).Auth()
	if err != nil {
		replyAuthError(w, err)
		return
	}
	var list struct {
		Users []userWithRolesJSON `json:"users"`
	}
	for _, u := range auth.Users() {
		user := userWithRolesJSON{User: u.Name}
		for _, name := range u.Roles {
			if role, ok := auth.Role(name); ok {
				user.Roles = append(user.Roles, encodeRole(role))
			}
		}
		list.Users = append(list.Users, user)
	}
	h.replyJSON(w, http.StatusOK, list, "\n")
}

func (h *handler) serveUser(w http.ResponseWriter, r *http.Request) {
	name, ok := h.nameOf(w, r, usersPath)
	if !ok {
		return
	}
	h.setClusterID(w)
	switch r.Method {
	case http.MethodGet:
		h.readUser(w, r, name)
	case http.MethodPut:
		h.writeUser(w, r, name)
	case http.MethodDelete:
		_, _, err := session(r).ChangeUser(r.Context(), service.UserChange{Op: service.Delete, Name: name})
		h.done(w, err)
	}
}

func (h *handler) readUser(w http.ResponseWriter, r *http.Request, name string) {
	auth, err := session(r).Auth()
	if err != nil {
		replyAuthError(w, err)
		return
	}
	u, ok := auth.User(name)
	if !ok {
		h.replyMessage(w, http.StatusNotFound, "auth: User "+name+" does not exist.")
		return
	}
	user := userWithRolesJSON{User: u.Name}
	for _, name := range u.Roles {
		role, ok := auth.Role(name)
		if !ok {
			h.replyMessage(w, http.StatusNotFound, "auth: Role "+name+" does not exist.")
			return
		}
		user.Roles = append(user.Roles, encodeRole(role))
	}
	h.replyJSON(w, http.StatusOK, user, "\n")
}

// writeUser creates a user, gives one a new password, or grants and revokes roles: what of them
// follows from which fields are there.
func (h *handler) writeUser(w http.ResponseWriter, r *http.Request, name string) {
	var in userChangeJSON
	if !h.readJSON(w, r, &in) {
		return
	}
	if in.User != name {
		h.replyMessage(w, http.StatusBadRequest, "User JSON name does not match the name in the URL")
		return
	}
	change := service.UserChange{Op: service.Put, Name: name, Password: in.Password, Roles: in.Roles, Grant: in.Grant, Revoke: in.Revoke}
	updates := len(in.Grant)+len(in.Revoke) > 0
	switch {
	case updates && len(in.Roles) > 0:
		h.replyMessage(w, http.StatusBadRequest, "User JSON contains both roles and grant/revoke")
		return
	case updates:
		change.Op = service.Update
	case len(in.Roles) > 0:
		change.Op = service.Create
	}
	user, created, err := session(r).ChangeUser(r.Context(), change)
	if err != nil {
		replyAuthError(w, err)
		return
	}
	status := http.StatusOK
	if created && change.Op == service.Put {
		status = http.StatusCreated
	}
	h.replyJSON(w, status, userJSON{user.Name, user.Roles}, "\n")
}

func (h *handler) serveRoles(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	auth, err := session(r).Auth()
	if err != nil {
		replyAuthError(w, err)
		return
	}
	var list struct {
		Roles []roleJSON `json:"roles"`
	}
	for _, role := range auth.Roles() {
		list.Roles = append(list.Roles, encodeRole(role))
	}
	h.replyJSON(w, http.StatusOK, list, "\n")
}

func (h *handler) serveRole(w http.ResponseWriter, r *http.Request) {
	name, ok := h.nameOf(w, r, rolesPath)
	if !ok {
		return
	}
	h.setClusterID(w)
	switch r.Method {
	case http.MethodGet:
		auth, err := session(r).Auth()
		if err != nil {
			replyAuthError(w, err)
			return
		}
		role, ok := auth.Role(name)
		if !ok {
			h.replyMessage(w, http.StatusNotFound, "auth: Role "+name+" does not exist.")
			return
		}
		h.replyJSON(w, http.StatusOK, encodeRole(role), "\n")
	case http.MethodPut:
		h.writeRole(w, r, name)
	case http.MethodDelete:
		_, err := session(r).ChangeRole(r.Context(), service.RoleChange{Op: service.Delete, Name: name})
		h.done(w, err)
	}
}

func (h *handler) writeRole(w http.ResponseWriter, r *http.Request, name string) {
	var in roleChangeJSON
	if !h.readJSON(w, r, &in) {
		return
	}
	if in.Role != name {
		h.replyMessage(w, http.StatusBadRequest, "Role JSON name does not match the name in the URL")
		return
	}
	change := service.RoleChange{Op: service.Create, Name: name, Rights: in.Permissions.rights()}
	status := http.StatusCreated
	if !in.Grant.empty() || !in.Revoke.empty() {
		if !in.Permissions.empty() {
			h.replyMessage(w, http.StatusBadRequest, "Role JSON contains both permissions and grant/revoke")
			return
		}
		change = service.RoleChange{Op: service.Update, Name: name, Grant: in.Grant.rights(), Revoke: in.Revoke.rights()}
		status = http.StatusOK
	}
	role, err := session(r).ChangeRole(r.Context(), change)
	if err != nil {
		replyAuthError(w, err)
		return
	}
	h.replyJSON(w, status, encodeRole(role), "\n")
}

// nameOf returns the one name that follows root in the path, or answers that there is none.
func (h *handler) nameOf(w http.ResponseWriter, r *http.Request, root string) (string, bool) {
	name := strings.TrimPrefix(kv.Clean(r.URL.Path[len(root):]), "/")
	if name == "" || strings.Contains(name, "/") {
		h.replyMessage(w, http.StatusBadRequest, "Invalid path")
		return "", false
	}
	return name, true
}

// readJSON reads the body, whatever its type is said to be, or answers what is wrong with it.
func (h *handler) readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, h.MaxRequestBytes)).Decode(into)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return true
	case errors.As(err, &tooLarge):
		h.replyMessage(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is longer than %d bytes.", tooLarge.Limit))
	default:
		h.replyMessage(w, http.StatusBadRequest, "Invalid JSON in request body.")
	}
	return false
}

// done answers a change that has nothing to show.
func (h *handler) done(w http.ResponseWriter, err error) {
	if err != nil {
		replyAuthError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
}

// authStatus holds the status for each kind of error of access control.
var authStatus = map[kv.Kind]int{
	kv.Invalid: http.StatusBadRequest, kv.NotFound: http.StatusNotFound, kv.Exists: http.StatusConflict,
	kv.CompareFailed: http.StatusConflict, kv.RootReadOnly: http.StatusForbidden,
	kv.NoSpace: http.StatusForbidden, // as for keys
}

func replyAuthError(w http.ResponseWriter, err error) {
	status, message := http.StatusInternalServerError, "Internal Server Error" // clients try another member
	var e *kv.Error
	if errors.As(err, &e) {
		if known, ok := authStatus[e.Kind]; ok {
			status, message = known, "auth: "+e.Cause
		} else if e.Kind == kv.Denied {
			status, message = http.StatusUnauthorized, e.Cause
		}
	}
	body, _ := json.Marshal(messageJSON{Message: message}) // a string always encodes
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
