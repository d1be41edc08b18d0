package ternion

import (
	"strings"
	"testing"
)

func TestEndpoints(t *testing.T) {
	ca := Config{CAFile: "ca.pem"}
	for _, good := range []struct {
		endpoint string
		config   Config
		want     target
	}{
		{"http://127.0.0.1:50051", Config{}, target{name: "dns:///127.0.0.1:50051"}},
		{"http://127.0.0.1:50051/", Config{}, target{name: "dns:///127.0.0.1:50051"}},
		{"http://[::1]:50051", Config{}, target{name: "dns:///[::1]:50051"}},
		{"host:50051", Config{}, target{name: "dns:///host:50051"}},
		{"host:50051", Config{TLS: true}, target{name: "dns:///host:50051", tls: true}},
		{"host:50051", ca, target{name: "dns:///host:50051", tls: true}},
		{"https://host", Config{}, target{name: "dns:///host:443", tls: true}},
		{"https://[::1]", Config{}, target{name: "dns:///[::1]:443", tls: true}},
		{"https://host:8443", ca, target{name: "dns:///host:8443", tls: true}},
		{"dns:///host:50051", Config{}, target{name: "dns:///host:50051", balanced: true}},
		{"dns:///host:50051", ca, target{name: "dns:///host:50051", tls: true, balanced: true}},
	} {
		if got, err := parseEndpoint(good.endpoint, &good.config); got != good.want || err != nil {
			t.Errorf("%s: %+v, %v", good.endpoint, got, err)
		}
	}
}

func TestMistakesAreFoundBeforeTheFirstCall(t *testing.T) {
	for _, wrong := range []struct {
		endpoint string
		config   Config
		want     string
	}{
		{"", Config{}, "not of the form host:port"},
		{"host", Config{}, "not of the form host:port"},
		{":50051", Config{}, "the host is missing"},
		{"host:", Config{}, "the port is missing"},
		{"http://host", Config{}, "not of the form host:port"},
		{"dns:///host", Config{}, "not of the form host:port"},
		{"dns://8.8.8.8/host:1", Config{}, "dns"},
		{"grpc://host:1", Config{}, `scheme "grpc"`},
		{"http://host:port", Config{}, "invalid port"},
		{"http://user@host:1", Config{}, "only a scheme"},
		{"http://host:1/v1", Config{}, "only a scheme"},
		{"http://host:1?a=b", Config{}, "only a scheme"},
		{"http://host:1", Config{TLS: true}, "http has no TLS"},
		{"http://host:1", Config{CAFile: "ca.pem"}, "http has no TLS"},
		{"https://host", Config{CAFile: "/nowhere/ca.pem"}, "CAFile: open /nowhere/ca.pem"},
		{"https://host", Config{CAFile: "endpoint_test.go"}, "CAFile: no certificate in"},
		{"https://host", Config{CertificateFile: "a.pem"}, "CertificateFile and KeyFile go together"},
		{"http://host:1", Config{KeyFile: "a.pem"}, "CertificateFile and KeyFile go together"},
		{"https://host", Config{CertificateFile: "/nowhere/a", KeyFile: "/nowhere/b"}, "open /nowhere/a"},
	} {
		client, err := Connect(wrong.endpoint, wrong.config)
		if err == nil {
			_ = client.Close()
			t.Errorf("%q with %+v is taken", wrong.endpoint, wrong.config)
		} else if !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%q with %+v: %v", wrong.endpoint, wrong.config, err)
		}
	}
}
