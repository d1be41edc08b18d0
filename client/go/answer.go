package ternion

import (
	"context"
	"io"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// answer is whether the status of a call came from the server. gRPC gives its
// own findings, a refused connection for instance, as statuses too, and by
// themselves the two look alike.
type answer struct {
	ctx      context.Context
	received atomic.Bool
}

type answerKey struct{}

// watchAnswer gives a context to make one call with.
func watchAnswer(ctx context.Context) (context.Context, *answer) {
	watched := &answer{ctx: ctx}
	return context.WithValue(ctx, answerKey{}, watched), watched
}

// classify turns the error of the call into one of this package.
func (a *answer) classify(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	received := status.Convert(err)
	if a.received.Load() {
		return classify(received)
	}
	switch received.Code() {
	case codes.DeadlineExceeded:
		return classify(received)
	case codes.Canceled:
		// A reset stream looks like this too, though nobody here cancelled.
		if a.ctx.Err() != nil {
			return classify(received)
		}
	}
	return &TransportError{cause: err}
}

// classifyContext is for a context that ended between two calls.
func classifyContext(ctx context.Context) error {
	return classify(status.FromContextError(ctx.Err()))
}

// answerWatch sees the trailers that servers send.
type answerWatch struct{}

func (answerWatch) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, is := event.(*stats.InTrailer); !is {
		return
	}
	if answer, is := ctx.Value(answerKey{}).(*answer); is {
		answer.received.Store(true)
	}
}

func (answerWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (answerWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (answerWatch) HandleConn(context.Context, stats.ConnStats) {}
