package ternion

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A served model starts in a second or two, and what ends takes a moment; a busy
// CI machine gets more.
const startTimeout = time.Minute

// server is a running ternion-server.
type server struct {
	process *exec.Cmd
	address string
}

var shared struct {
	once   sync.Once
	server *server
}

// sharedServer is one for all tests that leave it as they found it.
func sharedServer(t *testing.T) *server {
	t.Helper()
	program := serverProgram(t)
	shared.once.Do(func() {
		shared.server = runServer(t, program, "127.0.0.1:0", onASlowKernel()...)
	})
	if shared.server == nil {
		t.Fatal("the server did not start")
	}
	return shared.server
}

func stopSharedServer() {
	if shared.server != nil {
		shared.server.stop()
	}
}

// onASlowKernel keeps long requests running until a test ends them, however fast
// the machine.
func onASlowKernel() []string {
	if plugins := os.Getenv("TERNION_SLOW_KERNEL"); plugins != "" {
		return []string{"--plugin-dir", plugins}
	}
	return nil
}

// startServer is for tests that end it.
func startServer(t *testing.T, address string, arguments ...string) *server {
	t.Helper()
	server := runServer(t, serverProgram(t), address, arguments...)
	t.Cleanup(server.stop)
	return server
}

func serverProgram(t *testing.T) string {
	t.Helper()
	program := os.Getenv("TERNION_SERVER")
	if program == "" {
		t.Skip("NOT TESTED: TERNION_SERVER does not say where the program ternion-server is")
	}
	return program
}

func runServer(t *testing.T, program, address string, arguments ...string) *server {
	t.Helper()
	// Without guesses, so that long requests of the demo, which repeats itself, last a while.
	arguments = append([]string{"serve", "--listen", address, "--max-draft-tokens", "0"}, arguments...)
	if help, err := exec.Command(program, "serve", "--help").Output(); err != nil {
		t.Fatalf("%s: %v", program, err)
	} else if bytes.Contains(help, []byte("--operations-listen")) {
		// Two servers can't have the same port for metrics.
		arguments = append(arguments, "--operations-listen", "off")
	}
	process := exec.Command(program, arguments...)
	// Else TERNION_SERVER is taken for a setting.
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "TERNION_") {
			process.Env = append(process.Env, variable)
		}
	}
	var log bytes.Buffer
	process.Stderr = &log
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	started := &server{process: process}
	alarm := time.AfterFunc(startTimeout, func() { _ = process.Process.Kill() })
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "serving" {
			started.address = fields[1]
			break
		}
	}
	if !alarm.Stop() || started.address == "" {
		started.stop()
		t.Fatalf("the server told no address:\n%s", log.String())
	}
	go func() { _, _ = io.Copy(io.Discard, output) }()
	return started
}

func (s *server) stop() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

func (s *server) client(t *testing.T, config Config) *Client {
	t.Helper()
	return connect(t, "http://"+s.address, config)
}

func connect(t *testing.T, endpoint string, config Config) *Client {
	t.Helper()
	client, err := Connect(endpoint, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// awaitIdle gives the steps that the server has taken once nothing runs and all
// pages of the cache are back.
func awaitIdle(t *testing.T, client *Client) uint64 {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); ; {
		load, err := client.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if load.GetRunning() == 0 && load.GetWaiting() == 0 && load.GetKvPagesFree() == load.GetKvPages() {
			return load.GetSteps()
		}
		if time.Now().After(deadline) {
			t.Fatalf("pages are not back: %v", load)
		}
		time.Sleep(time.Millisecond)
	}
}
