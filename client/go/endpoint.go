package ternion

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	// Calls don't go to servers that say they are not serving.
	_ "google.golang.org/grpc/health"
)

// balancedService spreads calls over all addresses of a name, and asks each
// server whether it serves: one that drains gets no calls while it still
// accepts connections.
const balancedService = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": ""}
}`

// target is an endpoint as gRPC takes it.
type target struct {
	name     string
	tls      bool
	balanced bool
}

func parseEndpoint(endpoint string, config *Config) (target, error) {
	wantsTLS := config.TLS || config.CAFile != "" || config.CertificateFile != ""
	if name, is := strings.CutPrefix(endpoint, "dns:///"); is {
		if err := checkAddress(name); err != nil {
			return target{}, endpointError(endpoint, err)
		}
		return target{name: endpoint, tls: wantsTLS, balanced: true}, nil
	}
	if !strings.Contains(endpoint, "://") {
		if err := checkAddress(endpoint); err != nil {
			return target{}, endpointError(endpoint, err)
		}
		return target{name: "dns:///" + endpoint, tls: wantsTLS}, nil
	}
	address, err := url.Parse(endpoint)
	if err != nil {
		return target{}, endpointError(endpoint, errors.Unwrap(err))
	}
	var tls bool
	switch address.Scheme {
	case "https":
		tls = true
	case "http":
		if wantsTLS {
			return target{}, endpointError(endpoint, errors.New("http has no TLS, which the configuration asks for"))
		}
	default:
		return target{}, endpointError(endpoint, fmt.Errorf("scheme %q is not http, https or dns", address.Scheme))
	}
	if address.User != nil || strings.TrimSuffix(address.Path, "/") != "" || address.RawQuery != "" || address.Fragment != "" {
		return target{}, endpointError(endpoint, errors.New("only a scheme, a host and a port can be used"))
	}
	host := address.Host
	if tls && address.Port() == "" {
		host = net.JoinHostPort(address.Hostname(), "443")
	}
	if err := checkAddress(host); err != nil {
		return target{}, endpointError(endpoint, err)
	}
	return target{name: "dns:///" + host, tls: tls}, nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		return errors.New("not of the form host:port")
	case host == "":
		return errors.New("the host is missing")
	case port == "":
		return errors.New("the port is missing")
	}
	return nil
}

func endpointError(endpoint string, cause error) error {
	return fmt.Errorf("not an endpoint: %q: %w", endpoint, cause)
}
