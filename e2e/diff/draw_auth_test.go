package diff

import (
	"fmt"
	"strings"
)

// authLine draws a line of a sequence about access control: half of them administer users and roles,
// the others ask for keys as somebody. They do not wait: kvd looks again who may see an event. root's
// password is always the one that package speaker knows.
func (d *drawer) authLine() string {
	var line string
	if d.chance(2) {
		line = d.administer()
	} else if line = d.anyLine(); strings.Contains(line, ": ") || strings.HasSuffix(line, " close") {
		d.open = nil
		line = "GET " + d.path()
	}
	return line + d.pick("", "", " as:root:secret", " as:root:secret", " as:root:secret", " as:ann:one", " as:bob:two",
		"|", " as:ann:wrong", " as:none:one", " as:ann", ` Authorization:Basic\x20x`, " Authorization:Bearer", " as:guest:", " as:ann:")
}

func (d *drawer) administer() string {
	user := d.pick("root", "ann", "bob", "|", "%c3%a9", "guest", "a/b", "")
	role := d.pick("one", "two", "guest", "|", "root", "none", "a/b", "")
	roles := fmt.Sprintf(`["%s","%s"]`, d.pick("one", "two", "root", "guest"), d.pick("one", "two", "none"))
	if d.chance(2) {
		roles = fmt.Sprintf(`["%s"]`, d.pick("one", "two", "root", "guest", "|", "none"))
	}
	switch d.IntN(20) {
	case 0, 1:
		return d.pick("PUT", "PUT", "GET", "DELETE", "|", "POST", "HEAD") + " /v2/auth/enable"
	case 2:
		return "GET /v2/auth/users" + d.pick("", "/")
	case 3:
		return "GET /v2/auth/roles" + d.pick("", "/")
	case 4, 5:
		return d.pick("GET", "GET", "|", "POST", "HEAD") + " /v2/auth/users/" + user
	case 6, 7:
		return d.pick("GET", "GET", "|", "POST", "HEAD") + " /v2/auth/roles/" + role
	case 8:
		return "DELETE /v2/auth/users/" + user
	case 9:
		return "DELETE /v2/auth/roles/" + role
	case 10, 11, 12:
		password := map[string]string{"root": "secret", "ann": "one"}[user]
		if password == "" {
			password = "two"
		}
		more := d.pick("", "", `,"roles":`+roles, "|", `,"roles":null`, `,"roles":[]`, `,"x":1`, `,"grant":`+roles)
		return fmt.Sprintf(`PUT /v2/auth/users/%s body:{"user":"%s","password":"%s"%s}`, user, d.pick(user, user, user, "|", "other", ""), password, more)
	case 13, 14:
		return fmt.Sprintf(`PUT /v2/auth/users/%s body:{"user":"%s","%s":%s}`, user, user, d.pick("grant", "grant", "revoke"), roles)
	case 15, 16:
		return fmt.Sprintf(`PUT /v2/auth/roles/%s body:{"role":"%s","permissions":%s}`, role, d.pick(role, role, role, "|", "other"), d.rights())
	case 17, 18:
		return fmt.Sprintf(`PUT /v2/auth/roles/%s body:{"role":"%s","%s":%s}`, role, role, d.pick("grant", "grant", "revoke"), d.rights())
	default:
		return d.pick("PUT", "PUT", "GET", "DELETE") + " " + d.pick("/v2/auth/users/ann", "/v2/auth/roles/one") + " body:" + d.pick("{", "[]", `"x"`, "{}", "null", `{"user":1}`, `{"role":"one","permissions":{"kv":{"read":"x"}}}`)
	}
}

// rights draws the lists of patterns of a role.
func (d *drawer) rights() string {
	pattern := func() string {
		return d.pick("/d/*", "/d/a*", "/d/a/*", "/d/a", "/*", "/d/b/*", "|", "*", "", "/d/_h*", "d/a", "/d/a*b", "/d", "/d/")
	}
	lists := []string{fmt.Sprintf(`"read":["%s"]`, pattern()), fmt.Sprintf(`"write":["%s","%s"]`, pattern(), pattern())}
	switch d.IntN(4) {
	case 0:
		lists = lists[:1]
	case 1:
		lists = lists[1:]
	}
	return `{"kv":{` + strings.Join(lists, ",") + `}}`
}
