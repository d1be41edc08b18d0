package ternion

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

const (
	// Long enough for another continent, short enough to notice a wrong address.
	defaultConnectTimeout = 10 * time.Second

	// A quiet connection is asked for a sign of life, so that a server that
	// vanished does not leave a stream waiting for ever. Balancers and servers
	// that count pings as abuse allow one every ten seconds.
	keepaliveInterval = 30 * time.Second
	keepaliveTimeout  = 20 * time.Second
)

// Config says how to connect. Its zero value is for a server without TLS that
// asks for no key.
type Config struct {
	// APIKey is sent with each call. Without TLS whoever sees the traffic
	// sees the key.
	APIKey string

	// TLS encrypts where the endpoint doesn't say so itself: host:port and
	// dns:///host:port. CAFile and CertificateFile imply it.
	TLS bool
	// CAFile is a PEM file of authorities to trust for the server's
	// certificate. Empty: the system's.
	CAFile string
	// CertificateFile and KeyFile are PEM files by which the client names
	// itself (mTLS). They are read at each connection, so that renewed ones
	// are used.
	CertificateFile, KeyFile string

	// Timeout is for each call whose context has no deadline, to the last
	// token for those that stream; in a session for each request that is
	// started without one. Zero: none.
	Timeout time.Duration
	// ConnectTimeout is for each connection. Zero: ten seconds.
	ConnectTimeout time.Duration
	// MaxRetries is how often a call that ended as unavailable before its
	// first message is made again. Zero: three times. Negative: never.
	MaxRetries int

	// DialOptions come after the client's own, and so before them where they
	// say something else: interceptors, stats handlers for telemetry, ….
	DialOptions []grpc.DialOption
}

// Client is a connection to a server, or to all servers behind a name. It may
// be used by many goroutines at once.
type Client struct {
	connection *grpc.ClientConn
	inference  ternionpb.InferenceServiceClient
	models     ternionpb.ModelServiceClient
	requests   ternionpb.RequestServiceClient
	admin      ternionpb.AdminServiceClient
	timeout    time.Duration
	maxRetries int
}

// Connect makes a client of an endpoint:
//
//   - http://host:port or host:port, without TLS
//   - https://host:port, with TLS; the port may be left out and is then 443
//   - dns:///host:port, for all addresses that the name has, such as those of
//     a headless Kubernetes service: calls go to each by turns, and to none
//     that says it is not serving
//
// It fails on what can't work: a malformed endpoint, files that can't be read.
// The connection itself is made with the first call, and again when it breaks.
func Connect(endpoint string, config Config) (*Client, error) {
	target, err := parseEndpoint(endpoint, &config)
	if err != nil {
		return nil, err
	}
	credentials, err := transportCredentials(target.tls, &config)
	if err != nil {
		return nil, err
	}
	connectTimeout := config.ConnectTimeout
	if connectTimeout == 0 {
		connectTimeout = defaultConnectTimeout
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials),
		grpc.WithConnectParams(grpc.ConnectParams{
			// Sooner than gRPC's own second, so that a retry meets a
			// connection that was tried anew.
			Backoff: backoff.Config{
				BaseDelay: minRetryDelay, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * time.Second,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveInterval, Timeout: keepaliveTimeout,
		}),
		grpc.WithStatsHandler(answerWatch{}),
		// What a name server says about retries must not be added to ours.
		grpc.WithDisableServiceConfig(),
	}
	if target.balanced {
		options = append(options, grpc.WithDefaultServiceConfig(balancedService))
	}
	if config.APIKey != "" {
		options = append(options, grpc.WithPerRPCCredentials(apiKey(config.APIKey)))
	}
	connection, err := grpc.NewClient(target.name, append(options, config.DialOptions...)...)
	if err != nil {
		return nil, endpointError(endpoint, err)
	}
	return &Client{
		connection: connection,
		inference:  ternionpb.NewInferenceServiceClient(connection),
		models:     ternionpb.NewModelServiceClient(connection),
		requests:   ternionpb.NewRequestServiceClient(connection),
		admin:      ternionpb.NewAdminServiceClient(connection),
		timeout:    config.Timeout,
		maxRetries: maxRetries(config.MaxRetries),
	}, nil
}

// Close closes the connection and ends whatever runs on it.
func (c *Client) Close() error {
	return c.connection.Close()
}

// Tokenize gives the ids of a text or a conversation.
func (c *Client) Tokenize(ctx context.Context, request *ternionpb.TokenizeRequest) ([]uint32, error) {
	response, err := call(ctx, c, c.inference.Tokenize, request)
	return response.GetTokenIds(), err
}

// Detokenize gives the text of ids. Bytes that are no UTF-8 become replacement
// characters.
func (c *Client) Detokenize(ctx context.Context, request *ternionpb.DetokenizeRequest) (string, error) {
	response, err := call(ctx, c, c.inference.Detokenize, request)
	return response.GetText(), err
}

// CountTokens gives the number of tokens that an input would take, and how
// many there may be.
func (c *Client) CountTokens(
	ctx context.Context, request *ternionpb.CountTokensRequest,
) (*ternionpb.CountTokensResponse, error) {
	return call(ctx, c, c.inference.CountTokens, request)
}

// Models lists what is served.
func (c *Client) Models(ctx context.Context) ([]*ternionpb.ModelInfo, error) {
	response, err := call(ctx, c, c.models.List, &ternionpb.ListRequest{})
	return response.GetModels(), err
}

// Model gives one model by name.
func (c *Client) Model(ctx context.Context, name string) (*ternionpb.ModelInfo, error) {
	response, err := call(ctx, c, c.models.Get, &ternionpb.GetRequest{Name: name})
	return response.GetModel(), err
}

// ListRequests lists the caller's requests that are alive, oldest first.
func (c *Client) ListRequests(ctx context.Context) ([]*ternionpb.LiveRequest, error) {
	response, err := call(ctx, c, c.requests.List, &ternionpb.RequestServiceListRequest{})
	return response.GetRequests(), err
}

// CancelRequest ends the caller's requests that are alive under an id, and
// gives their number. None is no error: they may just have ended.
func (c *Client) CancelRequest(ctx context.Context, id string) (uint32, error) {
	response, err := call(ctx, c, c.requests.Cancel, &ternionpb.RequestServiceCancelRequest{RequestId: id})
	return response.GetCancelled(), err
}

// Kernels lists the kernel plugins that the server found, and what became of
// each.
func (c *Client) Kernels(ctx context.Context) ([]*ternionpb.Kernel, error) {
	response, err := call(ctx, c, c.admin.Kernels, &ternionpb.KernelsRequest{})
	return response.GetKernels(), err
}

// Load tells what the server is doing now.
func (c *Client) Load(ctx context.Context) (*ternionpb.LoadResponse, error) {
	return call(ctx, c, c.admin.Load, &ternionpb.LoadRequest{})
}

// Drain tells the server to take no new requests, finish those that run, and
// exit. It gives the number of those that run, at once.
func (c *Client) Drain(ctx context.Context) (uint32, error) {
	response, err := call(ctx, c, c.admin.Drain, &ternionpb.DrainRequest{})
	return response.GetInFlight(), err
}

// method is a method of a generated stub that answers with one message.
type method[Request, Response any] = func(context.Context, *Request, ...grpc.CallOption) (*Response, error)

func call[Request, Response any](
	ctx context.Context, c *Client, method method[Request, Response], request *Request,
) (*Response, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	var response *Response
	err := c.retrying(ctx, func(ctx context.Context, _ *answer) error {
		var err error
		response, err = method(ctx, request)
		return err
	})
	return response, err
}

// withTimeout gives a context that its caller has to cancel in any case.
func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has || c.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}
