package invite

import (
	"reflect"
	"strings"
	"testing"
)

const (
	token = "0123456789abcdef0123456789abcdef"
	ca    = token + token
)

func TestALineSaysWhomToAskAndTrust(t *testing.T) {
	for line, want := range map[string]Invitation{
		"http://10.0.0.1:2380,token=" + token:                                          {Peers: []string{"http://10.0.0.1:2380"}, Token: token},
		"https://n1:2380,https://[::1]:2380,token=" + token + ",ca=" + ca + ",name=n4": {Peers: []string{"https://n1:2380", "https://[::1]:2380"}, Token: token, CA: ca, Name: "n4"},
	} {
		got, err := Parse(" " + line + "\n")
		if err != nil || !reflect.DeepEqual(got, want) || got.String() != line {
			t.Errorf("%s: %+v %q, %v", line, got, got, err)
		}
	}
}

func TestWhatIsNoInvitationIsRefusedWithoutShowingTheToken(t *testing.T) {
	for line, want := range map[string]string{
		"":                                                           "part 1 is not one of an invitation",
		"token=" + token:                                             "names no member",
		"http://10.0.0.1:2380":                                       "no token",
		"http://10.0.0.1,token=" + token:                             "with a port",
		"http://10.0.0.1:1/x,token=" + token:                         "no peer URL",
		"ftp://10.0.0.1:1,token=" + token:                            "no peer URL",
		"http://u:p@10.0.0.1:1,token=" + token:                       "no peer URL",
		"http://a:1,https://b:1,token=" + token:                      "http and members that speak https",
		"http://a:1,token=" + token + ",ca=" + ca:                    "plain http",
		"http://a:1,token=" + token + "00":                           "part 2",
		"http://a:1,token=" + token + ",token=" + token:              "part 3",
		"http://a:1,token=" + token + ",color=red":                   "part 3",
		strings.Repeat("http://a:1,", peersMax+1) + "token=" + token: "more than 16 members",
		strings.Repeat("http://a:1,", lineMax) + "token=" + token:    "at most",
	} {
		_, err := Parse(line)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) {
			t.Errorf("%.60s: %v, want %q", line, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("http://10.0.0.1:2380,token=" + token)
	f.Add("https://n1:2380,https://[::1]:2380,token=" + token + ",ca=" + ca + ",name=n4")
	f.Fuzz(func(t *testing.T, line string) {
		i, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(i.String())
		if err != nil || !reflect.DeepEqual(i, again) {
			t.Errorf("%q: %+v, again %+v, %v", line, i, again, err)
		}
	})
}
