package kvclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// RootUser is who may do everything, and the name of the role that allows it. Access control can be
// enabled once there is this user.
const RootUser = "root"

// User is one user of the store's access control.
type User struct {
	Name  string   `json:"user"`
	Roles []string `json:"roles"` // names
}

// Role is a set of rights. A pattern that ends in "*" is every key that begins with what is before
// it; any other pattern is one key.
type Role struct {
	Name        string      `json:"role"`
	Permissions Permissions `json:"permissions"`
}

// Permissions are patterns of keys.
type Permissions struct {
	KV struct {
		Read  []string `json:"read"`
		Write []string `json:"write"`
	} `json:"kv"`
}

// AuthEnabled reports whether access control is on. Everybody may ask.
func (c *Client) AuthEnabled(ctx context.Context) (bool, error) {
	var status struct{ Enabled bool }
	return status.Enabled, c.auth(ctx, "auth status", http.MethodGet, "enable", "", nil, &status)
}

// SetAuth turns access control on or off. Errors by Kind: those of all changes below; Invalid if it
// is so already, or if there is no root user yet.
func (c *Client) SetAuth(ctx context.Context, on bool) error {
	if on {
		return c.auth(ctx, "auth enable", http.MethodPut, "enable", "", nil, nil)
	}
	return c.auth(ctx, "auth disable", http.MethodDelete, "enable", "", nil, nil)
}

// userJSON is a user as it is read, with all that its roles are.
type userJSON struct {
	User  string
	Roles []Role
}

func (u userJSON) user() User {
	user := User{Name: u.User, Roles: []string{}}
	for _, role := range u.Roles {
		user.Roles = append(user.Roles, role.Name)
	}
	return user
}

// Users lists all users.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var list struct{ Users []userJSON }
	err := c.auth(ctx, "user list", http.MethodGet, "users", "", nil, &list)
	var users []User
	for _, u := range list.Users {
		users = append(users, u.user())
	}
	return users, err
}

// User returns one user. Errors by Kind: NotFound, also if one of its roles does not exist.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	var u userJSON
	err := c.authNamed(ctx, "user get", http.MethodGet, "users", name, nil, &u)
	return u.user(), err
}

// userChange is what is asked for of a user. Without grant and revoke the server creates a user, or
// changes the password of one that is there.
type userChange struct {
	User     string   `json:"user"`
	Password string   `json:"password,omitempty"`
	Grant    []string `json:"grant,omitempty"`
	Revoke   []string `json:"revoke,omitempty"`
}

// AddUser creates a user without roles. Errors by Kind: Exists, Invalid for an empty password. Two
// that add the same user at once both succeed, with the password of the later.
func (c *Client) AddUser(ctx context.Context, name, password string) error {
	switch _, err := c.User(ctx, name); {
	case err == nil:
		return &kv.Error{Op: "user add", Key: name, Kind: kv.Exists, Cause: "auth: User " + name + " already exists."}
	case !kv.Is(err, kv.NotFound):
		return err
	}
	return c.authNamed(ctx, "user add", http.MethodPut, "users", name, userChange{User: name, Password: password}, nil)
}

// SetPassword changes the password of a user. Errors by Kind: NotFound.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	if _, err := c.User(ctx, name); err != nil {
		return err
	}
	return c.authNamed(ctx, "user passwd", http.MethodPut, "users", name, userChange{User: name, Password: password}, nil)
}

// RemoveUser removes a user. Errors by Kind: NotFound; Invalid for root while access control is on.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.authNamed(ctx, "user remove", http.MethodDelete, "users", name, nil, nil)
}

// GrantRoles gives a user roles, which need not exist yet. Errors by Kind: NotFound, Invalid if it
// has one of them already.
func (c *Client) GrantRoles(ctx context.Context, name string, roles ...string) error {
	return c.authNamed(ctx, "user grant", http.MethodPut, "users", name, userChange{User: name, Grant: roles}, nil)
}

// RevokeRoles takes roles away from a user. Errors by Kind: NotFound, Invalid if it lacks one of them.
func (c *Client) RevokeRoles(ctx context.Context, name string, roles ...string) error {
	return c.authNamed(ctx, "user revoke", http.MethodPut, "users", name, userChange{User: name, Revoke: roles}, nil)
}

// Roles lists all roles, the role of root among them.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	var list struct{ Roles []Role }
	err := c.auth(ctx, "role list", http.MethodGet, "roles", "", nil, &list)
	return list.Roles, err
}

// Role returns one role. Errors by Kind: NotFound.
func (c *Client) Role(ctx context.Context, name string) (Role, error) {
	var role Role
	err := c.authNamed(ctx, "role get", http.MethodGet, "roles", name, nil, &role)
	return role, err
}

// roleChange is what is asked for of a role. Without grant and revoke the server creates it.
type roleChange struct {
	Role   string       `json:"role"`
	Grant  *Permissions `json:"grant,omitempty"`
	Revoke *Permissions `json:"revoke,omitempty"`
}

// AddRole creates a role without rights. Errors by Kind: Exists.
func (c *Client) AddRole(ctx context.Context, name string) error {
	err := c.authNamed(ctx, "role add", http.MethodPut, "roles", name, roleChange{Role: name}, nil)
	var e *kv.Error
	if errors.As(err, &e) && e.Kind == kv.Invalid {
		if _, there := c.Role(ctx, name); there == nil {
			e.Kind = kv.Exists
		}
	}
	return err
}

// RemoveRole removes a role. Errors by Kind: NotFound; Invalid for that of root.
func (c *Client) RemoveRole(ctx context.Context, name string) error {
	return c.authNamed(ctx, "role remove", http.MethodDelete, "roles", name, nil, nil)
}

// Grant gives a role rights. Errors by Kind: NotFound; Invalid if it has one of them already, or is
// that of root.
func (c *Client) Grant(ctx context.Context, role string, rights Permissions) error {
	return c.authNamed(ctx, "role grant", http.MethodPut, "roles", role, roleChange{Role: role, Grant: &rights}, nil)
}

// Revoke takes rights away from a role. Errors by Kind: NotFound; Invalid if it lacks one of them, or
// is that of root.
func (c *Client) Revoke(ctx context.Context, role string, rights Permissions) error {
	return c.authNamed(ctx, "role revoke", http.MethodPut, "roles", role, roleChange{Role: role, Revoke: &rights}, nil)
}

// authNamed is auth about one user or role, which has a name.
func (c *Client) authNamed(ctx context.Context, op, method, resource, name string, change, v any) error {
	if name == "" {
		return &kv.Error{Op: op, Kind: kv.Invalid, Cause: "a user or role has a name"}
	}
	return c.auth(ctx, op, method, resource, name, change, v)
}

// auth makes one call below /v2/auth, about name unless it is "", and decodes the answer into v
// unless v is nil. change is the body, nil for none.
func (c *Client) auth(ctx context.Context, op, method, resource, name string, change, v any) error {
	r := etcdv2.Request{Method: method, Path: "/v2/auth/" + resource}
	if name != "" {
		r.Path += "/" + url.PathEscape(name)
	}
	if change != nil {
		var err error
		if r.JSON, err = json.Marshal(change); err != nil {
			return &kv.Error{Op: op, Key: name, Kind: kv.Internal, Err: err}
		}
	}
	err := c.exchange(ctx, r, method == http.MethodGet, func(a *answer) error {
		if v == nil && (a.status == http.StatusOK || a.status == http.StatusCreated) {
			return nil
		}
		return a.decode(v)
	})
	if err != nil {
		return about(err, op, name)
	}
	return nil
}
