package daemon

import (
	"log/slog"
	"strings"

	"github.com/kvd-io/kvd/pkg/program"
)

// elsewhere is a group of flags of etcd that kvd does not have. The page about moving from etcd shows it.
type elsewhere struct {
	names    string // without dashes, separated by spaces
	harmless bool   // without it everything is as whoever gives it expects
	advice   string // what takes its place, or why none is needed
}

// flagsOfEtcd are those of etcd 0.4 to 3.6.
var flagsOfEtcd = []elsewhere{
	{"enable-v2 v2-deprecation experimental-enable-v2v3", true, "leave it out: the v2 API is what kvd serves"},
	{"snapshot-count snapshot-catchup-entries experimental-snapshot-catchup-entries", true, "leave it out: kvd folds its log into a snapshot by the bytes in it and by time"},
	{"max-snapshots max-wals", true, "leave it out: kvd keeps two snapshots and the log that goes with them, and removes what is older"},
	{"wal-dir", false, "leave it out: log and snapshots are in --data-dir together; have that on the faster disk"},
	{"auto-compaction-mode auto-compaction-retention experimental-compaction-batch-limit experimental-compaction-sleep-interval", true, "leave it out: there are no old revisions; watches have the last events"},
	{"backend-batch-interval backend-batch-limit backend-bbolt-freelist-type experimental-bootstrap-defrag-threshold-megabytes", true, "leave it out: there is no database file, and nothing to defragment"},
	{"strict-reconfig-check", true, "leave it out: a change that would lose the quorum is refused, unless whoever makes it accepts that"},
	{"pre-vote initial-election-tick-advance", true, "leave it out: it is always so that a member which starts or comes back disturbs no leader"},
	{"raft-read-timeout raft-write-timeout", true, "leave it out: how long members wait for each other follows what is measured"},
	{"logger", true, "leave it out: there is one; --log-format says which form it writes"},
	{"debug log-package-levels", false, "use --log-level debug"},
	{"log-output log-outputs", false, "leave it out: the log goes to stderr, and the service manager takes it from there"},
	{"enable-log-rotation log-rotation-config-json", false, "leave it out: the log goes to stderr; whoever keeps it rotates it"},
	{"config-file", false, "use --config, a yaml, toml or json file with the names of kvd's flags"},
	{"proxy proxy-failure-wait proxy-refresh-interval proxy-dial-timeout proxy-read-timeout proxy-write-timeout", false, "leave it out: there is no proxy mode; give clients all members as endpoints"},
	{"discovery-fallback discovery-proxy discovery-token discovery-endpoints", false, "leave it out: there is no discovery service; name the members with --initial-cluster, or by the DNS with --discovery-srv"},
	{"listen-client-http-urls", false, "use --listen-client-urls: all of it is HTTP"},
	{"listen-metrics-urls", false, "leave it out: /metrics and /health are at --listen-client-urls"},
	{"metrics", true, "leave it out: /metrics has all there is"},
	{"enable-pprof", false, "leave it out: kvd serves no profiles"},
	{"ca-file", false, "use --trusted-ca-file"},
	{"peer-ca-file", false, "use --peer-trusted-ca-file"},
	{"client-cert-file client-key-file peer-client-cert-file peer-client-key-file", false, "leave it out: a member that calls another shows --peer-cert-file"},
	{"client-cert-allowed-cn client-cert-allowed-hostname", false, "use --client-cert-cn-as-user: access control says what each of them may do"},
	{"peer-skip-client-san-verification experimental-peer-skip-client-san-verification", true, "leave it out: where a member calls from is not compared with its certificate"},
	{"self-signed-cert-validity", false, "leave it out: kvctl cert makes certificates"},
	{"cipher-suites tls-max-version", false, "leave it out: no weak ciphers are spoken, and they cannot be chosen; --tls-min-version TLS1.3 has the strictest"},
	{"auth-token auth-token-ttl bcrypt-cost", true, "leave it out: clients of the v2 API send user and password with each request"},
	{"enable-grpc-gateway grpc-keepalive-min-time grpc-keepalive-interval grpc-keepalive-timeout max-txn-ops max-concurrent-streams experimental-watch-progress-notify-interval experimental-enable-lease-checkpoint experimental-enable-lease-checkpoint-persist experimental-txn-mode-write-with-shared-buffer", true, "leave it out: it is about the v3 API, which kvd does not serve"},
	{"experimental-initial-corrupt-check experimental-corrupt-check-time experimental-compact-hash-check-enabled experimental-compact-hash-check-time", true, "leave it out: members compare what they hold every minute"},
	{"experimental-warning-apply-duration experimental-warning-unary-request-duration warning-apply-duration", true, "leave it out: kvctl doctor and the metrics show a slow disk"},
	{"experimental-enable-distributed-tracing experimental-distributed-tracing-address experimental-distributed-tracing-service-name experimental-distributed-tracing-instance-id experimental-distributed-tracing-sampling-rate", false, "leave it out: kvd sends no traces"},
	{"experimental-memory-mlock", false, "leave it out: kvd does not pin its memory; turn swap off where that matters"},
	{"socket-reuse-port socket-reuse-address", true, "leave it out: a port belongs to one kvd"},
	{"unsafe-no-fsync", false, "leave it out: a write is answered when it is on disk"},
	{"addr", false, "use --advertise-client-urls, with http:// before it"},
	{"bind-addr", false, "use --listen-client-urls, with http:// before it"},
	{"peer-addr", false, "use --initial-advertise-peer-urls, with http:// before it"},
	{"peer-bind-addr", false, "use --listen-peer-urls, with http:// before it"},
	{"peers peers-file", false, "use --initial-cluster, with a name for each: n1=http://10.0.0.1:2380"},
	{"peer-election-timeout", false, "use --election-timeout"},
	{"peer-heartbeat-interval", false, "use --heartbeat-interval"},
}

// advice returns what there is to say about each flag of flagsOfEtcd.
func advice() map[string]string {
	said := map[string]string{}
	for _, group := range flagsOfEtcd {
		for name := range strings.FieldsSeq(group.names) {
			said[name] = group.advice
		}
	}
	return said
}

// harmless reports whether a flag of etcd may be left out without a word.
func harmless(flag string) bool {
	for _, group := range flagsOfEtcd {
		for name := range strings.FieldsSeq(group.names) {
			if name == flag {
				return group.harmless
			}
		}
	}
	return false
}

// tellUnused tells of the variables that were meant for this program and set nothing.
func tellUnused(log *slog.Logger, unused []program.UnusedVariable) {
	said := advice()
	var wrong, needless []string
	for _, v := range unused {
		switch {
		case harmless(v.Flag):
			needless = append(needless, v.Name)
		case said[v.Flag] != "":
			wrong = append(wrong, v.Name+" ("+said[v.Flag]+")")
		case v.Meant != "":
			wrong = append(wrong, v.Name+" (did you mean "+v.Meant+"?)")
		default:
			wrong = append(wrong, v.Name)
		}
	}
	if len(wrong) > 0 {
		log.Warn("environment variables that have no effect", "variables", strings.Join(wrong, ", "))
	}
	if len(needless) > 0 {
		log.Info("environment variables that kvd has no need of", "variables", strings.Join(needless, ", "))
	}
}
