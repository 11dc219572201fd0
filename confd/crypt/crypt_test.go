package crypt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/kvd-io/kvd/confd/crypt"
)

func newKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("kvd", "", "kvd@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// written returns a file of what write writes, armored.
func written(t testing.TB, kind string, write func(io.Writer) error) string {
	t.Helper()
	var text bytes.Buffer
	w, err := armor.Encode(&text, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keyring.asc")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func keyring(t testing.TB, key *openpgp.Entity) *crypt.Keyring {
	t.Helper()
	ring, err := crypt.Read(written(t, openpgp.PrivateKeyType, func(w io.Writer) error { return key.SerializePrivateWithoutSigning(w, nil) }))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// encrypted returns content as crypt encrypts it, but for the gzip.
func encrypted(t testing.TB, key *openpgp.Entity, content []byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := openpgp.Encrypt(&b, []*openpgp.Entity{key}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestAValueIsDecryptedAgainAndAgain(t *testing.T) {
	key := newKey(t)
	ring := keyring(t, key)
	for _, want := range []string{"", "secret", strings.Repeat("long ", 100_000)} {
		value := encrypted(t, key, gzipped(want))
		for range 2 {
			if got, err := ring.Decrypt(value); got != want || err != nil {
				t.Errorf("%.20q, %v; want %.20q", got, err, want)
			}
		}
		lines := value[:20] + "\n" + value[20:] + "\r\n" // as base64 writes it
		if got, err := ring.Decrypt(lines); got != want || err != nil {
			t.Errorf("in lines: %.20q, %v; want %.20q", got, err, want)
		}
	}
}

func TestWhatCannotBeDecryptedIsAnErrorWithoutTheValue(t *testing.T) {
	key := newKey(t)
	ring := keyring(t, key)
	whole := encrypted(t, key, gzipped("secret"))
	raw, _ := base64.StdEncoding.DecodeString(whole)
	raw[len(raw)-3] ^= 1
	for name, c := range map[string]struct{ value, want string }{
		"plain":       {"plain-secret", "not base64"},
		"empty":       {"", "not base64"},
		"other text":  {base64.StdEncoding.EncodeToString([]byte("plain-secret")), "cannot be decrypted"},
		"cut off":     {whole[:len(whole)/2], "cannot be decrypted"},
		"changed":     {base64.StdEncoding.EncodeToString(raw), "cannot be decrypted"},
		"another key": {encrypted(t, newKey(t), gzipped("secret")), "cannot be decrypted"},
		"not gzipped": {encrypted(t, key, []byte("secret")), "not gzipped"},
		"a bomb":      {encrypted(t, key, gzipped(strings.Repeat("\x00", 17<<20))), "larger than 16 MiB"},
	} {
		got, err := ring.Decrypt(c.value)
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v; want an error with %q", name, got, err, c.want)
		}
	}
}

func TestAFileThatIsNoKeyringSaysSo(t *testing.T) {
	key := newKey(t)
	locked := newKey(t)
	if err := locked.EncryptPrivateKeys([]byte("passphrase"), nil); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/nonexistent/keys": "no such file",
		text:                "gpg --armor --export-secret-keys",
		written(t, openpgp.PublicKeyType, key.Serialize):                                                                     "no secret key",
		written(t, openpgp.PrivateKeyType, func(w io.Writer) error { return locked.SerializePrivateWithoutSigning(w, nil) }): "without a passphrase",
	} {
		if _, err := crypt.Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}

// FuzzDecrypt: whatever the store holds, there is an answer.
func FuzzDecrypt(f *testing.F) {
	key := newKey(f)
	ring := keyring(f, key)
	f.Add(encrypted(f, key, gzipped("secret")))
	f.Add(encrypted(f, key, []byte("secret")))
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if text, err := ring.Decrypt(value); err != nil && text != "" {
			t.Errorf("%q with an error", text)
		}
	})
}
