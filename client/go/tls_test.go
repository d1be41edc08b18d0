package ternion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTLSWithKeysAndClientCertificates(t *testing.T) {
	ca := newAuthority(t)
	key := newKey(t)
	certificate, certificateKey := ca.issue(t, "server", "localhost")
	server := startServer(t, "127.0.0.1:0", "--tls-certificate", certificate, "--tls-key", certificateKey,
		"--tls-client-ca", ca.file, "--tenants", ca.tenants(t, key, "acme.example"))
	endpoint := "https://localhost" + server.address[strings.LastIndex(server.address, ":"):]

	config := Config{CAFile: ca.file, MaxRetries: -1}
	config.CertificateFile, config.KeyFile = ca.issue(t, "stranger", "stranger.example")
	acme := config
	acme.CertificateFile, acme.KeyFile = ca.issue(t, "acme", "acme.example")
	for name, run := range map[string]struct {
		config Config
		key    string
		cause  error
	}{
		"a known certificate":            {acme, "", nil},
		"a known key":                    {config, key, nil},
		"neither":                        {config, "", &DeniedError{}},
		"another key":                    {config, newKey(t), &DeniedError{}},
		"no certificate":                 {Config{CAFile: ca.file, MaxRetries: -1}, key, &TransportError{}},
		"an authority that nobody knows": {trusting(acme, ""), key, &TransportError{}},
		"another authority":              {trusting(acme, newAuthority(t).file), key, &TransportError{}},
	} {
		t.Run(name, func(t *testing.T) {
			run.config.APIKey = run.key
			_, err := connect(t, endpoint, run.config).Models(t.Context())
			if reflect.TypeOf(err) != reflect.TypeOf(run.cause) {
				t.Errorf("%T: %v", err, err)
			}
		})
	}

	t.Run("a renewed certificate", func(t *testing.T) {
		client := connect(t, endpoint, config)
		for from, to := range map[string]string{
			acme.CertificateFile: config.CertificateFile,
			acme.KeyFile:         config.KeyFile,
		} {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Models(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPlainTextWithAKey(t *testing.T) {
	key := newKey(t)
	server := startServer(t, "127.0.0.1:0", "--tenants", newAuthority(t).tenants(t, key, "acme.example"))
	if _, err := server.client(t, Config{APIKey: key}).Models(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := server.client(t, Config{}).Models(t.Context())
	if _, is := errors.AsType[*DeniedError](err); !is {
		t.Errorf("without a key: %v", err)
	}
}

func trusting(config Config, ca string) Config {
	config.CAFile = ca
	return config
}

// newKey is one as `ternion-server keygen` makes them.
func newKey(t *testing.T) string {
	t.Helper()
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	return "tn_" + base64.RawURLEncoding.EncodeToString(random[:])
}

// tenants writes a file of two: one with a key, one with a certificate.
func (a *authority) tenants(t *testing.T, key, dnsName string) string {
	t.Helper()
	text := fmt.Sprintf(`
[[tenants]]
name = "keyed"
[[tenants.keys]]
id = "only"
hash = "sha256:%x"

[[tenants]]
name = "certified"
[[tenants.certificates]]
san = "%s"
`, sha256.Sum256([]byte(key)), dnsName)
	file := filepath.Join(a.directory, "tenants.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// authority issues certificates of an hour.
type authority struct {
	directory   string
	file        string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := certificateOf("authority")
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	file := writePEM(t, filepath.Join(directory, "ca.pem"), "CERTIFICATE", der)
	return &authority{directory, file, certificate, key}
}

// issue gives the files of a certificate and its key.
func (a *authority) issue(t *testing.T, file, dnsName string) (certificateFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := certificateOf(dnsName)
	template.DNSNames = []string{dnsName}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, filepath.Join(a.directory, file+".pem"), "CERTIFICATE", der),
		writePEM(t, filepath.Join(a.directory, file+".key"), "PRIVATE KEY", keyDER)
}

func certificateOf(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

func writePEM(t *testing.T, file, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
