package ternion

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

func TestDrainingServerSaysWhenToComeBack(t *testing.T) {
	client := startServer(t, "127.0.0.1:0", onASlowKernel()...).client(t, Config{MaxRetries: -1})
	drained := false
	running := Text("Once upon a time", MaxTokens(100), IgnoreEOS())
	for event, err := range client.Generate(t.Context(), running) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Delta == nil || drained {
			continue
		}
		running, err := client.Drain(t.Context())
		if err != nil || running != 1 {
			t.Fatalf("%d running, %v", running, err)
		}
		drained = true
		for _, err := range client.Generate(t.Context(), long()) {
			told, is := errors.AsType[*UnavailableError](err)
			if !is || told.RetryAfter <= 0 {
				t.Errorf("the next request ends by %#v", err)
			}
		}
	}
}

func TestRequestOutlivesARestart(t *testing.T) {
	first := startServer(t, "127.0.0.1:0")
	client := first.client(t, Config{MaxRetries: 100, Timeout: startTimeout})
	if _, err := client.Models(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.stop()
	answered := make(chan error)
	go func() {
		var last error
		for _, err := range client.Generate(t.Context(), Text("x", MaxTokens(1))) {
			last = err
		}
		answered <- last
	}()
	startServer(t, first.address)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// The name server is the one part that is not real here: a name of ours has no
// two addresses.
func TestCallsGoToAllServersOfANameAndToNoneThatDrains(t *testing.T) {
	first := startServer(t, "127.0.0.1:0")
	second := startServer(t, "127.0.0.1:0")
	names := manual.NewBuilderWithScheme("dns")
	names.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.address}, {Addr: second.address}}})
	both := connect(t, "dns:///ternion:50051", Config{
		MaxRetries: -1, DialOptions: []grpc.DialOption{grpc.WithResolvers(names)},
	})
	answer := func() error {
		var last error
		for _, err := range both.Generate(t.Context(), Text("x", MaxTokens(1))) {
			last = err
		}
		return last
	}
	steps := func(server *server) uint64 {
		return awaitIdle(t, server.client(t, Config{}))
	}
	// The second connection may take a moment longer than the first.
	for deadline := time.Now().Add(startTimeout); steps(first) == 0 || steps(second) == 0; {
		if err := answer(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d steps by one, %d by the other", steps(first), steps(second))
		}
	}

	// A request that is not read keeps the first server from ending.
	holding := first.client(t, Config{DialOptions: []grpc.DialOption{grpc.WithStaticStreamWindowSize(1 << 16)}})
	held := long()
	held.Logprobs = new(uint32(20))
	for event, err := range holding.Generate(t.Context(), held) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Delta == nil {
			continue
		}
		if _, err := holding.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Word of it may take a moment too, but turns would bring no ten
		// answers in a row.
		for answers, deadline := 0, time.Now().Add(startTimeout); answers < 10; answers++ {
			if err := answer(); err != nil {
				answers = -1
			}
			if time.Now().After(deadline) {
				t.Fatal("calls still go to the server that drains")
			}
		}
		if load, err := holding.Load(t.Context()); err != nil || !load.GetDraining() {
			t.Errorf("the first server was to drain all the while: %v, %v", load, err)
		}
		break
	}
}
