// Package clientflags defines, once for all programs, the flags that say how to reach the store.
// It knows their names and the environment variables that etcd's own client reads for them; what
// they mean is kvclient's matter.
package clientflags

import (
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
)

// Add defines the flags in flags, bound to cfg.
func Add(flags *pflag.FlagSet, cfg *kvclient.Config) {
	flags.StringSliceVar(&cfg.Endpoints, "endpoints", []string{kvclient.DefaultEndpoint}, "members of the store: comma-separated `URLs`, the next is tried when one fails")
	flags.StringVarP(&cfg.Username, "username", "u", "", "`user[:password]` for the store; better keep the password in --password-file or the environment")
	flags.StringVar(&cfg.PasswordFile, "password-file", "", "`file` whose first line is the password")
	flags.StringVar(&cfg.CAFile, "ca-file", "", "`file` of PEM authorities that sign the servers' certificates (default: the system's)")
	flags.StringVar(&cfg.CertFile, "cert-file", "", "`file` of the PEM client certificate")
	flags.StringVar(&cfg.KeyFile, "key-file", "", "`file` of the client certificate's key")
	flags.DurationVar(&cfg.DialTimeout, "dial-timeout", kvclient.DefaultDialTimeout, "longest wait for a connection to one endpoint")
	flags.DurationVar(&cfg.RequestTimeout, "request-timeout", kvclient.DefaultRequestTimeout, "longest wait for an answer of one endpoint")
	flags.Lookup("username").Annotations = map[string][]string{program.AnnotationSecret: nil}
}

// EnvAliases returns the variables of etcdctl that stand in for a flag, to be passed as
// program.Program.EnvAliases.
func EnvAliases() map[string][]string {
	return map[string][]string{
		"endpoints": {"ETCDCTL_ENDPOINTS", "ETCDCTL_ENDPOINT", "ETCDCTL_PEERS"},
		"username":  {"ETCDCTL_USERNAME"},
		"ca-file":   {"ETCDCTL_CA_FILE"},
		"cert-file": {"ETCDCTL_CERT_FILE"},
		"key-file":  {"ETCDCTL_KEY_FILE"},
	}
}
