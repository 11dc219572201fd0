package systemd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// read parses the texts as the files /1, /2 ... of app@1.service and returns its labels, one a line and
// sorted, and its problems.
func read(texts ...string) (labels, problems string) {
	var files []file
	for i, text := range texts {
		files = append(files, file{path: fmt.Sprintf("/%d", i+1), text: []byte(text)})
	}
	p := parse(files, expander("my-app@a-b.service", "node1.example.org"))
	var lines []string
	found := p.labels("my-app")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		lines = append(lines, name+"="+found[name])
	}
	return strings.Join(lines, "\n"), strings.Join(p.problems, "\n")
}

func TestSectionsBecomeLabels(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"the service is named after the unit": {[]string{"[X-Kvd]\nPort=80\n"}, "kvd.my-app.port=80"},
		"other sections are systemd's":        {[]string{"[Unit]\nPort=1\n[X-Kvd]\nPort=80\n[Service]\nTags=no\n[X-Kvdx]\nPort=2\n"}, "kvd.my-app.port=80"},
		"every option": {[]string{"[X-Kvd]\nService=web\nPort=80\nId=a\nProtocol=tcp\nAddress=10.0.0.1\nFamily=4\nWeight=5\nTags=a,b\nCheck=http:/x=y\n" +
			"CheckInterval=5s\nCheckTimeout=1s\nCheckRise=2\nCheckFall=4\nUnhealthy=mark\nKeepLast=yes\nDrain=3s\nMeta=zone=eu\n"},
			"kvd.web.address=10.0.0.1\nkvd.web.check=http:/x=y\nkvd.web.check-fall=4\nkvd.web.check-interval=5s\nkvd.web.check-rise=2\nkvd.web.check-timeout=1s\n" +
				"kvd.web.drain=3s\nkvd.web.family=4\nkvd.web.id=a\nkvd.web.keep-last=yes\nkvd.web.meta.zone=eu\nkvd.web.port=80\nkvd.web.protocol=tcp\nkvd.web.tags=a,b\nkvd.web.unhealthy=mark\nkvd.web.weight=5"},
		"a section with a name is another service": {[]string{"[X-Kvd]\nPort=80\n[X-Kvd admin]\nPort=81\n[X-Kvd  x ]\nService=y\nPort=none\n"},
			"kvd.admin.port=81\nkvd.my-app.port=80\nkvd.y.port=none"},
		"what comes later counts, lists grow, nothing forgets": {[]string{"[X-Kvd]\nPort=80\nCheck=tcp\nTags=a\nMeta=k=1\nMeta=l=2\n", "[X-Kvd]\nPort=81\nCheck=\nTags=b\nMeta=k=3\n", "[X-Kvd]\nTags=c\n"},
			"kvd.my-app.meta.k=3\nkvd.my-app.meta.l=2\nkvd.my-app.port=81\nkvd.my-app.tags=a,b,c"},
		"a list can be begun anew":  {[]string{"[X-Kvd]\nPort=80\nTags=a\nMeta=k=1\n", "[X-Kvd]\nTags=\nTags=b\nMeta=\n"}, "kvd.my-app.port=80\nkvd.my-app.tags=b"},
		"lines, comments and space": {[]string{"# [X-Kvd no]\n; Port=1\n\n [X-Kvd] \r\n  Port = 80 \n Tags=a,\\\n# in between\n b\n\nCheck=exec:/bin/x \\\n  --y"}, "kvd.my-app.check=exec:/bin/x --y\nkvd.my-app.port=80\nkvd.my-app.tags=a, b"},
		"specifiers": {[]string{"[X-Kvd]\nPort=80\nMeta=a=%n %N %p %i %I %j %H %l 100%% %\n"},
			"kvd.my-app.meta.a=my-app@a-b.service my-app@a-b my-app a-b a/b app node1.example.org node1 100% %\nkvd.my-app.port=80"},
		"a unit can be left out": {[]string{"[X-Kvd]\nPort=80\n", "[X-Kvd]\nIgnore=yes\n"}, "kvd.ignore=true"},
		"or in again":            {[]string{"[X-Kvd]\nPort=80\nIgnore=true\n", "[X-Kvd]\nIgnore=no\n"}, "kvd.my-app.port=80"},
	} {
		if labels, problems := read(c.files...); labels != c.want || problems != "" {
			t.Errorf("%s:\n%s\nwant:\n%s\nproblems: %s", name, labels, c.want, problems)
		}
	}
}

func TestMistakesInSectionsAreToldWithTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		"[X-Kvd]\nPort=1\nport=2\n":                                        "/1:3: unknown setting port=; did you mean Port=?",
		"[X-Kvd]\nPort=1\nNetwork=x\n":                                     "/1:3: unknown setting Network=",
		"[X-Kvd]\nPort=1\nnonsense\n":                                      `/1:3: "nonsense" is no setting; expected NAME=VALUE`,
		"[X-Kvd]\nPort=1\nCheck=exec:%t/x\n":                               "/1:3: Check=exec:%t/x: %t is not known here; there are %n %N %p %P %i %I %j %J %H %l, and %% for a percent sign",
		"[X-Kvd]\nPort=1\nMeta=zone\n":                                     "/1:3: setting Meta=zone: must be KEY=VALUE",
		"[X-Kvd]\nPort=1\nIgnore=perhaps\n":                                "[X-Kvd]: Ignore=perhaps: must be yes or no",
		"[X-Kvd]\nCheck=tcp\n":                                             "[X-Kvd]: Port= is missing: the number of the port on which my-app answers, or none",
		"[X-Kvd a]\nService=web\nPort=1\n[X-Kvd b]\nService=web\nPort=2\n": "[X-Kvd b]: names the service web, as [X-Kvd a] does; give one of them another Service=",
		"[X-Kvd]\nPort=1\nTags=" + strings.Repeat("x", valueBytesMax+1):    "/1:3: Tags has 4097 bytes; at most 4096 are allowed",
	} {
		if _, problems := read(text); problems != want {
			t.Errorf("%q:\n%s\nwant:\n%s", text, problems, want)
		}
	}
	many := "[X-Kvd]\nPort=1\n" + strings.Repeat("Tags=a\n", settingsMax)
	if labels, problems := read(many); !strings.Contains(problems, "more than 512 settings") || !strings.Contains(labels, "port=1") {
		t.Errorf("%.100q, %.100q", labels, problems)
	}
	many = ""
	for i := range sectionsMax + 1 {
		many += fmt.Sprintf("[X-Kvd %d]\nPort=1\n", i)
	}
	if labels, problems := read(many); !strings.Contains(problems, "more than 64 sections") || strings.Count(labels, "port=1") != sectionsMax {
		t.Errorf("%.100q, %.100q", labels, problems)
	}
}

func FuzzSections(f *testing.F) {
	f.Add("[X-Kvd]\nService=web\nPort=80\nTags=a\\\n,b\nMeta=a=%i%%\n[X-Kvd b]\nPort=%I\n", "app@1.service", "node1")
	f.Add("[X-Kvd]\n=\n[", "@.", "")
	f.Fuzz(func(t *testing.T, text, unit, host string) {
		var p parsed
		fuzztest.WantBounded(t, 512*uint64(len(text))*uint64(1+len(unit)+len(host))+fuzztest.Fixed, func() {
			p = parse([]file{{path: "/f", text: []byte(text)}}, expander(unit, host))
			p.labels(partsOf(unit).prefix)
		})
		if len(p.sections) > sectionsMax {
			t.Errorf("%d sections", len(p.sections))
		}
	})
}
