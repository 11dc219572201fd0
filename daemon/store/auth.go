package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// The names that mean something by themselves.
const (
	rootName  = "root"  // the user who always has the role root; the role that may do everything
	guestName = "guest" // the role of those who give no name
)

// firstAuthRevision is that of a fresh store: 0 is for what members do on their own account.
const firstAuthRevision = 1

// What one user or role may hold. Without bounds a few requests could make a role that every request
// of its users has to go through, on every member, or one that no snapshot can hold.
const (
	nameBytesMax    = 256
	patternBytesMax = 8 << 10
	patternsMax     = 1024 // of one kind, in a role
	rolesMax        = 256  // of a user
)

// User may do what its roles may.
type User struct {
	Name  string
	Hash  command.Secret // bcrypt
	Roles []string       // as an API gave them: nil and empty differ
}

// Role is a set of rights under a name.
type Role struct {
	Name string
	command.Rights
}

// Auth is the access control data as of one revision. It never changes and is safe for concurrent
// use; the lists in what its methods return are shared.
//
// The revision is raised by each change. It is a count of its own: changing a password is no event
// that a watcher could see, and takes no index.
type Auth struct {
	Revision uint64
	Enabled  bool

	users  map[string]User
	roles  map[string]Role
	rights sync.Map // string to *Rights of users, derived
}

// User returns the user of that name. The user root has the role root whatever is stored.
func (a *Auth) User(name string) (User, bool) {
	u, ok := a.users[name]
	if ok && name == rootName && !slices.Contains(u.Roles, rootName) {
		u.Roles = append(slices.Clip(u.Roles), rootName)
	}
	return u, ok
}

// Users returns all users by name.
func (a *Auth) Users() []User {
	users := make([]User, 0, len(a.users))
	for _, name := range slices.Sorted(maps.Keys(a.users)) {
		u, _ := a.User(name)
		users = append(users, u)
	}
	return users
}

// Role returns the role of that name. The role root is built in.
func (a *Auth) Role(name string) (Role, bool) {
	if name == rootName {
		return everything(rootName), true
	}
	r, ok := a.roles[name]
	return r, ok
}

// Roles returns all roles by name.
func (a *Auth) Roles() []Role {
	names := append(slices.Sorted(maps.Keys(a.roles)), rootName)
	slices.Sort(names)
	roles := make([]Role, len(names))
	for i, name := range names {
		roles[i], _ = a.Role(name)
	}
	return roles
}

// everything returns a role with what v2 shows as a right on all keys.
func everything(name string) Role {
	all := []kv.KeyRange{kv.PatternRange("/*")}
	return Role{Name: name, Rights: command.Rights{Read: all, Write: all}}
}

// Rights returns what the user of that name may do, "" for whoever gives none. While access control
// is off that is everything; of a user that is not there, nothing.
func (a *Auth) Rights(user string) *Rights {
	if !a.Enabled {
		return &Rights{root: true}
	}
	if known, ok := a.rights.Load(user); ok {
		return known.(*Rights)
	}
	roles := []string{guestName}
	if user != "" {
		u, ok := a.User(user)
		if !ok {
			return &Rights{}
		}
		roles = u.Roles
	}
	var held command.Rights
	for _, name := range roles {
		role, _ := a.Role(name) // one that is not there gives nothing
		held.Read = append(held.Read, role.Read...)
		held.Write = append(held.Write, role.Write...)
	}
	rights := &Rights{root: user != "" && slices.Contains(roles, rootName), read: newSpans(held.Read), write: newSpans(held.Write)}
	a.rights.Store(user, rights)
	return rights
}

// Rights are what one principal may do. They never change.
type Rights struct {
	root        bool
	read, write spans
}

// Root reports whether everything is permitted, administration too.
func (r *Rights) Root() bool { return r.root }

// WritesAny reports whether there is any key that may be written.
func (r *Rights) WritesAny() bool { return r.root || len(r.write) > 0 }

// Need is what a request does to keys, as far as access control is concerned.
type Need struct {
	Write bool
	Key   string // clean
	Below bool   // and to everything below the key

	// AsDir says that the key was asked for with a slash at its end, and that the request has to do
	// with a directory there. Then a right on that spelling will do as well.
	AsDir bool
}

// Verdict is what access control says to a Need.
type Verdict uint8

// The verdicts. AllowedAsDir holds only as long as no value stands at the key.
const (
	Denied Verdict = iota
	Allowed
	AllowedAsDir
)

// Decide is the one place that compares keys with rights.
func (r *Rights) Decide(n Need) Verdict {
	if r.root {
		return Allowed
	}
	held := r.read
	if n.Write {
		held = r.write
	}
	asDir := n.Key + "/" // for the root, its only spelling
	if from, to := subtree(n.Key); n.Below && !held.cover(from, to) {
		return Denied
	}
	switch {
	case n.Key != "" && held.contain(n.Key), n.Key == "" && held.contain(asDir):
		return Allowed
	case n.AsDir && held.contain(asDir):
		return AllowedAsDir
	}
	return Denied
}

// WriteNeed returns what w needs, as far as that does not depend on what stands at its key.
func WriteNeed(w kv.Write, asDir bool) Need {
	n := Need{Write: true, Key: w.Key}
	switch w.Op {
	case kv.OpDelete:
		n.Below = w.Recursive
		n.AsDir = asDir && (w.Recursive || w.Dir)
	case kv.OpCreateInOrder:
		n.AsDir = asDir
	case kv.OpSet, kv.OpCreate:
		n.AsDir = asDir && w.Dir
	}
	if w.Dir && (w.TTL != 0 || w.Lease != 0) { // its end takes with it what others will have put there
		n.Below = true
	}
	return n
}

// permit returns the error that forbids c, nil if it may be executed. It is asked on every member at
// the place in the log where c stands: rights may have changed since c was proposed, and some
// depend on what stands at a key.
func (s *state) permit(c *command.Command) error {
	if c.AuthRevision == 0 || !s.auth.Enabled {
		return nil
	}
	rights := s.auth.Rights(c.User)
	if rights.root {
		return nil
	}
	key, permitted := "", false
	switch body := c.Body.(type) {
	case kv.Write:
		key, permitted = body.Key, s.mayWrite(rights, body, c.AsDir)
	case command.LeaseGrant:
		permitted = rights.WritesAny()
	case command.LeaseRevoke:
		permitted = rights.WritesAny() && s.mayEnd(rights, body.ID)
	}
	if permitted {
		return nil
	}
	return &kv.Error{Key: key, Kind: kv.Denied, Cause: "Insufficient credentials"}
}

func (s *state) mayWrite(rights *Rights, w kv.Write, asDir bool) bool {
	need := WriteNeed(w, asDir)
	if _, dir := s.dirs.Get(w.Key); dir && w.Op == kv.OpUpdate && (w.TTL != 0 || w.Lease != 0) {
		need.Below = true // everything below would go with it
	}
	if w.Lease != 0 && !s.mayEnd(rights, uint64(w.Lease)) { // to be on a lease is to decide with others
		return false
	}
	switch rights.Decide(need) {
	case Allowed:
		return true
	case AllowedAsDir:
		_, value := s.records.Get(w.Key)
		return !value
	}
	return false
}

// mayEnd reports whether all that goes with a shared lease may be written. It takes time by the
// patterns of who asks, not by what is attached.
func (s *state) mayEnd(rights *Rights, lease uint64) bool {
	if rights.root || implicit(lease) { // no shared lease: it is for who executes the command to say so
		return true
	}
	for next := (attachment{lease: lease}); ; {
		var held bool
		s.attached.Ascend(next, func(a attachment) bool {
			next, held = a, a.lease == lease
			return false
		})
		if !held {
			return true
		}
		span, ok := rights.write.around(next.path, next.path+"\x00")
		if !ok {
			return false
		}
		// Everything in the span may be written, but what is below a directory may lie beyond the end of
		// the span. The paths of such directories are what the end begins with.
		for i := range len(span.To) {
			if span.To[i] >= '0' { // as everything below is less than path + "0"
				continue
			}
			below := attachment{lease, span.To[:i], true}
			if _, held := s.attached.Get(below); held && rights.Decide(Need{Write: true, Key: below.path, Below: true}) != Allowed {
				return false
			}
		}
		if span.To == "" {
			return true
		}
		next = attachment{lease: lease, path: span.To}
	}
}

// spans are ranges in order that neither overlap nor touch.
type spans []kv.KeyRange

func newSpans(ranges []kv.KeyRange) spans {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b kv.KeyRange) int { return strings.Compare(a.From, b.From) })
	var merged spans
	for _, r := range ranges {
		if r.To != "" && r.To <= r.From {
			continue
		}
		if last := len(merged) - 1; last >= 0 && (merged[last].To == "" || r.From <= merged[last].To) {
			if r.To == "" || merged[last].To != "" && r.To > merged[last].To {
				merged[last].To = r.To
			}
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// around returns the range that all keys of [from, to) are in.
func (s spans) around(from, to string) (kv.KeyRange, bool) {
	after, _ := slices.BinarySearchFunc(s, from, func(r kv.KeyRange, from string) int {
		if r.From <= from {
			return -1
		}
		return 1
	})
	if after > 0 && (s[after-1].To == "" || to <= s[after-1].To) {
		return s[after-1], true
	}
	return kv.KeyRange{}, false
}

func (s spans) cover(from, to string) bool {
	_, ok := s.around(from, to)
	return ok
}

func (s spans) contain(key string) bool { return s.cover(key, key+"\x00") }

// setAuth replaces the access control data by next, of the following revision. The users and roles
// that differ are for the caller to include in the sum and exclude from it.
func (s *state) setAuth(change func(next *Auth)) {
	next := &Auth{Revision: s.auth.Revision + 1, Enabled: s.auth.Enabled, users: maps.Clone(s.auth.users), roles: maps.Clone(s.auth.roles)}
	change(next)
	s.exclude(s.auth)
	s.include(next)
	s.auth = next
}

func (s *state) putUser(u User) {
	if prev, ok := s.auth.users[u.Name]; ok {
		s.exclude(prev)
	}
	s.include(u)
	s.setAuth(func(next *Auth) { next.users[u.Name] = u })
}

func (s *state) putRole(r Role) {
	if prev, ok := s.auth.roles[r.Name]; ok {
		s.exclude(prev)
	}
	s.include(r)
	s.setAuth(func(next *Auth) { next.roles[r.Name] = r })
}

// authErrorf returns the error of a change of access control. The texts are those of etcd's v2 API.
func authErrorf(kind kv.Kind, format string, args ...any) error {
	return &kv.Error{Op: "access control", Kind: kind, Cause: fmt.Sprintf(format, args...)}
}

// checkNames returns what is wrong with the name of a user or role, or with lists of a user's roles.
func checkNames(what, name string, lists ...[]string) error {
	if len(name) > nameBytesMax {
		return authErrorf(kv.Invalid, "The name of the %s is longer than %d bytes", what, nameBytesMax)
	}
	for _, roles := range lists {
		if len(roles) > rolesMax {
			return authErrorf(kv.Invalid, "A user has no more than %d roles", rolesMax)
		}
		for _, role := range roles {
			if err := checkNames("role", role); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRights returns what is wrong with the rights of a role.
func checkRights(rights command.Rights) error {
	for _, ranges := range [...][]kv.KeyRange{rights.Read, rights.Write} {
		if len(ranges) > patternsMax {
			return authErrorf(kv.Invalid, "A role has no more than %d patterns to read and %d to write", patternsMax, patternsMax)
		}
		for _, r := range ranges {
			if len(r.From) > patternBytesMax || len(r.To) > patternBytesMax+1 {
				return authErrorf(kv.Invalid, "A pattern is no longer than %d bytes", patternBytesMax)
			}
		}
	}
	return nil
}

func (s *state) enableAuth(c command.AuthEnable) error {
	switch {
	case c.Enabled && s.auth.Enabled:
		return authErrorf(kv.CompareFailed, "already enabled")
	case !c.Enabled && !s.auth.Enabled:
		return authErrorf(kv.CompareFailed, "already disabled")
	}
	if _, ok := s.auth.users[rootName]; c.Enabled && !ok {
		return authErrorf(kv.CompareFailed, "No root user available, please create one")
	}
	if _, ok := s.auth.roles[guestName]; c.Enabled && !ok {
		s.putRole(everything(guestName))
	}
	s.setAuth(func(next *Auth) { next.Enabled = c.Enabled })
	return nil
}

// changeUser returns the user as it is after the change, none for a deletion, and whether it is new.
func (s *state) changeUser(c command.AuthUser) (changed any, created bool, err error) {
	if err := checkNames("user", c.Name, c.Roles, c.Grant, c.Revoke); err != nil {
		return nil, false, err
	}
	stored, exists := s.auth.users[c.Name]
	if c.Op == command.AuthPut {
		c.Op = command.AuthCreate
		if exists {
			c.Op = command.AuthUpdate
		}
	}
	switch c.Op {
	case command.AuthCreate:
		if c.Hash == "" {
			return nil, false, authErrorf(kv.Invalid, "Cannot create user %s with an empty password", c.Name)
		}
		if exists {
			return nil, false, authErrorf(kv.Exists, "User %s already exists.", c.Name)
		}
		u := User{Name: c.Name, Hash: c.Hash, Roles: c.Roles}
		if c.Name == rootName && !slices.Contains(u.Roles, rootName) {
			u.Roles = append(slices.Clip(u.Roles), rootName)
		}
		s.putUser(u)
		return u, true, nil
	case command.AuthUpdate:
		if !exists {
			return nil, false, authErrorf(kv.NotFound, "User %s does not exist.", c.Name)
		}
		u, err := s.updatedUser(c)
		if err != nil {
			return nil, false, err
		}
		s.putUser(u)
		return u, false, nil
	case command.AuthDelete:
		if s.auth.Enabled && c.Name == rootName {
			return nil, false, authErrorf(kv.RootReadOnly, "Cannot delete root user while auth is enabled.")
		}
		if !exists {
			return nil, false, authErrorf(kv.NotFound, "User %s does not exist", c.Name)
		}
		s.exclude(stored)
		s.setAuth(func(next *Auth) { delete(next.users, c.Name) })
		return nil, false, nil
	}
	panic(fmt.Sprintf("no rule for operation %d on a user", c.Op)) // Decode lets no unknown operation pass
}

func (s *state) updatedUser(c command.AuthUser) (User, error) {
	old, _ := s.auth.User(c.Name)
	u := User{Name: c.Name, Hash: old.Hash}
	if c.Hash != "" {
		u.Hash = c.Hash
	}
	roles, duplicate := granted(old.Roles, c.Grant)
	if duplicate >= 0 {
		return User{}, authErrorf(kv.Exists, "Granting duplicate role %s for user %s", c.Grant[duplicate], c.Name)
	}
	for _, name := range c.Revoke {
		at := slices.Index(roles, name)
		if at < 0 {
			return User{}, authErrorf(kv.CompareFailed, "Revoking ungranted role %s for user %s", name, c.Name)
		}
		roles = slices.Delete(roles, at, at+1)
	}
	if err := checkNames("user", c.Name, roles); err != nil {
		return User{}, err
	}
	slices.Sort(roles)
	u.Roles = roles
	if u.Hash == old.Hash && sameList(u.Roles, old.Roles) {
		return User{}, authErrorf(kv.Invalid, "User not updated. Use grant/revoke/password to update the user.")
	}
	return u, nil
}

// changeRole returns the role that it has made; none for a deletion.
func (s *state) changeRole(c command.AuthRole) (any, error) {
	if c.Name == rootName {
		return nil, authErrorf(kv.RootReadOnly, "Cannot modify role %s: is root role.", c.Name)
	}
	if err := cmp.Or(checkNames("role", c.Name), checkRights(c.Rights), checkRights(c.Grant), checkRights(c.Revoke)); err != nil {
		return nil, err
	}
	stored, exists := s.auth.roles[c.Name]
	switch c.Op {
	case command.AuthCreate:
		if exists {
			return nil, authErrorf(kv.Exists, "Role %s already exists.", c.Name)
		}
		r := Role{Name: c.Name, Rights: c.Rights}
		s.putRole(r)
		return r, nil
	case command.AuthUpdate:
		if !exists {
			return nil, authErrorf(kv.NotFound, "Role %s does not exist.", c.Name)
		}
		r := Role{Name: c.Name}
		for _, list := range [...]struct {
			word                    string
			out                     *[]kv.KeyRange
			stored, granted, revoke []kv.KeyRange
		}{
			{"read", &r.Read, stored.Read, c.Grant.Read, c.Revoke.Read},
			{"write", &r.Write, stored.Write, c.Grant.Write, c.Revoke.Write},
		} {
			ranges, duplicate := granted(list.stored, list.granted)
			if duplicate >= 0 {
				pattern, _ := list.granted[duplicate].Pattern()
				return nil, authErrorf(kv.Exists, "Granting duplicate %s permission %s", list.word, pattern)
			}
			ranges = slices.DeleteFunc(ranges, func(r kv.KeyRange) bool { return slices.Contains(list.revoke, r) })
			slices.SortFunc(ranges, kv.KeyRange.Compare)
			*list.out = ranges
		}
		if err := checkRights(r.Rights); err != nil {
			return nil, err
		}
		if sameList(r.Read, stored.Read) && sameList(r.Write, stored.Write) {
			return nil, authErrorf(kv.Invalid, "Role not updated. Use grant/revoke to update the role.")
		}
		s.putRole(r)
		return r, nil
	case command.AuthDelete:
		if !exists {
			return nil, authErrorf(kv.NotFound, "Role %s doesn't exist.", c.Name)
		}
		s.exclude(stored)
		s.setAuth(func(next *Auth) { delete(next.roles, c.Name) })
		return nil, nil
	}
	panic(fmt.Sprintf("no rule for operation %d on a role", c.Op))
}

// granted returns the list with each of its items once and those granted after them, never nil; or
// which of those granted was there before.
func granted[T comparable](list, grant []T) (all []T, duplicate int) {
	all = []T{}
	for _, item := range list {
		if !slices.Contains(all, item) {
			all = append(all, item)
		}
	}
	for i, item := range grant {
		if slices.Contains(all, item) {
			return nil, i
		}
		all = append(all, item)
	}
	return all, -1
}

// sameList reports whether two lists are the same; one that is nil and one that is empty are not.
func sameList[T comparable](a, b []T) bool { return slices.Equal(a, b) && (a == nil) == (b == nil) }

// items returns what the sum is over and a snapshot holds: a itself, then its users and roles.
func (a *Auth) items() []item {
	all := []item{a}
	for _, name := range slices.Sorted(maps.Keys(a.users)) {
		all = append(all, a.users[name])
	}
	for _, name := range slices.Sorted(maps.Keys(a.roles)) {
		all = append(all, a.roles[name])
	}
	return all
}

func (a *Auth) size() int64 { return 0 }

func (u User) size() int64 {
	return ItemOverhead + int64(len(u.Name)) + int64(len(u.Hash)) + namesSize(u.Roles)
}

func (r Role) size() int64 {
	return ItemOverhead + int64(len(r.Name)) + rangesSize(r.Read) + rangesSize(r.Write)
}

func namesSize(names []string) (size int64) {
	for _, name := range names {
		size += stringOverhead + int64(len(name))
	}
	return size
}

func rangesSize(ranges []kv.KeyRange) (size int64) {
	for _, r := range ranges {
		size += 2*stringOverhead + int64(len(r.From)) + int64(len(r.To))
	}
	return size
}

// Growth returns by how many bytes a change would make the state grow at most; 0 if it takes away, or
// changes a password.
func (a *Auth) Growth(body command.Body) int64 {
	switch c := body.(type) {
	case command.AuthUser:
		if _, exists := a.users[c.Name]; exists || c.Op == command.AuthUpdate || c.Op == command.AuthDelete {
			return namesSize(c.Grant)
		}
		return User{Name: c.Name, Hash: c.Hash, Roles: c.Roles}.size() + namesSize([]string{rootName})
	case command.AuthRole:
		if c.Op == command.AuthCreate {
			return Role{Name: c.Name, Rights: c.Rights}.size()
		}
		return rangesSize(c.Grant.Read) + rangesSize(c.Grant.Write)
	}
	return 0
}

func (a *Auth) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(append(b, itemAuth), a.Revision)
	if a.Enabled {
		return append(b, 1)
	}
	return append(b, 0)
}

func (u User) appendTo(b []byte) []byte {
	b = appendText(append(b, itemUser), u.Name)
	b = appendText(b, string(u.Hash))
	b = appendLength(b, len(u.Roles), u.Roles == nil)
	for _, name := range u.Roles {
		b = appendText(b, name)
	}
	return b
}

func (r Role) appendTo(b []byte) []byte {
	b = appendText(append(b, itemRole), r.Name)
	for _, ranges := range [...][]kv.KeyRange{r.Read, r.Write} {
		b = appendLength(b, len(ranges), ranges == nil)
		for _, r := range ranges {
			b = appendText(appendText(b, r.From), r.To)
		}
	}
	return b
}

// appendLength appends the length of a list, so that one that is nil is not one that is empty.
func appendLength(b []byte, length int, isNil bool) []byte {
	if isNil {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(length)+1)
}

func (l *loader) authItem(item *snapfile.Item) error {
	a := l.state.auth
	if item.Len() == 0 {
		return snapfile.Damaged("an item of access control is empty")
	}
	switch item.Peek() {
	case itemAuth:
		item.Tag(itemAuth)
		a.Revision = item.Uint()
		switch flag := item.Uint(); flag {
		case 0, 1:
			a.Enabled = flag == 1
		default:
			item.Fail()
		}
		l.auth++
	case itemUser:
		item.Tag(itemUser)
		u := User{Name: item.Text(), Hash: command.Secret(item.Text())}
		u.Roles = readList(item, item.Text)
		if _, twice := a.users[u.Name]; twice {
			return snapfile.Damaged("the user %q is there twice", u.Name)
		}
		a.users[u.Name] = u
		l.state.include(u)
	case itemRole:
		item.Tag(itemRole)
		span := func() kv.KeyRange { return kv.KeyRange{From: item.Text(), To: item.Text()} }
		r := Role{Name: item.Text()}
		r.Read, r.Write = readList(item, span), readList(item, span)
		if _, twice := a.roles[r.Name]; twice {
			return snapfile.Damaged("the role %q is there twice", r.Name)
		}
		a.roles[r.Name] = r
		l.state.include(r)
	default:
		item.Fail()
	}
	return nil
}

// readList reads what appendLength and its items have written.
func readList[T any](r *snapfile.Item, one func() T) []T {
	length := r.Uint()
	if length == 0 {
		return nil
	}
	list := []T{}
	for ; length > 1 && !r.Failed(); length-- {
		list = append(list, one())
	}
	return list
}
