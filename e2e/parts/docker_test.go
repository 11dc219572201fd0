package parts

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestABusyboxContainerServesItsHostName(t *testing.T) {
	id := RunContainer(t, []string{"-p", "127.0.0.1::80"})
	address := DockerCommand(t, "port", id, "80/tcp")
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(10 * time.Second)
	for {
		response, err := client.Get("http://" + address + "/")
		if err == nil {
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if got := strings.TrimSpace(string(body)); response.StatusCode == http.StatusOK && got == id[:12] {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not serve its host name %s: %v", address, id[:12], err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAContainerIsGoneWhenItsTestEnds(t *testing.T) {
	var id string
	t.Run("run", func(t *testing.T) { id = RunContainer(t, nil) })
	if t.Skipped() || id == "" {
		t.Skip("no container was run")
	}
	if _, err := docker(nil, "inspect", id); err == nil {
		t.Errorf("container %s outlived its test", id)
	}
}
