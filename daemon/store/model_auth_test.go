package store

import (
	"maps"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// modelAuth is access control as etcd's v2 documentation tells it: patterns that are matched with
// keys as text, one after the other. It knows no ranges.
type modelAuth struct {
	enabled bool
	users   map[string]modelUser
	roles   map[string]modelRole
}

type modelUser struct {
	hash  command.Secret
	roles []string
}

// modelRole holds patterns.
type modelRole struct{ read, write []string }

// modelPatterns are all patterns that are drawn.
var modelPatterns = []string{"/*", "*", "/a", "/a/b", "/ab", "/a-b", "/d", "/a*", "/a/*", "/a/", "/a/b*", "/_h*", "/é*", "/a-b/*", "/a/b/c", "\xff*", "/"}

// spell returns the patterns that ranges were made of.
func spell(ranges []kv.KeyRange) []string {
	patterns := []string{}
	for _, r := range ranges {
		for _, pattern := range modelPatterns {
			if kv.PatternRange(pattern) == r {
				patterns = append(patterns, pattern)
				break
			}
		}
	}
	return patterns
}

// rolesOf returns the roles that count for a user; root has the role root always.
func (m *model) rolesOf(name string) []string {
	if name == "" {
		return []string{"guest"}
	}
	u, ok := m.auth.users[name]
	if !ok {
		return nil
	}
	if name == "root" && !slices.Contains(u.roles, "root") {
		return append(slices.Clone(u.roles), "root")
	}
	return u.roles
}

// mayWrite reports whether one of the patterns that a user may write matches key as it is spelled, or,
// with below, whether one ends in '*' and matches everything below it.
func (m *model) mayWrite(user, key string, below bool) bool {
	for _, name := range m.rolesOf(user) {
		for _, pattern := range m.auth.roles[name].write {
			prefix, open := strings.CutSuffix(pattern, "*")
			switch {
			case below && open && strings.HasPrefix(key+"/", prefix):
				return true
			case !below && (open && strings.HasPrefix(key, prefix) || !open && key == pattern):
				return true
			}
		}
	}
	return false
}

// writesAny reports whether there is anything that a user may write.
func (m *model) writesAny(user string) bool {
	return slices.ContainsFunc(m.rolesOf(user), func(name string) bool { return len(m.auth.roles[name].write) > 0 })
}

// mayEnd reports whether a user may write all that ends with a lease.
func (m *model) mayEnd(user string, id uint64) bool {
	for key, n := range m.nodes {
		if id != 0 && n.shared == id && (!m.mayWrite(user, key, false) || n.dir && !m.mayWrite(user, key, true)) {
			return false
		}
	}
	return true
}

// permits says whether a command may be executed where it stands.
func (m *model) permits(c command.Command) bool {
	if c.AuthRevision == 0 || !m.auth.enabled || c.User != "" && slices.Contains(m.rolesOf(c.User), "root") {
		return true
	}
	switch body := c.Body.(type) {
	case command.LeaseGrant:
		return m.writesAny(c.User)
	case command.LeaseRevoke:
		return m.writesAny(c.User) && m.mayEnd(c.User, body.ID)
	}
	w, ok := c.Body.(kv.Write)
	if !ok || w.Lease != 0 && !m.mayEnd(c.User, uint64(w.Lease)) {
		return false
	}
	there := m.nodes[w.Key]
	ends := w.TTL != 0 || w.Lease != 0 // and takes with it what is below, whoever put it there
	below := w.Op == kv.OpDelete && w.Recursive || w.Dir && ends || w.Op == kv.OpUpdate && ends && there != nil && there.dir
	if below && !m.mayWrite(c.User, w.Key, true) {
		return false
	}
	if w.Key != "" && m.mayWrite(c.User, w.Key, false) || w.Key == "" && m.mayWrite(c.User, "/", false) {
		return true
	}
	isAboutDir := w.Op == kv.OpCreateInOrder || w.Op == kv.OpDelete && (w.Dir || w.Recursive) || (w.Op == kv.OpSet || w.Op == kv.OpCreate) && w.Dir
	return c.AsDir && isAboutDir && (there == nil || there.dir) && m.mayWrite(c.User, w.Key+"/", false)
}

// changeAuth executes a command about access control and returns the kind of its failure, 0 for none.
func (m *model) changeAuth(body command.Body) kv.Kind {
	switch c := body.(type) {
	case command.AuthEnable:
		if _, ok := m.auth.users["root"]; c.Enabled == m.auth.enabled || c.Enabled && !ok {
			return kv.CompareFailed
		}
		if _, ok := m.auth.roles["guest"]; c.Enabled && !ok {
			m.auth.roles["guest"] = modelRole{[]string{"/*"}, []string{"/*"}}
		}
		m.auth.enabled = c.Enabled
	case command.AuthUser:
		return m.changeUser(c)
	case command.AuthRole:
		return m.changeRole(c)
	}
	return 0
}

func (m *model) changeUser(c command.AuthUser) kv.Kind {
	u, exists := m.auth.users[c.Name]
	creates := c.Op == command.AuthCreate || c.Op == command.AuthPut && !exists
	switch {
	case creates && c.Hash == "":
		return kv.Invalid
	case creates && exists:
		return kv.Exists
	case creates:
		u = modelUser{c.Hash, c.Roles}
		if c.Name == "root" && !slices.Contains(u.roles, "root") {
			u.roles = append(slices.Clone(u.roles), "root")
		}
		m.auth.users[c.Name] = u
		return 0
	case c.Op == command.AuthDelete && c.Name == "root" && m.auth.enabled:
		return kv.RootReadOnly
	case !exists:
		return kv.NotFound
	case c.Op == command.AuthDelete:
		delete(m.auth.users, c.Name)
		return 0
	}
	before := m.rolesOf(c.Name)
	roles, ok := withGranted(before, c.Grant)
	if !ok {
		return kv.Exists
	}
	for _, name := range c.Revoke {
		at := slices.Index(roles, name)
		if at < 0 {
			return kv.CompareFailed
		}
		roles = slices.Delete(roles, at, at+1)
	}
	slices.Sort(roles)
	next := modelUser{u.hash, roles}
	if c.Hash != "" {
		next.hash = c.Hash
	}
	if next.hash == u.hash && slices.Equal(roles, before) {
		return kv.Invalid
	}
	m.auth.users[c.Name] = next
	return 0
}

func (m *model) changeRole(c command.AuthRole) kv.Kind {
	role, exists := m.auth.roles[c.Name]
	switch {
	case c.Name == "root":
		return kv.RootReadOnly
	case c.Op == command.AuthCreate && exists:
		return kv.Exists
	case c.Op == command.AuthCreate:
		m.auth.roles[c.Name] = modelRole{spell(c.Rights.Read), spell(c.Rights.Write)}
		return 0
	case !exists:
		return kv.NotFound
	case c.Op == command.AuthDelete:
		delete(m.auth.roles, c.Name)
		return 0
	}
	read, ok := withGranted(role.read, spell(c.Grant.Read))
	write, ok2 := withGranted(role.write, spell(c.Grant.Write))
	if !ok || !ok2 {
		return kv.Exists
	}
	without := func(list, gone []string) []string {
		list = slices.DeleteFunc(list, func(p string) bool { return slices.Contains(gone, p) })
		slices.Sort(list)
		return list
	}
	next := modelRole{without(read, spell(c.Revoke.Read)), without(write, spell(c.Revoke.Write))}
	if slices.Equal(next.read, role.read) && slices.Equal(next.write, role.write) {
		return kv.Invalid
	}
	m.auth.roles[c.Name] = next
	return 0
}

// withGranted returns list, each item once, with those granted; false if one of them was there.
func withGranted(list, granted []string) ([]string, bool) {
	all := []string{}
	for _, item := range list {
		if !slices.Contains(all, item) {
			all = append(all, item)
		}
	}
	for _, item := range granted {
		if slices.Contains(all, item) {
			return nil, false
		}
		all = append(all, item)
	}
	return all, true
}

// show returns all users and roles as text, those of the store and of the model in the same form.
func (a modelAuth) show(rolesOf func(string) []string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(a.users)) {
		lines = append(lines, "user "+name+" "+string(a.users[name].hash)+" "+strings.Join(rolesOf(name), ","))
	}
	for _, name := range slices.Sorted(maps.Keys(a.roles)) {
		lines = append(lines, "role "+name+" "+strings.Join(a.roles[name].read, ",")+" "+strings.Join(a.roles[name].write, ","))
	}
	return lines
}

func showAuth(a *Auth) []string {
	var lines []string
	for _, u := range a.Users() {
		lines = append(lines, "user "+u.Name+" "+string(u.Hash)+" "+strings.Join(u.Roles, ","))
	}
	for _, r := range a.Roles() {
		if r.Name != "root" {
			lines = append(lines, "role "+r.Name+" "+strings.Join(spell(r.Read), ",")+" "+strings.Join(spell(r.Write), ","))
		}
	}
	return lines
}
