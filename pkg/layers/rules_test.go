package layers

// layer says whom in this module the packages of one room may import. A pattern is a path below
// the module; with a trailing /... it means the packages under that path as well.
type layer struct {
	room string
	may  []string
	why  string
}

// plan holds every package of the module; for one that several lines match, the longest room
// counts. Imports that are not listed are forbidden.
var plan = []layer{
	{"cmd/kvd", []string{"daemon", "pkg/program"}, "a main hands the flags to one library and exits with its code"},
	{"cmd/kvctl", []string{"ctl", "pkg/program"}, "a main hands the flags to one library and exits with its code"},
	{"cmd/kvsidekick", []string{"sidekick", "pkg/program"}, "a main hands the flags to one library and exits with its code"},
	{"cmd/kvagent", []string{"agent", "pkg/program"}, "a main hands the flags to one library and exits with its code"},
	{"cmd/kvconfd", []string{"confd", "pkg/program"}, "a main hands the flags to one library and exits with its code"},

	{"daemon", []string{"daemon/...", "pkg/..."}, "it composes the rooms of the daemon; agents reach a store over the network only"},
	{"daemon/command", []string{"pkg/kv"}, "what the log holds must mean the same in ten years, whatever the rest becomes"},
	{"daemon/store", []string{"daemon/command", "pkg/kv", "pkg/snapfile"}, "members stay equal only while apply depends on its input alone"},
	{"daemon/watch", []string{"daemon/store", "daemon/command", "pkg/kv"}, "the hub reads changes; it neither makes nor transports them"},
	{"daemon/peer", []string{"pkg/backoff", "pkg/pace"}, "connections carry bytes; what members tell each other is a matter of those who tell it"},
	{"daemon/wal", nil, "what is on disk must not depend on what it is for"},
	{"daemon/raftnode", []string{"daemon/command", "daemon/wal", "daemon/peer", "daemon/raftnode/...", "pkg/..."}, "it replicates bytes for a Machine and must not know what they mean"},
	{"daemon/service", []string{"daemon/raftnode", "daemon/watch", "daemon/store", "daemon/command", "pkg/..."}, "operations are free of any API, so that all APIs agree"},
	{"daemon/route", nil, "a table of paths and of whom they are for; what stands behind a path is a matter of its room"},
	{"daemon/httpv2", []string{"daemon/route", "daemon/service", "pkg/..."}, "an API translates; what it decided alone, the next API would decide differently"},
	{"daemon/grpcv3", []string{"daemon/service", "pkg/..."}, "an API translates; what it decided alone, the next API would decide differently"},
	{"daemon/admin", []string{"daemon/route", "daemon/service", "pkg/..."}, "operators see what the service tells, not the insides"},
	{"daemon/backup", []string{"daemon/route", "pkg/etcdv2"}, "it carries bytes to where they are safe, whatever they mean"},
	{"daemon/dashboard", []string{"daemon/service", "pkg/..."}, "the pages speak the public API"},
	{"daemon/daemontest", []string{"daemon", "pkg/..."}, "tests start the daemon as its program does"},

	{"ctl", []string{"ctl/...", "pkg/...", "templates/..."}, "a client works against any store, so it cannot know the daemon"},
	{"sidekick", []string{"sidekick/...", "pkg/..."}, "agents share libraries, never each other"},
	{"agent", []string{"agent/...", "pkg/..."}, "agents share libraries, never each other"},
	{"agent/nameserver", []string{"pkg/catalog", "pkg/mirror", "pkg/registry", "pkg/backoff", "pkg/listening"}, "it answers from a catalog, wherever that comes from, and asks nobody"},
	{"agent/gateway", []string{"pkg/kvclient", "pkg/etcdv2", "pkg/kv", "pkg/pace", "pkg/backoff", "pkg/listening"}, "it passes on requests; what is registered, and by whom, is not its matter"},
	{"confd", []string{"confd/...", "pkg/...", "templates/..."}, "agents share libraries, never each other"},
	{"confd/keys", []string{"confd/resource", "confd/keys/etcdv3", "pkg/kvclient", "pkg/kv", "pkg/backoff"}, "it brings keys; what is made of them is not its matter"},
	{"confd/keys/etcdv3", []string{"pkg/kvclient", "pkg/kv", "pkg/tlsconfig"}, "it reads a store; who keeps what it has read is not its matter"},
	{"confd/proxy", nil, "how a program takes up a file does not depend on where the file comes from"},

	{"confd/install", nil, "bytes, files and commands are the same whoever made them"},
	{"confd/render", []string{"pkg/kv", "pkg/registry", "pkg/spelling"}, "what a template makes of keys does not depend on where they come from"},
	{"confd/resource", []string{"confd/install", "pkg/kv", "pkg/spelling"}, "what is wanted is read; doing it is for others"},
	{"confd/crypt", nil, "a value is decrypted the same whoever keeps it and asks for it"},
	{"confd/guard", nil, "a decision about counts and times has to know nothing else"},
	{"confd/starter", []string{"templates", "confd/resource", "pkg/spelling"}, "it fits files to a machine; what kvconfd makes of them is not its matter"},
	{"confd/report", []string{"pkg/..."}, "it says what it was told; how a target gets there is the loop's matter"},

	{"pkg", []string{"pkg/..."}, "libraries are below every program"},
	{"pkg/kv", nil, "the one shared contract: words that everybody knows know nobody"},
	{"pkg/kv/kvfake", []string{"pkg/kv"}, "a fake that needed more than the contract would prove another contract"},
	{"pkg/kv/kvtest", []string{"pkg/kv"}, "one suite for every Store can use only what all of them have"},
	{"pkg/etcdv2", []string{"pkg/kv"}, "wire forms translate the vocabulary and nothing else"},
	{"pkg/kvclient", []string{"pkg/kvclient/...", "pkg/etcdv2", "pkg/kv", "pkg/backoff", "pkg/pace", "pkg/clock", "pkg/discovery", "pkg/tlsconfig", "pkg/program"}, "a client knows the wire, not what its users keep there"},
	{"pkg/kvclient/etcdtest", []string{"e2e/parts", "pkg/..."}, "it starts a real part for tests"},
	{"pkg/workload/files", []string{"pkg/workload", "pkg/fuzztest"}, "it reads what is written, whoever acts on it"},
	{"pkg/workload/docker/dockertest", nil, "an engine for tests speaks the API, whoever asks it"},
	{"pkg/fuzztest", nil, "how much a parser takes is measured the same whatever it parses"},
	{"pkg/mirror", []string{"pkg/kvclient", "pkg/kv", "pkg/backoff"}, "a copy of keys is the same whatever they mean"},
	{"pkg/catalog", []string{"pkg/mirror", "pkg/kvclient", "pkg/kv", "pkg/registry"}, "what the store says of services does not depend on who asks"},
	{"pkg/tlsconfig", nil, "who may speak to whom is the same whatever is spoken"},
	{"pkg/certs", []string{"pkg/tlsconfig"}, "an authority signs; it connects to nobody"},
	{"pkg/program", []string{"pkg/spelling", "pkg/printable"}, "the life of a process is the same whatever the process does"},
	{"pkg/spelling", nil, "letters need nobody"},
	{"pkg/printable", nil, "letters need nobody"},
	{"pkg/pace", nil, "time passes for everybody alike"},
	{"pkg/discovery", nil, "what the DNS says of a cluster is the same for members and for clients"},
	{"pkg/discovery/dnstest", nil, "a server of names for tests knows names"},
	{"pkg/health", nil, "whether something answers does not depend on what it is for"},
	{"pkg/override", []string{"pkg/registry", "pkg/kv", "pkg/kvclient", "pkg/mirror", "pkg/backoff"}, "a wish is kept; what follows from it is decided by who registers"},
	{"pkg/registrar", []string{"pkg/registry", "pkg/health", "pkg/override", "pkg/workload", "pkg/mirror", "pkg/kvclient", "pkg/kv"}, "it decides about offers, wherever they come from"},
	{"pkg/registrar/local", []string{"pkg/registrar", "pkg/registry", "pkg/health", "pkg/override", "pkg/workload", "pkg/unixsocket", "pkg/kv"}, "it shows and passes on; what it decided alone, the key would decide differently"},
	{"pkg/unixsocket", []string{"pkg/kv"}, "who talks over a socket of this host need not know about what"},
	{"pkg/listening", []string{"pkg/pace", "pkg/fuzztest"}, "where a server listens does not depend on what it answers"},
	{"pkg/agentstatus", []string{"pkg/kv"}, "what an agent says of itself is read by who knows no agent"},
	{"pkg/invite", nil, "a line of text needs nobody"},
	{"pkg/snapfile", nil, "the form of a file outlives those who write and read it"},
	{"pkg/layers", nil, "it reads sources"},
	{"templates", nil, "files and the folder that embeds them"},
	{"units", nil, "files and the tests that verify them"},
	{"e2e", []string{"e2e/...", "pkg/..."}, "black boxes are tried from outside"},
	{"e2e/converge", []string{"confd", "e2e/...", "pkg/...", "templates/..."}, "what is to be killed between two steps has to say where it is"},
	{"e2e/asconfd", []string{"e2e/...", "pkg/..."}, "black boxes are tried from outside"},
}

// testsMayAlso is open to every test file: real daemons, fakes and parts are for tests.
var testsMayAlso = []string{"daemon/daemontest", "e2e/parts", "e2e/speaker", "pkg/..."}

// testOnly packages ship in no binary: they are imported by tests and by each other.
var testOnly = []string{"daemon/daemontest", "pkg/kv/kvfake", "pkg/kv/kvtest", "pkg/kvclient/etcdtest", "pkg/discovery/dnstest", "pkg/fuzztest", "pkg/workload/docker/dockertest", "e2e/..."}

// wall keeps one library in the rooms that were made for it.
type wall struct {
	module string // import path; what is below it is meant as well
	rooms  []string
	why    string
}

var walls = []wall{
	{"github.com/spf13/viper", []string{"pkg/program"}, "one place decides where settings come from"},
	{"github.com/spf13/cobra", []string{"pkg/program", "daemon", "ctl/...", "sidekick", "agent", "confd"}, "commands are the edge of a program; rooms behind it take structs"},
	{"github.com/hashicorp/raft", []string{"daemon/raftnode/...", "daemon/wal", "daemon"}, "the consensus library can be replaced while one room knows it"},
	{"github.com/hashicorp/raft-boltdb", []string{"daemon/raftnode/...", "daemon"}, "the stable store can be replaced while one room knows it"},
	{"github.com/godbus/dbus", []string{"pkg/workload/systemd"}, "who speaks to systemd is one room, which others ask for workloads"},
	{"github.com/BurntSushi/toml", []string{"confd/..."}, "TOML is the format of confd's resource files"},
	{"github.com/miekg/dns", []string{"pkg/discovery/dnstest", "agent/nameserver"}, "names are asked for with the standard library; messages of the DNS are for who answers them"},
	{"google.golang.org/grpc", []string{"pkg/health", "confd/keys/etcdv3"}, "it is the server of tests, and what etcd's client speaks: one call costs four megabytes less with net/http"},
	{"go.etcd.io/etcd", []string{"confd/keys/etcdv3"}, "one program reads etcd's v3 stores; nobody else pays for its client"},
	{"github.com/anishathalye/porcupine", []string{"e2e/history"}, "who judges histories is one package's choice"},
	{"github.com/prometheus", []string{"pkg/metrics", "daemon", "daemon/admin", "daemon/raftnode/...", "pkg/registrar/local", "confd/report"}, "metrics leave through one page of each program; a registrar's tests read it"},
}

// pureRooms are deterministic: two members that apply the same entries hold the same bytes.
// Time, chance and identity come to them inside the entry.
var pureRooms = []string{"daemon/store", "daemon/command"}

// impureImports cannot be had in a pure room; what is below each path is meant as well.
var impureImports = []string{
	"net", "os", "syscall", "io/fs", "io/ioutil", "log", "math/rand", "crypto/rand", "runtime", "testing",
	"golang.org/x/sys", "github.com/hashicorp/raft",
}

// impureCalls of package time read the clock or wait for it.
var impureCalls = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
