package service

import (
	"context"
	"strings"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// The words of access control for the APIs.
type (
	Auth       = store.Auth
	User       = store.User
	Role       = store.Role
	AuthOp     = command.AuthOp
	Rights     = command.Rights
	RoleChange = command.AuthRole
)

// What a change does.
const (
	Create = command.AuthCreate
	Update = command.AuthUpdate
	Put    = command.AuthPut // a user only: update, or create if there is none of that name
	Delete = command.AuthDelete
)

// UserChange creates, changes or deletes a user.
type UserChange struct {
	Op            AuthOp
	Name          string
	Password      Secret   // "" keeps that of a user who exists
	Roles         []string // for a new user; nil and empty are told apart
	Grant, Revoke []string // for one who exists
}

// AuthEnabled reports whether access control is on.
func (s *Service) AuthEnabled() bool { return s.state.machine.Auth().Enabled }

// OpenToAll reports whether whoever reaches this member may write every key without a name: because
// access control is off, or because the role guest permits it.
func (s *Service) OpenToAll() bool {
	guest := s.state.machine.Auth().Rights("")
	return guest.Decide(store.Need{Write: true, Below: true}) == store.Allowed
}

// Administrator reports whether the session may do everything.
func (c *Session) Administrator() bool { return c.auth().Rights(c.user).Root() }

// Refuse notes that an operation was not permitted, as one that needs root, and returns the error.
func (c *Session) Refuse(operation string) error { return c.deny(operation, "") }

// Auth returns the access control data. Errors by Kind: Denied to all but root.
func (c *Session) Auth() (*Auth, error) {
	if auth := c.auth(); auth.Rights(c.user).Root() {
		return auth, nil
	}
	return nil, c.deny("read users and roles", "")
}

// EnableAuth turns access control on or off. Errors by Kind: Denied, CompareFailed, and those of
// writing.
func (c *Session) EnableAuth(ctx context.Context, on bool) error {
	what := "disable"
	if on {
		what = "enable"
	}
	_, err := c.change(ctx, command.AuthEnable{Enabled: on}, what)
	return err
}

// ChangeUser returns the user as it is after the change, and whether it was made by it. Errors by Kind: Denied, Invalid, Exists,
// NotFound, CompareFailed, RootReadOnly, and those of writing.
func (c *Session) ChangeUser(ctx context.Context, change UserChange) (user User, created bool, err error) {
	body := command.AuthUser{Op: change.Op, Name: change.Name, Roles: change.Roles, Grant: change.Grant, Revoke: change.Revoke}
	what := words[change.Op] + " user"
	if !c.Administrator() { // before bcrypt
		return User{}, false, c.deny(what, "")
	}
	if change.Password != "" {
		ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
		defer cancel()
		if body.Hash, err = c.service.logins.hash(ctx, change.Password); err != nil {
			return User{}, false, err
		}
	}
	result, err := c.change(ctx, body, what, "name", change.Name, "roles", change.Roles, "grant", change.Grant, "revoke", change.Revoke,
		"password", change.Password != "")
	user, _ = result.Changed.(User)
	return user, result.Created, err
}

// ChangeRole returns the role as it is after the change. Errors are those of ChangeUser.
func (c *Session) ChangeRole(ctx context.Context, change RoleChange) (Role, error) {
	result, err := c.change(ctx, change, words[change.Op]+" role", "name", change.Name, "rights", patterns(change.Rights),
		"grant", patterns(change.Grant), "revoke", patterns(change.Revoke))
	role, _ := result.Changed.(Role)
	return role, err
}

var words = map[AuthOp]string{Create: "create", Update: "update", Put: "put", Delete: "delete"}

// patterns returns rights for a log line.
func patterns(rights Rights) string {
	var b strings.Builder
	for _, list := range [...]struct {
		word   string
		ranges []kv.KeyRange
	}{{"read", rights.Read}, {"write", rights.Write}} {
		for _, r := range list.ranges {
			pattern, ok := r.Pattern()
			if !ok {
				pattern = r.From + " to " + r.To
			}
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			b.WriteString(list.word + " " + pattern)
		}
	}
	return b.String()
}

// change proposes a change of access control and tells of it.
func (c *Session) change(ctx context.Context, body command.Body, what string, details ...any) (command.Result, error) {
	auth := c.auth()
	if !auth.Rights(c.user).Root() {
		return command.Result{}, c.deny(what, "")
	}
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	result, err := c.service.changeAuth(ctx, auth, command.Command{User: c.user, AuthRevision: auth.Revision, Body: body})
	if kv.Is(err, kv.Denied) {
		return command.Result{}, c.deny(what, "")
	}
	c.service.audit.changed(what, c.user, c.source, err, details...)
	return result, err
}

// changeAuth proposes a change of access control as it is in auth.
func (s *Service) changeAuth(ctx context.Context, auth *Auth, c command.Command) (command.Result, error) {
	growth := auth.Growth(c.Body)
	if err := s.quota.reserve(growth); err != nil {
		return command.Result{}, err
	}
	defer s.quota.release(growth)
	result, err := s.log.Propose(ctx, c)
	if err == nil {
		err = result.Err
	}
	return result, err
}
