package ternion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// apiKey goes with every stream of the connection, that of health checks too.
type apiKey string

func (key apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(key)}, nil
}

// RequireTransportSecurity is false because TLS may end elsewhere: on loopback
// or in a mesh.
func (apiKey) RequireTransportSecurity() bool {
	return false
}

func transportCredentials(encrypted bool, config *Config) (credentials.TransportCredentials, error) {
	if (config.CertificateFile == "") != (config.KeyFile == "") {
		return nil, errors.New("CertificateFile and KeyFile go together")
	}
	if !encrypted {
		return insecure.NewCredentials(), nil
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CAFile: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CAFile: no certificate in %s", config.CAFile)
		}
	}
	if config.CertificateFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(config.CertificateFile, config.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("CertificateFile, KeyFile: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return load()
		}
	}
	return credentials.NewTLS(settings), nil
}
