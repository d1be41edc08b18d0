package ternion

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	defaultMaxRetries = 3

	// Pauses when the server names none: a fifth of a second, doubled each
	// time, and up to half of it more or less so that clients don't come back
	// together.
	minRetryDelay = 200 * time.Millisecond

	// A server that asks for a longer pause is told to the caller instead,
	// who may have something better to do.
	maxRetryDelay = 10 * time.Second
)

func maxRetries(configured int) int {
	switch {
	case configured == 0:
		return defaultMaxRetries
	case configured < 0:
		return 0
	default:
		return configured
	}
}

// retrying makes a call, and makes it again while it ends as unavailable, the
// server's or the connection's fault. The call ends at its first message at
// the latest, so that nothing is seen twice.
//
// gRPC's own retry policy would not do: it knows the delay of its own trailer,
// not that of google.rpc.RetryInfo.
func (c *Client) retrying(ctx context.Context, call func(context.Context, *answer) error) error {
	for attempt := 0; ; attempt++ {
		watched, answer := watchAnswer(ctx)
		err := answer.classify(call(watched, answer))
		if status.Code(err) != codes.Unavailable || attempt >= c.maxRetries {
			return err
		}
		delay := retryDelay(err, attempt)
		if deadline, has := ctx.Deadline(); delay > maxRetryDelay || has && time.Until(deadline) < delay {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return classifyContext(ctx)
		}
	}
}

func retryDelay(err error, attempt int) time.Duration {
	if unavailable, is := errors.AsType[*UnavailableError](err); is && unavailable.RetryAfter > 0 {
		return unavailable.RetryAfter
	}
	delay := minRetryDelay << min(attempt, 4)
	return delay/2 + rand.N(delay)
}
