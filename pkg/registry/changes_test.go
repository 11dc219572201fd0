package registry

import "testing"

func TestAChangeIsToldByWhatDiffers(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{`{"state":"up","weight":3,"port":80}`, `{"state":"draining","port":80}`, `state "up" -> "draining", weight 3 -> none`},
		{`{"tags":["a"]}`, `{"tags":["a","b"]}`, `tags ["a"] -> ["a","b"]`},
		{`10.0.0.1:80`, `10.0.0.1:81`, `10.0.0.1:80 -> 10.0.0.1:81`},
		{`null`, `{}`, ``},
		{`x`, `x`, ``},
	} {
		if got := changes(c.before, c.after); got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.before, c.after, got, c.want)
		}
	}
}
