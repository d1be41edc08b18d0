package ternion

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

// peer is a gRPC server that answers as a test says, for what a ternion-server
// does not do when asked to: naming long delays, failing in the middle.
type peer struct {
	ternionpb.UnimplementedInferenceServiceServer
	ternionpb.UnimplementedModelServiceServer
	generate func(call int32, stream grpc.ServerStreamingServer[ternionpb.GenerateResponse]) error
	list     func(ctx context.Context, call int32) (*ternionpb.ListResponse, error)
	calls    atomic.Int32
}

func (p *peer) Generate(
	_ *ternionpb.GenerateRequest, stream grpc.ServerStreamingServer[ternionpb.GenerateResponse],
) error {
	return p.generate(p.calls.Add(1), stream)
}

func (p *peer) List(ctx context.Context, _ *ternionpb.ListRequest) (*ternionpb.ListResponse, error) {
	return p.list(ctx, p.calls.Add(1))
}

// serve gives the peer's address.
func (p *peer) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	ternionpb.RegisterInferenceServiceServer(server, p)
	ternionpb.RegisterModelServiceServer(server, p)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func unavailable(t *testing.T, retryAfter time.Duration) error {
	t.Helper()
	return withDetails(t, status.New(codes.Unavailable, "not now"),
		&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}).Err()
}

func TestUnavailableIsTriedAgainAfterTheDelayThatWasAsked(t *testing.T) {
	const delay = 50 * time.Millisecond
	peer := &peer{list: func(_ context.Context, call int32) (*ternionpb.ListResponse, error) {
		if call < 3 {
			return nil, unavailable(t, delay)
		}
		return &ternionpb.ListResponse{Models: []*ternionpb.ModelInfo{{Name: "m"}}}, nil
	}}
	client := connect(t, peer.serve(t), Config{})
	start := time.Now()
	models, err := client.Models(t.Context())
	if err != nil || len(models) != 1 {
		t.Fatal(models, err)
	}
	// The client's own two pauses would take more than 0.3 s.
	if took := time.Since(start); took < 2*delay || peer.calls.Load() != 3 {
		t.Errorf("%d calls in %v", peer.calls.Load(), took)
	}
}

func TestRetriesAreBounded(t *testing.T) {
	for name, run := range map[string]struct {
		config Config
		delay  time.Duration
		calls  int32
	}{
		"by default":            {Config{}, time.Millisecond, 1 + defaultMaxRetries},
		"as configured":         {Config{MaxRetries: 5}, time.Millisecond, 6},
		"none":                  {Config{MaxRetries: -1}, time.Millisecond, 1},
		"by long delays":        {Config{}, time.Hour, 1},
		"by what time there is": {Config{Timeout: 2 * time.Second}, 3 * time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			peer := &peer{generate: func(int32, grpc.ServerStreamingServer[ternionpb.GenerateResponse]) error {
				return unavailable(t, run.delay)
			}}
			client := connect(t, peer.serve(t), run.config)
			var last error
			for _, err := range client.Generate(t.Context(), Text("x")) {
				last = err
			}
			told, is := errors.AsType[*UnavailableError](last)
			if !is || told.RetryAfter != run.delay {
				t.Errorf("ended by %#v", last)
			}
			if calls := peer.calls.Load(); calls != run.calls {
				t.Errorf("%d calls", calls)
			}
		})
	}
}

func TestOnlyUnavailableIsTriedAgain(t *testing.T) {
	peer := &peer{list: func(context.Context, int32) (*ternionpb.ListResponse, error) {
		return nil, status.Error(codes.ResourceExhausted, "quota")
	}}
	client := connect(t, peer.serve(t), Config{})
	_, err := client.Models(t.Context())
	if _, is := errors.AsType[*ResourceExhaustedError](err); !is || peer.calls.Load() != 1 {
		t.Errorf("%d calls, the last ended by %v", peer.calls.Load(), err)
	}
}

func TestNothingIsTriedAgainAfterAMessage(t *testing.T) {
	peer := &peer{generate: func(_ int32, stream grpc.ServerStreamingServer[ternionpb.GenerateResponse]) error {
		queued := &ternionpb.GenerateResponse_Queued{Queued: &ternionpb.Queued{}}
		if err := stream.Send(&ternionpb.GenerateResponse{Frame: queued}); err != nil {
			return err
		}
		return unavailable(t, time.Millisecond)
	}}
	client := connect(t, peer.serve(t), Config{})
	events := 0
	var last error
	for event, err := range client.Generate(t.Context(), Text("x")) {
		if event.Queued != nil {
			events++
		}
		last = err
	}
	if _, is := errors.AsType[*UnavailableError](last); !is || events != 1 || peer.calls.Load() != 1 {
		t.Errorf("%d calls, %d events, ended by %v", peer.calls.Load(), events, last)
	}
}

func TestWaitingForARetryEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	peer := &peer{list: func(context.Context, int32) (*ternionpb.ListResponse, error) {
		time.AfterFunc(20*time.Millisecond, cancel)
		return nil, unavailable(t, maxRetryDelay)
	}}
	client := connect(t, peer.serve(t), Config{})
	start := time.Now()
	_, err := client.Models(ctx)
	if _, is := errors.AsType[*CancelledError](err); !is || time.Since(start) > maxRetryDelay/2 {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestNoServerIsATransportError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	client := connect(t, address, Config{MaxRetries: 1})
	_, err = client.Models(t.Context())
	if _, is := errors.AsType[*TransportError](err); !is || status.Code(err) != codes.Unavailable {
		t.Errorf("%#v", err)
	}
}

func TestAPeerThatDropsTheConnectionIsATransportError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_ = connection.Close()
		}
	}()
	client := connect(t, listener.Addr().String(), Config{MaxRetries: -1})
	_, err = client.Models(t.Context())
	if _, is := errors.AsType[*TransportError](err); !is {
		t.Errorf("%#v", err)
	}
}
