package httpv2

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// changeRecorder is root's session that notes what it is to change.
type changeRecorder struct {
	fakeSession
	user *service.UserChange
	role *service.RoleChange
}

func (c *changeRecorder) ChangeUser(_ context.Context, change service.UserChange) (service.User, bool, error) {
	c.user = &change
	return service.User{Name: change.Name, Hash: change.Password, Roles: change.Roles}, true, nil
}

func (c *changeRecorder) ChangeRole(_ context.Context, change service.RoleChange) (service.Role, error) {
	c.role = &change
	return service.Role{Name: change.Name, Rights: change.Rights}, nil
}

type recordingGate struct {
	openGate
	session *changeRecorder
}

func (g recordingGate) Authenticate(context.Context, service.Credentials) (Session, error) {
	return g.session, nil
}

// FuzzAccessBody gives the routes of users and roles a body. A change that comes of it is about the
// name in the path, never both a new thing and a change of an old one, and is what a plain reading
// of the JSON says; the password is nowhere in the answer.
func FuzzAccessBody(f *testing.F) {
	for _, body := range []string{
		`{"user":"u","password":"secret-word","roles":["r"]}`, `{"user":"u","grant":["r"],"revoke":["s"]}`, `{"user":"u","password":"secret-word"}`,
		`{"role":"u","permissions":{"kv":{"read":["/a*"],"write":["/b"]}}}`, `{"role":"u","grant":{"kv":{"read":["*"]}},"revoke":{"kv":{"write":["/*"]}}}`,
		`{"USER":"u","Grant":null}{"user":"v"}`, `{"user":"u","roles":[],"grant":["a"],"password":"\ud800"}`, `[]`, ``, `{"role":"u","permissions":{"kv":{"read":["\u0000","\xff*"]}}}`,
	} {
		f.Add(true, "u", []byte(body))
		f.Add(false, "u", []byte(body))
	}
	f.Fuzz(func(t *testing.T, user bool, name string, body []byte) {
		path := rolesPath + "/" + name
		if user {
			path = usersPath + "/" + name
		}
		r := request(http.MethodPut, path, string(body))
		if r == nil {
			return
		}
		session := &changeRecorder{}
		answer := httptest.NewRecorder()
		h := table(Config{Cluster: twoMembers(), Gate: recordingGate{openGate{&recorder{}}, session}})
		fuzztest.WantBounded(t, 512*uint64(len(body)+len(path))+fuzztest.Fixed, func() { h.ServeHTTP(answer, r) })
		switch {
		case session.user != nil && session.role != nil, session.user == nil && session.role == nil && answer.Code < 300:
			t.Fatalf("%s %s: %d, changes %v and %v", path, body, answer.Code, session.user, session.role)
		case session.user != nil:
			checkUserChange(t, r, body, *session.user)
			if password := string(session.user.Password); len(password) > 6 && bytes.Contains(answer.Body.Bytes(), []byte(password)) && !strings.Contains(path, password) && !mentioned(session.user, password) {
				t.Fatalf("the answer to %s shows the password: %s", body, answer.Body)
			}
		case session.role != nil:
			checkRoleChange(t, r, body, *session.role)
		case answer.Code >= 500:
			t.Fatalf("%s %s: %d %s", path, body, answer.Code, answer.Body)
		}
	})
}

// mentioned reports whether a text that happens to be the password is in a name as well.
func mentioned(change *service.UserChange, password string) bool {
	return strings.Contains(strings.Join(append(change.Roles, change.Name), " "), password) || strings.Contains(`"user":"roles"null`, password)
}

func checkUserChange(t *testing.T, r *http.Request, body []byte, change service.UserChange) {
	var plain struct {
		User, Password       string
		Roles, Grant, Revoke []string
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&plain); err != nil {
		t.Fatalf("%q is no JSON (%v), but was taken for %+v", body, err, change)
	}
	name, ok := strings.CutPrefix(kv.Clean(r.URL.Path), usersPath+"/")
	updates := len(change.Grant)+len(change.Revoke) > 0
	switch {
	case !ok || change.Name != name || plain.User != name || strings.Contains(name, "/") || name == "":
		t.Fatalf("%s %q changes user %q", r.URL.Path, body, change.Name)
	case string(change.Password) != plain.Password, !reflect.DeepEqual(change.Roles, plain.Roles), !reflect.DeepEqual(change.Grant, plain.Grant), !reflect.DeepEqual(change.Revoke, plain.Revoke):
		t.Fatalf("%q became %+v", body, change)
	case updates != (change.Op == service.Update), updates && len(change.Roles) > 0:
		t.Fatalf("%q became operation %d: %+v", body, change.Op, change)
	}
}

func checkRoleChange(t *testing.T, r *http.Request, body []byte, change service.RoleChange) {
	type patterns struct {
		KV struct{ Read, Write []string }
	}
	var plain struct {
		Role                       string
		Permissions, Grant, Revoke patterns
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&plain); err != nil {
		t.Fatalf("%q is no JSON (%v), but was taken for %+v", body, err, change)
	}
	name, ok := strings.CutPrefix(kv.Clean(r.URL.Path), rolesPath+"/")
	if !ok || change.Name != name || plain.Role != name || strings.Contains(name, "/") || name == "" {
		t.Fatalf("%s %q changes role %q", r.URL.Path, body, change.Name)
	}
	for _, c := range []struct {
		ranges []kv.KeyRange
		said   []string
	}{
		{change.Rights.Read, plain.Permissions.KV.Read}, {change.Rights.Write, plain.Permissions.KV.Write},
		{change.Grant.Read, plain.Grant.KV.Read}, {change.Grant.Write, plain.Grant.KV.Write},
		{change.Revoke.Read, plain.Revoke.KV.Read}, {change.Revoke.Write, plain.Revoke.KV.Write},
	} {
		if len(c.ranges) != len(c.said) {
			t.Fatalf("%q became %+v", body, change)
		}
		for i, pattern := range c.said {
			if c.ranges[i] != kv.PatternRange(pattern) {
				t.Fatalf("%q became %q", pattern, c.ranges[i])
			}
		}
	}
}

// FuzzAuthorization: a header is of somebody exactly when it is there, and names whom its base64
// names up to the first colon; what cannot be read is nobody's, never "no header".
func FuzzAuthorization(f *testing.F) {
	for _, header := range []string{"", "Basic cm9vdDpzZWNyZXQ=", "basic Og==", "Basic cm9vdA==", "Bearer x", "Basic  cm9vdDpz", "Basic !", "Basic cm9vdDphOmI=", " "} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := &http.Request{Header: http.Header{"Authorization": {header}}, RemoteAddr: "10.0.0.1:5"}
		c := credentials(r)
		want := service.Credentials{Source: r.RemoteAddr, Given: header != ""}
		if len(header) > 6 && strings.EqualFold(header[:6], "Basic ") {
			if text, err := base64.StdEncoding.DecodeString(header[6:]); err == nil {
				if user, password, ok := strings.Cut(string(text), ":"); ok {
					want.User, want.Password = user, service.Secret(password)
				}
			}
		}
		if c != want {
			t.Fatalf("%q is of %q, want %q", header, c.User, want.User)
		}
	})
}
