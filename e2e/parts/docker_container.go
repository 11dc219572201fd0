package parts

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// containerLabel marks what tests have started: docker ps --filter label=kvd-test
const containerLabel = "kvd-test"

// serve is what a container of BusyboxImage runs: an HTTP server that answers with the
// container's host name on every port in $PORTS, and ends at once when it is told to.
const serve = `trap 'exit 0' TERM INT; hostname >/www/index.html
for port in ${PORTS:-80}; do httpd -f -p "$port" -h /www & done; wait`

// BusyboxImage returns the name of an image made from this machine's static busybox, for an engine
// that may pull nothing. Its containers serve HTTP on port 80, or on each of $PORTS, and answer
// with their host name. It exposes no port by itself.
func BusyboxImage(t testing.TB) string {
	t.Helper()
	Docker(t)
	path := Path(t, "busybox")
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(binary, serve...))
	name := "kvd-test/busybox:" + hex.EncodeToString(sum[:6])
	if _, err := docker(nil, "image", "inspect", name); err == nil {
		return name
	}
	layer, err := busyboxLayer(binary)
	if err != nil {
		t.Fatal(err)
	}
	// Another test process may import the same image at the same time: both get the same name.
	if output, err := docker(layer, "import", "-c", `CMD ["/bin/sh", "/serve"]`, "-", name); err != nil {
		t.Fatalf("cannot make an image of %s: %v\n%s", path, err, output)
	}
	return name
}

func busyboxLayer(binary []byte) ([]byte, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	add := func(header tar.Header, data []byte) error {
		header.Size = int64(len(data))
		if err := archive.WriteHeader(&header); err != nil {
			return err
		}
		_, err := archive.Write(data)
		return err
	}
	for _, folder := range []string{"bin/", "www/", "tmp/", "etc/"} {
		if err := add(tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o777}, nil); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, binary); err != nil {
		return nil, err
	}
	for _, applet := range []string{"sh", "httpd", "hostname", "sleep", "cat", "wget", "nc", "kill", "true", "false", "test"} {
		if err := add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Name: "serve", Typeflag: tar.TypeReg, Mode: 0o755}, []byte(serve)); err != nil {
		return nil, err
	}
	err := archive.Close()
	return layer.Bytes(), err
}

// RunContainer does `docker run -d OPTIONS IMAGE COMMAND` with BusyboxImage and returns the
// container's full ID. The container is removed when t ends. No command: the HTTP server.
func RunContainer(t testing.TB, options []string, command ...string) string {
	t.Helper()
	args := append([]string{"run", "-d", "--label", containerLabel}, options...)
	args = append(append(args, BusyboxImage(t)), command...)
	output, err := docker(nil, args...)
	id := strings.TrimSpace(output)
	if err != nil {
		// The container may exist although it did not start; its ID is then the first line.
		if first, _, _ := strings.Cut(id, "\n"); len(first) == 64 {
			docker(nil, "rm", "-f", first)
		}
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	t.Cleanup(func() {
		if output, err := docker(nil, "rm", "-f", "-v", id); err != nil && !strings.Contains(output, "No such container") {
			t.Errorf("docker rm -f %s: %v\n%s", id, err, output)
		}
	})
	return id
}

// DockerCommand runs the docker program with args, fails t if that fails, and returns what it
// printed without surrounding space.
func DockerCommand(t testing.TB, args ...string) string {
	t.Helper()
	Docker(t)
	output, err := docker(nil, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(output)
}

// docker runs the docker program. On failure the output includes what it wrote to stderr.
func docker(stdin []byte, args ...string) (string, error) {
	program, err := lookPath("docker")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}
