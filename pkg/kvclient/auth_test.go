package kvclient_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// reads returns the right to read patterns.
func reads(patterns ...string) (rights kvclient.Permissions) {
	rights.KV.Read = patterns
	return rights
}

func TestUsersAndRolesSayWhoMayDoWhat(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			url, ctx := start(t), t.Context()
			as := func(user string) *kvclient.Client {
				cfg := inOrder(url)
				cfg.Username, cfg.RequestTimeout = user, time.Minute // hashes of passwords take long on a busy machine
				return open(t, cfg)
			}
			nobody := as("")
			if on, err := nobody.AuthEnabled(ctx); on || err != nil {
				t.Fatalf("at the start: %v, %v", on, err)
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			refused := func(kind kv.Kind, err error) {
				t.Helper()
				if !kv.Is(err, kind) {
					t.Errorf("got %v, want the kind %q", err, kind)
				}
			}
			if users, err := nobody.Users(ctx); len(users) != 0 || err != nil {
				t.Errorf("at the start: %v, %v", users, err)
			}
			set(t, nobody, "/config/a", "1")
			refused(kv.Invalid, nobody.SetAuth(ctx, true))
			must(nobody.AddUser(ctx, kvclient.RootUser, "secret"))
			must(nobody.AddUser(ctx, "ann ä?", "first"))
			refused(kv.Exists, nobody.AddUser(ctx, kvclient.RootUser, "other"))
			refused(kv.NotFound, nobody.SetPassword(ctx, "bob", "x"))
			refused(kv.Invalid, nobody.AddUser(ctx, "bob", ""))
			refused(kv.Invalid, nobody.AddUser(ctx, "", "x"))
			refused(kv.Invalid, nobody.RemoveRole(ctx, ""))
			must(nobody.RemoveUser(ctx, "ann ä?"))
			must(nobody.AddUser(ctx, "ann", "first"))
			must(nobody.SetPassword(ctx, "ann", "second"))
			must(nobody.AddRole(ctx, "reader"))
			refused(kv.Exists, nobody.AddRole(ctx, "reader"))
			must(nobody.Grant(ctx, "reader", reads("/config/*", "/x")))
			refused(kv.Invalid, nobody.Grant(ctx, "reader", reads("/x")))
			must(nobody.Revoke(ctx, "reader", reads("/x")))
			refused(kv.NotFound, nobody.Grant(ctx, "none", reads("/x")))
			role, err := nobody.Role(ctx, "reader")
			if must(err); role.Name != "reader" || !slices.Equal(role.Permissions.KV.Read, []string{"/config/*"}) || len(role.Permissions.KV.Write) != 0 {
				t.Errorf("got %+v", role)
			}
			must(nobody.GrantRoles(ctx, "ann", "reader"))
			user, err := nobody.User(ctx, "ann")
			if must(err); user.Name != "ann" || !slices.Equal(user.Roles, []string{"reader"}) {
				t.Errorf("got %+v", user)
			}
			must(nobody.SetAuth(ctx, true))

			root, ann := as("root:secret"), as("ann:second")
			var everything kvclient.Permissions
			everything.KV.Read, everything.KV.Write = []string{"/*"}, []string{"/*"}
			must(root.Revoke(ctx, "guest", everything))
			read := func(c *kvclient.Client) error { _, err := c.Read(ctx, kv.Read{Key: "/config/a"}); return err }
			must(read(root))
			must(read(ann))
			refused(kv.Denied, read(nobody))
			refused(kv.Denied, read(as("ann:first")))
			_, err = ann.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/config/a", Value: "2"})
			refused(kv.Denied, err)
			refused(kv.Denied, ann.AddUser(ctx, "eve", "x"))
			_, err = nobody.Users(ctx)
			refused(kv.Denied, err)
			if on, err := nobody.AuthEnabled(ctx); !on || err != nil {
				t.Errorf("enabled: %v, %v", on, err)
			}
			refused(kv.Invalid, root.RemoveUser(ctx, kvclient.RootUser))
			refused(kv.Invalid, root.Grant(ctx, "root", reads("/x")))
			must(root.RevokeRoles(ctx, "ann", "reader"))
			refused(kv.Denied, read(ann))
			must(root.RemoveRole(ctx, "reader"))
			must(root.RemoveUser(ctx, "ann"))
			roles, err := root.Roles(ctx)
			if must(err); len(roles) != 2 || roles[0].Name != "guest" || roles[1].Name != "root" {
				t.Errorf("got %+v", roles)
			}
			must(root.SetAuth(ctx, false))
			refused(kv.Invalid, nobody.SetAuth(ctx, false))
			must(read(nobody))
		})
	}
}
