package speaker

import "testing"

func TestOnlyWhatCannotBeEqualIsNormalised(t *testing.T) {
	for body, want := range map[string]string{
		`{"key":"/q/00000000000000000012","modifiedIndex":12,"createdIndex":9}`: `{"key":"/q/in-order+2","modifiedIndex":+2,"createdIndex":-1}`,
		`{"cause":"[7 != 11] [a != b]","index":0}`:                              `{"cause":"[-3 != +1] [a != b]","index":0}`,
		`the requested history has been cleared [111/11]`:                       `the requested history has been cleared [+101/+1]`,
		`{"expiration":"2030-01-02T03:04:05.5Z","ttl":99}`:                      `{"expiration":"TIME","ttl":100}`,
		`{"expiration":"2030-01-02T03:04:05.50Z","ttl":2}`:                      `{"expiration":"2030-01-02T03:04:05.50Z","ttl":soon}`,
		`{"id":"a1","name":"one","peerURLs":["http://127.0.0.1:2380"]}`:         `{"id":"ID","name":"NAME","peerURLs":["ADDRESS"]}`,
		`{"value":"12","ttl":0}`:                                                `{"value":"12","ttl":0}`,
	} {
		if got := NormalBody(body, 10); got != want {
			t.Errorf("%s\n got %s\nwant %s", body, got, want)
		}
	}
}
