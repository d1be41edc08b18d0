package ternion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

// leaveTimeout is for telling a server that a request is not wanted any more.
const leaveTimeout = time.Second

// Event is what a running request tells: exactly one of its fields is set.
// The getters of the others give zero values, so that event.Delta.GetText()
// needs no check.
type Event struct {
	// Queued: the request was accepted; told again while it waits, when it has
	// moved.
	Queued *ternionpb.Queued
	// Started: its first token is being computed.
	Started *ternionpb.Started
	// Delta: text and tokens.
	Delta *ternionpb.Delta
	// Finished: nothing follows of the sample; and where none remains, nothing
	// at all but, after a deadline, an error.
	Finished *ternionpb.Finished
}

// Generate sends a request when a loop over its events begins, and gives them
// as they come. An error is the last thing that the loop sees. Leaving the
// loop cancels the request. One that is [Resumable] is read on when its
// connection broke.
func (c *Client) Generate(ctx context.Context, request *ternionpb.GenerateRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := c.withTimeout(ctx)
		defer cancel()
		request := named(request)

		var stream grpc.ServerStreamingClient[ternionpb.GenerateResponse]
		var response *ternionpb.GenerateResponse
		var running *answer
		err := c.retrying(ctx, func(ctx context.Context, watched *answer) error {
			running = watched
			var err error
			if stream, err = c.inference.Generate(ctx, request); err == nil {
				response, err = stream.Recv()
			}
			return err
		})
		for err == nil {
			if event, known := generateEvent(response); known && !yield(event, nil) {
				c.leave(request)
				return
			}
			lastSeq := response.GetSeq()
			response, err = stream.Recv()
			err = running.classify(err)
			if _, broke := errors.AsType[*TransportError](err); !broke || !request.GetResumable() {
				continue
			}
			rest := ResumeFrom(request.GetRequestId(), &lastSeq)
			resumed := c.retrying(ctx, func(ctx context.Context, watched *answer) error {
				running = watched
				next, err := c.inference.Generate(ctx, rest)
				if err == nil {
					stream = next
					response, err = stream.Recv()
				}
				return err
			})
			// What broke it says more than that it can't be had again.
			if resumed == nil {
				err = nil
			}
		}
		if err != io.EOF {
			yield(Event{}, err)
		}
	}
}

// Chat answers the last message of a conversation; see [Client.Generate].
func (c *Client) Chat(
	ctx context.Context, messages []*ternionpb.ChatMessage, options ...Option,
) iter.Seq2[Event, error] {
	return c.Generate(ctx, Messages(messages, options...))
}

// named gives a resumable request the id that it needs, and a key besides, so
// that it may be sent again if nothing was heard of it.
func named(request *ternionpb.GenerateRequest) *ternionpb.GenerateRequest {
	if !request.GetResumable() || request.GetRequestId() != "" {
		return request
	}
	request = proto.CloneOf(request)
	request.RequestId = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	if request.IdempotencyKey == "" {
		request.IdempotencyKey = request.RequestId
	}
	return request
}

// leave cancels a request that would outlive its stream. If that fails, the
// server ends it after its grace.
func (c *Client) leave(request *ternionpb.GenerateRequest) {
	if !request.GetResumable() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_, _ = c.CancelRequest(ctx, request.GetRequestId())
}

// generateEvent is false for frames of a newer server, which this client can't
// know.
func generateEvent(response *ternionpb.GenerateResponse) (Event, bool) {
	switch frame := response.GetFrame().(type) {
	case *ternionpb.GenerateResponse_Queued:
		return Event{Queued: frame.Queued}, true
	case *ternionpb.GenerateResponse_Started:
		return Event{Started: frame.Started}, true
	case *ternionpb.GenerateResponse_Delta:
		return Event{Delta: frame.Delta}, true
	case *ternionpb.GenerateResponse_Finished:
		return Event{Finished: frame.Finished}, true
	default:
		return Event{}, false
	}
}
