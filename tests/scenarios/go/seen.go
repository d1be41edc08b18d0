package main

import (
	"encoding/json"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	ternion "github.com/ternion-ai/ternion/client/go"
	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

// events is what was seen of one request: objects of one key, as README.md
// wants them.
type events struct {
	list []map[string]any
	// delta is the last event, to which further deltas are added.
	delta  *ternionpb.Delta
	tokens int
	ended  bool
}

func (e *events) add(event ternion.Event) {
	if delta := event.Delta; delta != nil {
		e.tokens += len(delta.GetTokenIds())
		if e.delta == nil {
			e.delta = &ternionpb.Delta{}
			e.append("delta", e.delta)
		}
		e.delta.Text += delta.GetText()
		e.delta.TokenIds = append(e.delta.TokenIds, delta.GetTokenIds()...)
		e.delta.Logprobs = append(e.delta.Logprobs, delta.GetLogprobs()...)
		return
	}
	e.delta = nil
	switch {
	case event.Queued != nil:
		e.append("queued", event.Queued)
	case event.Started != nil:
		e.append("started", &ternionpb.Started{
			Model: event.Started.GetModel(), Kernel: event.Started.GetKernel(),
		})
	case event.Finished != nil:
		e.ended = true
		finished := proto.CloneOf(event.Finished)
		finished.Timings = nil
		e.append("finished", finished)
	}
}

func (e *events) fail(err error) {
	e.ended = true
	e.list = append(e.list, errorSeen(err))
}

func (e *events) stop() {
	e.append("stopped", struct{}{})
}

func (e *events) append(key string, value any) {
	e.list = append(e.list, map[string]any{key: value})
}

func (e *events) json() (any, error) {
	list := make([]map[string]any, 0, len(e.list))
	for _, event := range e.list {
		for key, value := range event {
			if message, is := value.(proto.Message); is {
				text, err := messageJSON(message)
				if err != nil {
					return nil, err
				}
				value = text
			}
			list = append(list, map[string]any{key: value})
		}
	}
	return list, nil
}

func messageSeen(message proto.Message, err error) (any, error) {
	if err != nil {
		return errorSeen(err), nil
	}
	return messageJSON(message)
}

func modelsSeen(models []*ternionpb.ModelInfo, err error) (any, error) {
	if err != nil {
		return errorSeen(err), nil
	}
	seen := make([]json.RawMessage, len(models))
	for index, model := range models {
		if seen[index], err = messageJSON(model); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

func messageJSON(message proto.Message) (json.RawMessage, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
}

// failure is an error as README.md wants it.
type failure struct {
	Kind       string   `json:"kind"`
	Code       string   `json:"code"`
	Fields     []string `json:"fields,omitempty"`
	RetryAfter bool     `json:"retry_after,omitempty"`
}

func errorSeen(err error) map[string]any {
	seen := failure{Code: code.Code(status.Code(err)).String()}
	var (
		invalid     *ternion.InvalidArgumentError
		notFound    *ternion.NotFoundError
		denied      *ternion.DeniedError
		exhausted   *ternion.ResourceExhaustedError
		unavailable *ternion.UnavailableError
		late        *ternion.DeadlineExceededError
		cancelled   *ternion.CancelledError
		internal    *ternion.InternalError
		transport   *ternion.TransportError
	)
	switch {
	case errors.As(err, &invalid):
		seen.Kind = "invalid_argument"
		for _, violation := range invalid.Violations {
			seen.Fields = append(seen.Fields, violation.Field)
		}
	case errors.As(err, &notFound):
		seen.Kind = "not_found"
	case errors.As(err, &denied):
		seen.Kind = "denied"
	case errors.As(err, &exhausted):
		seen.Kind = "resource_exhausted"
		seen.RetryAfter = exhausted.RetryAfter > 0
	case errors.As(err, &unavailable):
		seen.Kind = "unavailable"
		seen.RetryAfter = unavailable.RetryAfter > 0
	case errors.As(err, &late):
		seen.Kind = "deadline_exceeded"
	case errors.As(err, &cancelled):
		seen.Kind = "cancelled"
	case errors.As(err, &internal):
		seen.Kind = "internal"
	case errors.As(err, &transport):
		seen.Kind = "transport"
	}
	return map[string]any{"error": seen}
}
