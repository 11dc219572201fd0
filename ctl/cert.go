package ctl

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

const (
	defaultCertDir = "certs"
	renewWithin    = 30 * 24 * time.Hour
)

func certCommand(s *settings) *cobra.Command {
	dir := defaultCertDir
	cmd := &cobra.Command{
		Use:     "cert COMMAND",
		Short:   "make the certificates of a cluster and its clients",
		GroupID: groupCerts,
		Long: `Make the certificates of a cluster and its clients.

The authority is kept in a directory of files that are for their owner alone: ca.crt, which
everybody has to trust, ca.key, which stays where it is, and ca.crl, what it has revoked. Each
certificate is a pair of files beside it, such as server-n1.crt and server-n1.key. No file is overwritten but by renew and revoke.`,
		Example: `  kvctl cert init
  kvctl cert issue server n1 --host n1.example,10.0.0.1,127.0.0.1
  kvctl cert issue peer n1 --host n1.example,10.0.0.1
  kvctl cert issue client ann
  kvctl cert show
  kvctl cert renew`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "out", dir, "`directory` of the authority, where everything is written")
	cmd.AddCommand(certInit(s, &dir), certIssue(s, &dir), certRenew(s, &dir), certRevoke(s, &dir), certShow(s, &dir))
	return cmd
}

func certInit(s *settings, dir *string) *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "init", Short: "make an authority, for ten years", RunE: s.local(func(c *session, args []string) error {
		if err := noMore(args, 0); err != nil {
			return err
		}
		ca, err := certs.Init(*dir, name, time.Now())
		if err != nil {
			return err
		}
		return c.certificate(ca.Issued(), "made")
	})}
	cmd.Flags().StringVar(&name, "name", "", "what the authority is called (default: kvd CA and a number)")
	return cmd
}

func certIssue(s *settings, dir *string) *cobra.Command {
	var hosts []string
	cmd := &cobra.Command{
		Use: "issue KIND NAME", Short: "make a certificate and its key, for one year; KIND is server, peer or client",
		Long: `Make a certificate and its key, for one year. KIND is

  server   what a member shows to clients; --host names what they call it by
  peer     what a member shows to the others; --host names what they call it by
  client   what a client shows; NAME is its user, if kvd runs with --client-cert-cn-as-user`,
		RunE: s.local(func(c *session, args []string) error {
			if len(args) < 2 {
				return &usageError{text: "kind and name required", hint: "kvctl cert issue server n1 --host n1.example,10.0.0.1"}
			}
			if err := noMore(args, 2); err != nil {
				return err
			}
			ca, err := certs.Open(*dir)
			if err != nil {
				return err
			}
			issued, err := ca.Issue(certs.Request{Kind: certs.Kind(args[0]), Name: args[1], Hosts: hosts}, time.Now())
			if err != nil {
				return err
			}
			return c.certificate(issued, "made")
		}),
	}
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "`names` and addresses that it is called by, separated by commas")
	return cmd
}

func certRenew(s *settings, dir *string) *cobra.Command {
	within := renewWithin
	cmd := &cobra.Command{
		Use: "renew [NAME]...", Short: "make certificates anew, with the same names and keys, for another year",
		Long: `Make certificates anew, with the same names and keys, for another year. NAME is that of the files,
such as server-n1, or ca. Without one, those that end soon are renewed. Programs of the suite take
a renewed file into use by themselves.`,
		RunE: s.local(func(c *session, args []string) error {
			ca, err := certs.Open(*dir)
			if err != nil {
				return err
			}
			names, now := args, time.Now()
			if len(names) == 0 {
				if names, err = ending(*dir, now.Add(within)); err != nil {
					return err
				}
				if len(names) == 0 {
					fmt.Fprintf(c.env.Stderr, "no certificate in %s ends within %v\n", *dir, within)
				}
			}
			for _, name := range names {
				renewed, err := ca.Renew(name, now)
				if err != nil {
					return err
				}
				if err := c.certificate(renewed, "renewed"); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().DurationVar(&within, "within", within, "how soon is soon")
	return cmd
}

// ending returns the names of the certificates in dir that are not valid any more at t, the
// authority's first.
func ending(dir string, t time.Time) (names []string, err error) {
	all, err := certs.List(dir)
	for _, one := range all {
		if t.After(one.NotAfter) {
			names = append(names, certs.NameOf(one.File))
		}
	}
	return names, err
}

func certRevoke(s *settings, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "put a certificate on the revocation list ca.crl, for --client-crl-file and --peer-crl-file of kvd",
		RunE: s.local(func(c *session, args []string) error {
			if len(args) == 0 {
				return &usageError{text: "name required", hint: "that of the files, such as client-ann"}
			}
			if err := noMore(args, 1); err != nil {
				return err
			}
			ca, err := certs.Open(*dir)
			if err != nil {
				return err
			}
			list, err := ca.Revoke(args[0], time.Now())
			if err != nil {
				return err
			}
			c.said(fmt.Sprintf("%s is on the list %s: copy that to every member", args[0], list), map[string]string{"name": args[0], "done": "revoked", "list": list})
			return nil
		}),
	}
}

func certShow(s *settings, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "show [FILE]...", Short: "show what is in certificates; without FILE in all of the directory",
		RunE: s.local(func(c *session, args []string) error {
			var all []certs.Issued
			for _, file := range args {
				one, err := certs.Read(file)
				if err != nil {
					return err
				}
				all = append(all, one)
			}
			if len(args) == 0 {
				var err error
				if all, err = certs.List(*dir); err != nil {
					return err
				}
			}
			for _, one := range all {
				if err := c.certificate(one, ""); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// local returns the RunE of a command that needs no store, only files.
func (s *settings) local(act func(c *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		env := program.EnvFrom(cmd.Context())
		c := &session{settings: s, printer: newPrinter(env.Stdout, s.output), env: env}
		err := act(c, args)
		if flushed := c.flush(); err == nil {
			err = flushed
		}
		if err == nil {
			return nil
		}
		trouble := diagnose(err)
		trouble.print(env.Stderr, s.output)
		return &program.ExitError{Code: trouble.Exit}
	}
}

// certificateJSON is a certificate as it is shown. Its form is part of the interface.
type certificateJSON struct {
	Done        string    `json:"done,omitempty"` // "made" or "renewed"
	File        string    `json:"file"`
	Key         string    `json:"key,omitempty"` // file of the key, if it is beside
	Subject     string    `json:"subject"`
	Hosts       []string  `json:"hosts"`
	Uses        []string  `json:"uses"` // authority, server, client
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Serial      string    `json:"serial"` // hex
	Fingerprint string    `json:"fingerprint"`
}

// certificate prints one certificate. done says what was done with it, "" for nothing.
func (c *session) certificate(one certs.Issued, done string) error {
	if c.format == asJSON {
		return json.NewEncoder(c.out).Encode(certificateJSON{
			Done: done, File: one.File, Key: one.Key, Subject: one.Subject.CommonName, Hosts: tlsconfig.Hosts(one.Certificate), Uses: uses(one.Certificate),
			Issuer: one.Issuer.CommonName, NotBefore: one.NotBefore.UTC(), NotAfter: one.NotAfter.UTC(),
			Serial: fmt.Sprintf("%x", one.SerialNumber), Fingerprint: tlsconfig.Fingerprint(one.Certificate),
		})
	}
	head := one.File
	if done != "" {
		head = done + " " + head
		if one.Key != "" && done == "made" {
			head += " and " + one.Key
		}
	}
	fmt.Fprintln(c.out, head)
	line := func(what, text string) { fmt.Fprintf(c.out, "  %-12s %s\n", what, text) }
	line("subject", one.Subject.String())
	if hosts := tlsconfig.Hosts(one.Certificate); len(hosts) > 0 {
		line("hosts", strings.Join(hosts, ", "))
	}
	line("use", strings.Join(uses(one.Certificate), ", "))
	line("issuer", one.Issuer.String())
	now, valid := time.Now(), "valid until"
	if now.After(one.NotAfter) {
		valid = "EXPIRED"
	}
	line(valid, tlsconfig.When(one.NotAfter, now))
	if now.Before(one.NotBefore) {
		line("NOT BEFORE", tlsconfig.When(one.NotBefore, now))
	}
	line("fingerprint", tlsconfig.Fingerprint(one.Certificate))
	if done == "" {
		if info, err := os.Stat(one.Key); one.Key != "" && err == nil && info.Mode().Perm()&0o037 != 0 {
			line("WARNING", fmt.Sprintf("others can use %s: chmod 600 %[1]s", one.Key))
		}
	}
	return nil
}

// uses says what a certificate may be used for.
func uses(c *x509.Certificate) []string {
	list := []string{}
	if c.IsCA {
		list = append(list, "authority")
	}
	for _, usage := range c.ExtKeyUsage {
		switch usage {
		case x509.ExtKeyUsageServerAuth:
			list = append(list, "server")
		case x509.ExtKeyUsageClientAuth:
			list = append(list, "client")
		case x509.ExtKeyUsageAny:
			list = append(list, "any")
		}
	}
	return list
}
