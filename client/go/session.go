package ternion

import (
	"context"
	"io"
	"iter"
	"math"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

// Session is many requests on one stream, each under an id of the caller's
// choice. A request that fails does not end the session. Its methods may be
// called by many goroutines at once.
type Session struct {
	stream  grpc.BidiStreamingClient[ternionpb.SessionRequest, ternionpb.SessionResponse]
	answer  *answer
	cancel  context.CancelFunc
	timeout time.Duration

	// A gRPC stream takes one sender and one receiver at a time.
	sending, receiving sync.Mutex
	// Sending after that would end the stream, and with it what still runs.
	sendClosed bool
}

// SessionEvent is what one request of a session tells: exactly one of its
// event's fields, or Failed, is set.
type SessionEvent struct {
	// ID was given to Start.
	ID string
	// Seq is the place of this event among those of its request, for
	// [ResumeFrom].
	Seq uint64
	Event
	// Failed: the request was refused or failed, and has ended.
	Failed *Failed
}

// Failed is the end of a request that was refused or failed.
type Failed struct {
	// Err is the error that Generate would have given.
	Err error
	// Usage and Timings are nil if the request was refused before it ran.
	Usage   *ternionpb.Usage
	Timings *ternionpb.Timings
}

// Session opens a stream for many requests. The end of the context ends it and
// cancels what runs on it, and so does [Session.Close]; one of the two has to
// happen, or the loop over [Session.Events] has to end.
func (c *Client) Session(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	ctx, answer := watchAnswer(ctx)
	stream, err := c.inference.Session(ctx)
	if err != nil {
		cancel()
		return nil, answer.classify(err)
	}
	return &Session{stream: stream, answer: answer, cancel: cancel, timeout: c.timeout}, nil
}

// Start starts a request. Its id, 1 to 128 bytes, comes back with each of its
// events and may be used again once it has ended. A timeout of zero is the
// client's own.
func (s *Session) Start(id string, request *ternionpb.GenerateRequest, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = s.timeout
	}
	start := &ternionpb.Start{Request: request}
	if timeout > 0 {
		start.TimeoutMs = new(wholeMilliseconds(timeout))
	}
	return s.send(&ternionpb.SessionRequest{
		RequestId: id, Frame: &ternionpb.SessionRequest_Start{Start: start},
	})
}

// Cancel ends a running request, which then tells so by a Finished event. An id
// that is not running is ignored: the request may just have ended.
func (s *Session) Cancel(id string) error {
	return s.send(&ternionpb.SessionRequest{
		RequestId: id, Frame: &ternionpb.SessionRequest_Cancel{Cancel: &ternionpb.Cancel{}},
	})
}

// CloseSend says that nothing more will be started. What runs goes on, and the
// loop over [Session.Events] ends after the last event.
func (s *Session) CloseSend() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.sendClosed = true
	return s.stream.CloseSend()
}

// Close ends the session and cancels what runs on it. It does nothing to a
// session that has ended.
func (s *Session) Close() {
	s.cancel()
}

// Events gives the events of all requests as they come. An error ends the
// session, and is the last thing that the loop sees. Leaving the loop closes
// the session.
func (s *Session) Events() iter.Seq2[SessionEvent, error] {
	return func(yield func(SessionEvent, error) bool) {
		defer s.Close()
		for {
			response, err := s.receive()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(SessionEvent{}, s.answer.classify(err))
				return
			}
			if event, known := sessionEvent(response); known && !yield(event, nil) {
				return
			}
		}
	}
}

func (s *Session) receive() (*ternionpb.SessionResponse, error) {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	return s.stream.Recv()
}

func (s *Session) send(request *ternionpb.SessionRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	// What ended a stream is told to its receiver, not to its sender. Just
	// after the end of its context a stream still takes what nobody will read.
	if s.sendClosed || s.stream.Context().Err() != nil || s.stream.Send(request) != nil {
		return &TransportError{cause: ErrSessionClosed}
	}
	return nil
}

// sessionEvent is false for frames of a newer server, which this client can't
// know.
func sessionEvent(response *ternionpb.SessionResponse) (SessionEvent, bool) {
	event := SessionEvent{ID: response.GetRequestId(), Seq: response.GetSeq()}
	switch frame := response.GetFrame().(type) {
	case *ternionpb.SessionResponse_Queued:
		event.Queued = frame.Queued
	case *ternionpb.SessionResponse_Started:
		event.Started = frame.Started
	case *ternionpb.SessionResponse_Delta:
		event.Delta = frame.Delta
	case *ternionpb.SessionResponse_Finished:
		event.Finished = frame.Finished
	case *ternionpb.SessionResponse_Failed:
		event.Failed = failed(frame.Failed)
	default:
		return SessionEvent{}, false
	}
	return event, true
}

func failed(frame *ternionpb.Failed) *Failed {
	received := frame.GetStatus()
	if received == nil {
		received = &status.Status{}
	}
	return &Failed{
		Err:     classify(grpcstatus.FromProto(received)),
		Usage:   frame.GetUsage(),
		Timings: frame.GetTimings(),
	}
}

// wholeMilliseconds rounds up, so that a short time does not become none.
func wholeMilliseconds(timeout time.Duration) uint32 {
	whole := timeout / time.Millisecond
	if timeout%time.Millisecond > 0 {
		whole++
	}
	return uint32(min(whole, math.MaxUint32))
}
