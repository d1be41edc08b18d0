package ternion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

func TestTLSWithKeyAndClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	var keys, names []string
	peer := &peer{list: func(ctx context.Context, _ int32) (*ternionpb.ListResponse, error) {
		keys = metadata.ValueFromIncomingContext(ctx, "authorization")
		caller, _ := grpcpeer.FromContext(ctx)
		names = caller.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].DNSNames
		return &ternionpb.ListResponse{}, nil
	}}
	serverCertificate, err := tls.LoadX509KeyPair(ca.issue(t, "server", "localhost"))
	if err != nil {
		t.Fatal(err)
	}
	address := peer.serve(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{serverCertificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    ca.pool(),
	})))
	endpoint := "https://localhost" + address[strings.LastIndex(address, ":"):]
	certificate, key := ca.issue(t, "client", "acme.example")
	config := Config{APIKey: "tn_x", CAFile: ca.file, CertificateFile: certificate, KeyFile: key, MaxRetries: -1}

	if _, err := connect(t, endpoint, config).Models(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0] != "Bearer tn_x" {
		t.Errorf("authorization %q", keys)
	}
	if len(names) != 1 || names[0] != "acme.example" {
		t.Errorf("client certificate of %q", names)
	}

	for name, change := range map[string]func(*Config){
		"an authority that nobody knows": func(config *Config) { config.CAFile = "" },
		"another authority":              func(config *Config) { config.CAFile = newAuthority(t).file },
		"no client certificate":          func(config *Config) { config.CertificateFile, config.KeyFile = "", "" },
	} {
		t.Run(name, func(t *testing.T) {
			config := config
			change(&config)
			_, err := connect(t, endpoint, config).Models(t.Context())
			if _, is := errors.AsType[*TransportError](err); !is {
				t.Errorf("%#v", err)
			}
		})
	}

	t.Run("a renewed client certificate", func(t *testing.T) {
		client := connect(t, endpoint, config)
		renewed, renewedKey := ca.issue(t, "renewed", "renewed.example")
		for from, to := range map[string]string{renewed: certificate, renewedKey: key} {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Models(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(names) != 1 || names[0] != "renewed.example" {
			t.Errorf("client certificate of %q", names)
		}
	})
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

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
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
