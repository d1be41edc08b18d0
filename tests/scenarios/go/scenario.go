package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	ternion "github.com/ternion-ai/ternion/client/go"
	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

// scenario is what a client does; what it must see is for somebody else to
// judge.
type scenario struct {
	Name string `json:"name"`
	As   string `json:"as"`
	Call string `json:"call"`

	Request           json.RawMessage   `json:"request"`
	TimeoutMS         int               `json:"timeout_ms"`
	CancelAfterTokens int               `json:"cancel_after_tokens"`
	Messages          []json.RawMessage `json:"messages"`
	Sampling          json.RawMessage   `json:"sampling"`
	Frames            []frame           `json:"frames"`
	Model             string            `json:"model"`
	RequestID         string            `json:"request_id"`
}

// frame is one that a client sends in a session: either Start or Cancel is an
// id.
type frame struct {
	Start       string          `json:"start"`
	Request     json.RawMessage `json:"request"`
	TimeoutMS   int             `json:"timeout_ms"`
	Cancel      string          `json:"cancel"`
	AfterTokens int             `json:"after_tokens"`
}

// play gives what was seen. An error is in the scenario itself.
func (s *scenario) play(ctx context.Context, client *ternion.Client) (any, error) {
	switch s.Call {
	case "generate":
		return s.generate(ctx, client)
	case "chat":
		return s.chat(ctx, client)
	case "session":
		return s.session(ctx, client)
	case "tokenize":
		request, err := parse(s.Request, &ternionpb.TokenizeRequest{})
		if err != nil {
			return nil, err
		}
		ids, err := client.Tokenize(ctx, request)
		return messageSeen(&ternionpb.TokenizeResponse{TokenIds: ids}, err)
	case "detokenize":
		request, err := parse(s.Request, &ternionpb.DetokenizeRequest{})
		if err != nil {
			return nil, err
		}
		text, err := client.Detokenize(ctx, request)
		return messageSeen(&ternionpb.DetokenizeResponse{Text: text}, err)
	case "count_tokens":
		request, err := parse(s.Request, &ternionpb.CountTokensRequest{})
		if err != nil {
			return nil, err
		}
		count, err := client.CountTokens(ctx, request)
		return messageSeen(count, err)
	case "models":
		models, err := client.Models(ctx)
		return modelsSeen(models, err)
	case "model":
		model, err := client.Model(ctx, s.Model)
		return messageSeen(model, err)
	case "list_requests":
		requests, err := client.ListRequests(ctx)
		return messageSeen(&ternionpb.RequestServiceListResponse{Requests: requests}, err)
	case "cancel_request":
		cancelled, err := client.CancelRequest(ctx, s.RequestID)
		return messageSeen(&ternionpb.RequestServiceCancelResponse{Cancelled: cancelled}, err)
	default:
		return nil, fmt.Errorf("call %q is not known", s.Call)
	}
}

func (s *scenario) generate(ctx context.Context, client *ternion.Client) (any, error) {
	request, err := parse(s.Request, &ternionpb.GenerateRequest{})
	if err != nil {
		return nil, err
	}
	if s.TimeoutMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, milliseconds(s.TimeoutMS))
		defer cancel()
	}
	var seen events
	for event, err := range client.Generate(ctx, request) {
		if err != nil {
			seen.fail(err)
			break
		}
		seen.add(event)
		if s.CancelAfterTokens > 0 && seen.tokens >= s.CancelAfterTokens {
			seen.stop()
			break
		}
	}
	return seen.json()
}

func (s *scenario) chat(ctx context.Context, client *ternion.Client) (any, error) {
	var messages []*ternionpb.ChatMessage
	for _, text := range s.Messages {
		message, err := parse(text, &ternionpb.ChatMessage{})
		if err != nil {
			return nil, err
		}
		messages = append(messages, message)
	}
	var options []ternion.Option
	if s.Sampling != nil {
		sampling, err := parse(s.Sampling, &ternionpb.Sampling{})
		if err != nil {
			return nil, err
		}
		options = append(options, ternion.Sampling(sampling))
	}
	var seen events
	for event, err := range client.Chat(ctx, messages, options...) {
		if err != nil {
			seen.fail(err)
			break
		}
		seen.add(event)
	}
	return seen.json()
}

func (s *scenario) session(ctx context.Context, client *ternion.Client) (any, error) {
	session, err := client.Session(ctx)
	if err != nil {
		return errorSeen(err), nil
	}
	defer session.Close()
	var cancels []frame
	seen := map[string]*events{}
	for _, frame := range s.Frames {
		if frame.Start == "" {
			cancels = append(cancels, frame)
			continue
		}
		seen[frame.Start] = &events{}
		request, err := parse(frame.Request, &ternionpb.GenerateRequest{})
		if err != nil {
			return nil, err
		}
		if session.Start(frame.Start, request, milliseconds(frame.TimeoutMS)) != nil {
			break // The loop below is told why.
		}
	}
	// Cancels wait for tokens of the request, or for its end.
	due := func() error {
		waiting := cancels[:0]
		for _, frame := range cancels {
			request := seen[frame.Cancel]
			switch {
			case request == nil:
				return fmt.Errorf("cancel of %q, which is not started", frame.Cancel)
			case request.ended:
			case request.tokens >= frame.AfterTokens:
				_ = session.Cancel(frame.Cancel) // The loop below is told why not.
			default:
				waiting = append(waiting, frame)
			}
		}
		cancels = waiting
		if len(cancels) == 0 {
			return session.CloseSend()
		}
		return nil
	}
	if err := due(); err != nil {
		return nil, err
	}
	for event, err := range session.Events() {
		if err != nil {
			return errorSeen(err), nil
		}
		request, known := seen[event.ID]
		if !known {
			return nil, fmt.Errorf("event of %q, which was not started", event.ID)
		}
		if event.Failed != nil {
			request.fail(event.Failed.Err)
		} else {
			request.add(event.Event)
		}
		if len(cancels) > 0 {
			if err := due(); err != nil {
				return nil, err
			}
		}
	}
	all := map[string]any{}
	for id, request := range seen {
		if all[id], err = request.json(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func milliseconds(number int) time.Duration {
	return time.Duration(number) * time.Millisecond
}

func parse[Message proto.Message](text json.RawMessage, message Message) (Message, error) {
	return message, protojson.Unmarshal(text, message)
}
