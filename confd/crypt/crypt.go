// Package crypt reads values that crypt has encrypted, as confd's functions cget, cgets, cgetv and cgetvs do:
// base64 of an OpenPGP message of the gzipped text.
//
// It knows the secret keys and what was decrypted with them. It knows no store and no template, encrypts nothing, and
// says nothing of a value in an error.
package crypt

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	keyringBytesMax = 16 << 20
	textBytesMax    = 16 << 20 // of a value that is decrypted: more than a store takes

	// What was decrypted is remembered, but for long texts: decrypting takes milliseconds.
	knownBytesMax = 16 << 20 // of all of them
	knownTextMax  = 64 << 10
	knownCost     = 200 // bytes that it takes to remember one beside its text
)

// Keyring decrypts with secret keys. It is safe for concurrent use.
type Keyring struct {
	keys openpgp.EntityList

	mu         sync.Mutex // guards the fields below
	known      map[[sha256.Size]byte]string
	knownBytes int
}

// Read returns the keyring in a file of armored secret keys. The error says what is wrong with the file: it cannot
// be read, holds no such keys, or none that can be used without a passphrase.
func Read(path string) (*Keyring, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("secret keyring: %w", err)
	}
	defer file.Close()
	keys, err := openpgp.ReadArmoredKeyRing(io.LimitReader(file, keyringBytesMax))
	if err != nil {
		return nil, fmt.Errorf("secret keyring %s: %w; it is to be what gpg --armor --export-secret-keys writes", path, err)
	}
	if !slices.ContainsFunc(keys, hasSecret) {
		return nil, fmt.Errorf("secret keyring %s: there is no secret key in it that works without a passphrase", path)
	}
	return &Keyring{keys: keys, known: map[[sha256.Size]byte]string{}}, nil
}

// hasSecret reports whether there is a secret key that can be used as it is.
func hasSecret(key *openpgp.Entity) bool {
	usable := func(k *packet.PrivateKey) bool { return k != nil && !k.Encrypted && !k.Dummy() }
	return usable(key.PrivateKey) || slices.ContainsFunc(key.Subkeys, func(s openpgp.Subkey) bool { return usable(s.PrivateKey) })
}

// Decrypt returns the text of an encrypted value. The error says why it cannot be had, and nothing of the value.
func (k *Keyring) Decrypt(value string) (text string, err error) {
	sum := sha256.Sum256([]byte(value))
	k.mu.Lock()
	text, known := k.known[sum]
	k.mu.Unlock()
	if known {
		return text, nil
	}
	if text, err = k.decrypt(value); err != nil {
		return "", err
	}
	if len(text) <= knownTextMax {
		k.remember(sum, text)
	}
	return text, nil
}

func (k *Keyring) remember(sum [sha256.Size]byte, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.knownBytes += len(text) + knownCost; k.knownBytes > knownBytesMax {
		clear(k.known)
		k.knownBytes = len(text) + knownCost
	}
	k.known[sum] = text
}

func (k *Keyring) decrypt(value string) (string, error) {
	// Whoever may write the value may as well write another one: it is not asked who signed it, nor how strong the key is.
	config := &packet.Config{MinRSABits: 1024}
	message, err := openpgp.ReadMessage(base64.NewDecoder(base64.StdEncoding, strings.NewReader(value)), k.keys, nil, config)
	if err != nil {
		return "", because(err)
	}
	unzipped, err := gzip.NewReader(message.UnverifiedBody)
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "", errors.New("the value cannot be decrypted: what is encrypted is not gzipped, as crypt does it")
	case err != nil:
		return "", because(err)
	}
	defer unzipped.Close()
	text, err := io.ReadAll(io.LimitReader(unzipped, textBytesMax+1)) // to its end, where it is found out whether somebody changed it
	switch {
	case err != nil:
		return "", because(err)
	case len(text) > textBytesMax:
		return "", fmt.Errorf("the value is larger than %d MiB when it is decrypted", textBytesMax>>20)
	}
	return string(text), nil
}

// because says why a value cannot be decrypted.
func because(err error) error {
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it is not base64 of an OpenPGP message, or cut off")
	}
	return fmt.Errorf("the value cannot be decrypted: %w", err)
}
