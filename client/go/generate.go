package ternion

import (
	"context"
	"io"
	"iter"

	"google.golang.org/grpc"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

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
	// Finished: nothing follows but, after a deadline, an error.
	Finished *ternionpb.Finished
}

// Generate sends a request when a loop over its events begins, and gives them
// as they come. An error is the last thing that the loop sees. Leaving the
// loop cancels the request.
func (c *Client) Generate(ctx context.Context, request *ternionpb.GenerateRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := c.withTimeout(ctx)
		defer cancel()

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
				return
			}
			response, err = stream.Recv()
			err = running.classify(err)
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
