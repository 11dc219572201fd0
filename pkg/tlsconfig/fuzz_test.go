package tlsconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// goodFiles returns the contents of files that belong together.
func goodFiles(f *testing.F) (contents [whats][]byte) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "n1"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte("n1"), DNSNames: []string{"localhost"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), NextUpdate: time.Unix(1<<33, 0), RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Unix(0, 0)}},
	}, template, key)
	if err != nil {
		f.Fatal(err)
	}
	for i, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: cert}, {Type: "PRIVATE KEY", Bytes: private}, {Type: "CERTIFICATE", Bytes: cert}, {Type: "X509 CRL", Bytes: list}} {
		contents[i] = pem.EncodeToMemory(block)
	}
	return contents
}

// FuzzFiles: each of the files may hold anything; what comes of it is complete or an error, and takes
// memory in proportion.
func FuzzFiles(f *testing.F) {
	good := goodFiles(f)
	for _, data := range good {
		f.Add(data)
		if block, _ := pem.Decode(data); block != nil {
			f.Add(block.Bytes)
		}
	}
	config := Config{Files: Files{Cert: "cert", Key: "key", CA: "ca", CRL: "crl"}}.withDefaults()
	w := &watched{config: config, usage: x509.ExtKeyUsageServerAuth}
	if m, err := w.parse(good); err != nil || len(m.revoked) != 1 {
		f.Fatalf("%+v, %v", m, err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for i := range good {
			contents := good
			contents[i] = data
			var m *material
			var err error
			fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() { m, err = w.parse(contents) })
			if err == nil && (m.pair == nil || m.pair.Leaf == nil || m.roots == nil || m.revoked == nil) {
				t.Errorf("%v gave %+v", What(i), m)
			}
		}
	})
}
