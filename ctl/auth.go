package ctl

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kvclient"
)

func authCommand(s *settings) *cobra.Command {
	cmd := noun("auth", "turn access control on or off")
	cmd.Long = `Turn access control on or off.

There must be a user root first, who may do everything. Whoever names no user has the
rights of the role guest from then on: at first all of them.

  kvctl user add root
  kvctl auth enable
  kvctl -u root role revoke --path '/*' --readwrite guest`
	cmd.AddCommand(
		authSwitch(s, "enable", "turn access control on", true),
		authSwitch(s, "disable", "turn access control off: everybody may do everything", false),
		&cobra.Command{
			Use: "status", Short: "show whether access control is on",
			RunE: s.run(func(ctx context.Context, c *session, args []string) error {
				if err := noMoreWords(args, 0); err != nil {
					return err
				}
				enabled, err := c.client.AuthEnabled(ctx)
				if err != nil {
					return err
				}
				c.authState(enabled)
				return nil
			}),
		})
	return cmd
}

func authSwitch(s *settings, use, short string, on bool) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			if err := noMoreWords(args, 0); err != nil {
				return err
			}
			if err := c.client.SetAuth(ctx, on); err != nil {
				return err
			}
			c.authState(on)
			return nil
		}),
	}
}

func (p *printer) authState(enabled bool) {
	state := "Disabled"
	if enabled {
		state = "Enabled"
	}
	p.said("Authentication "+state, struct {
		Enabled bool `json:"enabled"`
	}{enabled})
}

func userCommand(s *settings) *cobra.Command {
	cmd := noun("user", "manage the users of access control")
	add := withPassword(s, "add", "add a user without roles", func(ctx context.Context, c *session, name, password string) error {
		return c.client.AddUser(ctx, name, password)
	}, "User %s created", "created")
	passwd := withPassword(s, "passwd", "change the password of a user", func(ctx context.Context, c *session, name, password string) error {
		return c.client.SetPassword(ctx, name, password)
	}, "Password updated", "password updated")
	cmd.AddCommand(add, userGet(s), userList(s),
		&cobra.Command{
			Use: "remove USER", Short: "remove a user",
			RunE: s.run(func(ctx context.Context, c *session, args []string) error {
				name, err := onlyName(args, "user")
				if err != nil {
					return err
				}
				if err := c.client.RemoveUser(ctx, name); err != nil {
					return err
				}
				c.changed("user", name, fmt.Sprintf("User %s removed", name), "removed")
				return nil
			}),
		},
		userRoles(s, "grant", "give a user roles", (*kvclient.Client).GrantRoles),
		userRoles(s, "revoke", "take roles away from a user", (*kvclient.Client).RevokeRoles),
		passwd)
	return cmd
}

// withPassword is a command about a user and a password that is new.
func withPassword(s *settings, use, short string, act func(ctx context.Context, c *session, name, password string) error, said, done string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: use + " USER", Short: short,
		Long: short + `.

The new password is asked for on a terminal, or else read from stdin up to the end of its first line.`,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
			name, err := onlyName(args, "user")
			if err != nil {
				return err
			}
			name, password, given := strings.Cut(name, ":")
			switch {
			case name == "":
				return &usageError{text: "user required"}
			case given && file != "":
				return &usageError{text: "the new password is given twice", hint: "--new-password-file keeps it out of the list of processes"}
			case !given:
				if password, err = newPassword(ctx, c.env, file, name); err != nil {
					return err
				}
			}
			ctx, cancel := s.bound(ctx) // from now: who types may take longer
			defer cancel()
			if err := act(ctx, c, name, password); err != nil {
				return err
			}
			text := said
			if strings.Contains(said, "%s") {
				text = fmt.Sprintf(said, name)
			}
			c.changed("user", name, text, done)
			return nil
		}),
	}
	cmd.Flags().StringVar(&file, "new-password-file", "", "`file` whose first line is the new password")
	return cmd
}

func userGet(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "get USER", Short: "show the roles of a user",
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			name, err := onlyName(args, "user")
			if err != nil {
				return err
			}
			user, err := c.client.User(ctx, name)
			if err != nil {
				return err
			}
			c.said(fmt.Sprintf("User: %s\nRoles: %s", user.Name, strings.Join(user.Roles, " ")), user)
			return nil
		}),
	}
}

func userList(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the users",
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			if err := noMoreWords(args, 0); err != nil {
				return err
			}
			users, err := c.client.Users(ctx)
			if err != nil {
				return err
			}
			names := make([]string, len(users))
			for i, user := range users {
				names[i] = user.Name
			}
			c.names(names, struct {
				Users []kvclient.User `json:"users"`
			}{append([]kvclient.User{}, users...)})
			return nil
		}),
	}
}

func userRoles(s *settings, use, short string, act func(c *kvclient.Client, ctx context.Context, name string, roles ...string) error) *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use: use + " USER", Short: short,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			name, err := onlyName(args, "user")
			if err != nil {
				return err
			}
			if len(roles) == 0 {
				return &usageError{text: "role required", hint: "--roles ROLE, as often as there are roles"}
			}
			if err := act(c.client, ctx, name, roles...); err != nil {
				return err
			}
			c.changed("user", name, fmt.Sprintf("User %s updated", name), "updated")
			return nil
		}),
	}
	cmd.Flags().StringArrayVar(&roles, "roles", nil, "`role`; may be repeated")
	return cmd
}

func roleCommand(s *settings) *cobra.Command {
	cmd := noun("role", "manage the roles of access control")
	cmd.AddCommand(
		roleChange(s, "add", "add a role without rights", (*kvclient.Client).AddRole, "created"),
		&cobra.Command{
			Use: "get ROLE", Short: "show the rights of a role",
			RunE: s.run(func(ctx context.Context, c *session, args []string) error {
				name, err := onlyName(args, "role")
				if err != nil {
					return err
				}
				role, err := c.client.Role(ctx, name)
				if err != nil {
					return err
				}
				lines := []string{"Role: " + role.Name, "KV Read:"}
				for _, pattern := range role.Permissions.KV.Read {
					lines = append(lines, "\t"+pattern)
				}
				lines = append(lines, "KV Write:")
				for _, pattern := range role.Permissions.KV.Write {
					lines = append(lines, "\t"+pattern)
				}
				c.said(strings.Join(lines, "\n"), role)
				return nil
			}),
		},
		&cobra.Command{
			Use: "list", Short: "list the roles",
			RunE: s.run(func(ctx context.Context, c *session, args []string) error {
				if err := noMoreWords(args, 0); err != nil {
					return err
				}
				roles, err := c.client.Roles(ctx)
				if err != nil {
					return err
				}
				names := make([]string, len(roles))
				for i, role := range roles {
					names[i] = role.Name
				}
				c.names(names, struct {
					Roles []kvclient.Role `json:"roles"`
				}{append([]kvclient.Role{}, roles...)})
				return nil
			}),
		},
		roleChange(s, "remove", "remove a role", (*kvclient.Client).RemoveRole, "removed"),
		roleRights(s, "grant", "give a role rights", (*kvclient.Client).Grant),
		roleRights(s, "revoke", "take rights away from a role", (*kvclient.Client).Revoke))
	return cmd
}

func roleChange(s *settings, use, short string, act func(c *kvclient.Client, ctx context.Context, name string) error, done string) *cobra.Command {
	return &cobra.Command{
		Use: use + " ROLE", Short: short,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			name, err := onlyName(args, "role")
			if err != nil {
				return err
			}
			if err := act(c.client, ctx, name); err != nil {
				return err
			}
			c.changed("role", name, fmt.Sprintf("Role %s %s", name, done), done)
			return nil
		}),
	}
}

func roleRights(s *settings, use, short string, act func(c *kvclient.Client, ctx context.Context, role string, rights kvclient.Permissions) error) *cobra.Command {
	var pattern string
	var read, write, both bool
	cmd := &cobra.Command{
		Use: use + " ROLE", Short: short,
		Long: short + `.

A path that ends in "*" is every key that begins with what is before it, so that /app/* is
all below /app, and /app* also /app2. Any other path is one key.`,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			name, err := onlyName(args, "role")
			if err != nil {
				return err
			}
			rights, err := rightsOf(pattern, read, write, both)
			if err != nil {
				return err
			}
			if err := act(c.client, ctx, name, rights); err != nil {
				return err
			}
			c.changed("role", name, fmt.Sprintf("Role %s updated", name), "updated")
			return nil
		}),
	}
	cmd.Flags().StringVar(&pattern, "path", "", "`path` of the keys, such as /app/*")
	cmd.Flags().BoolVar(&read, "read", false, "the right to read")
	cmd.Flags().BoolVar(&write, "write", false, "the right to write")
	cmd.Flags().BoolVar(&both, "readwrite", false, "both rights; also --rw")
	return cmd
}

// rightsOf returns what the flags of a command about rights ask for.
func rightsOf(pattern string, read, write, both bool) (rights kvclient.Permissions, err error) {
	switch canonical := path.Clean("/" + pattern); {
	case pattern == "":
		return rights, &usageError{text: "path required", hint: "--path '/app/*' is all below /app"}
	case canonical != pattern:
		return rights, &usageError{text: fmt.Sprintf("Not canonical path; please use `--path=%s`", canonical)}
	}
	chosen := 0
	for _, flag := range []bool{read, write, both} {
		if flag {
			chosen++
		}
	}
	if chosen != 1 {
		return rights, &usageError{text: "Please specify exactly one of --read, --write or --readwrite"}
	}
	if read || both {
		rights.KV.Read = []string{pattern}
	}
	if write || both {
		rights.KV.Write = []string{pattern}
	}
	return rights, nil
}

// noun is a command that only groups others.
func noun(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, GroupID: groupAccess,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

// onlyName returns the one argument, the name of a user or role.
func onlyName(args []string, what string) (string, error) {
	if len(args) == 0 || args[0] == "" {
		return "", &usageError{text: what + " required"}
	}
	return args[0], noMoreWords(args, 1)
}

// noMoreWords refuses arguments after the first n.
func noMoreWords(args []string, n int) error {
	if len(args) <= n {
		return nil
	}
	return &usageError{text: fmt.Sprintf("unexpected argument %q", args[n]), hint: "add --help for what the command takes"}
}
