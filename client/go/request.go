package ternion

import "github.com/ternion-ai/ternion/client/go/ternionpb"

// Text is a request that continues a raw prompt.
func Text(prompt string, options ...Option) *ternionpb.GenerateRequest {
	input := &ternionpb.GenerateRequest_Text{Text: prompt}
	return with(&ternionpb.GenerateRequest{Input: input}, options)
}

// Messages is a request that answers the last message of a conversation.
func Messages(messages []*ternionpb.ChatMessage, options ...Option) *ternionpb.GenerateRequest {
	input := &ternionpb.GenerateRequest_Chat{Chat: &ternionpb.ChatInput{Messages: messages}}
	return with(&ternionpb.GenerateRequest{Input: input}, options)
}

// TokenIDs is a request that continues tokens, to which nothing is added.
func TokenIDs(ids []uint32, options ...Option) *ternionpb.GenerateRequest {
	input := &ternionpb.GenerateRequest_TokenIds{TokenIds: &ternionpb.TokenIds{Ids: ids}}
	return with(&ternionpb.GenerateRequest{Input: input}, options)
}

// User is a message by the user.
func User(content string) *ternionpb.ChatMessage {
	return &ternionpb.ChatMessage{Role: "user", Content: content}
}

// Assistant is a message by the model, for the history of a conversation.
func Assistant(content string) *ternionpb.ChatMessage {
	return &ternionpb.ChatMessage{Role: "assistant", Content: content}
}

// System is instructions for the model, before everything else.
func System(content string) *ternionpb.ChatMessage {
	return &ternionpb.ChatMessage{Role: "system", Content: content}
}

// Option sets one thing of a request. What no option sets is the model's or
// the server's default. Ranges are in the comments of the protocol.
type Option func(*ternionpb.GenerateRequest)

// Model is the name of the model; not needed where a server has one.
func Model(name string) Option {
	return func(request *ternionpb.GenerateRequest) { request.Model = name }
}

// RequestID is what logs and traces name the request by, and what
// [Client.CancelRequest] takes. In a session the id given to Start is used.
func RequestID(id string) Option {
	return func(request *ternionpb.GenerateRequest) { request.RequestId = id }
}

// Resumable makes a request survive a connection that breaks, as long as the
// server waits for its clients: [Client.Generate] reads it on, without a gap,
// over another one. In a [Session] see [ResumeFrom].
func Resumable() Option {
	return func(request *ternionpb.GenerateRequest) { request.Resumable = true }
}

// IdempotencyKey makes a request that is sent again under the same key, also by
// another process, be generated once: its events come from the first.
func IdempotencyKey(key string) Option {
	return func(request *ternionpb.GenerateRequest) { request.IdempotencyKey = key }
}

// ResumeFrom is a request that reads on what was made [Resumable], behind the
// frame with a sequence number ([SessionEvent.Seq]); nil for all of it.
func ResumeFrom(id string, lastSeq *uint64) *ternionpb.GenerateRequest {
	return &ternionpb.GenerateRequest{Resume: &ternionpb.Resume{RequestId: id, LastSeq: lastSeq}}
}

// Priority is higher for what runs first when requests wait.
func Priority(priority int32) Option {
	return func(request *ternionpb.GenerateRequest) { request.Priority = &priority }
}

// Logprobs asks for log-probabilities: of each token, and of that many
// alternatives.
func Logprobs(alternatives uint32) Option {
	return func(request *ternionpb.GenerateRequest) { request.Logprobs = &alternatives }
}

// Samples asks for so many answers to the one prompt, which is computed once.
// Every Delta and Finished has the index of its sample, whose seed is that of
// Started plus the index; the last Finished is the one with none remaining.
func Samples(n uint32) Option {
	return func(request *ternionpb.GenerateRequest) { request.N = &n }
}

// Sampling says how tokens are drawn, in one message.
func Sampling(sampling *ternionpb.Sampling) Option {
	return func(request *ternionpb.GenerateRequest) { request.Sampling = sampling }
}

// Temperature 0 is greedy.
func Temperature(temperature float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.Temperature = &temperature })
}

// TopK draws from the k most probable tokens.
func TopK(k uint32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.TopK = &k })
}

// TopP draws from the smallest set of tokens with at least this probability.
func TopP(p float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.TopP = &p })
}

// MinP draws from tokens with at least this share of the best one's
// probability.
func MinP(p float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.MinP = &p })
}

// Seed makes the same request give the same tokens.
func Seed(seed uint64) Option {
	return sampling(func(s *ternionpb.Sampling) { s.Seed = &seed })
}

// RepetitionPenalty divides logits of tokens seen in prompt or output.
func RepetitionPenalty(penalty float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.RepetitionPenalty = &penalty })
}

// PresencePenalty is subtracted once from logits of tokens in the output.
func PresencePenalty(penalty float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.PresencePenalty = &penalty })
}

// FrequencyPenalty is subtracted for each occurrence in the output.
func FrequencyPenalty(penalty float32) Option {
	return sampling(func(s *ternionpb.Sampling) { s.FrequencyPenalty = &penalty })
}

// Stopping says when to end, in one message.
func Stopping(stopping *ternionpb.Stopping) Option {
	return func(request *ternionpb.GenerateRequest) { request.Stopping = stopping }
}

// MaxTokens is the most tokens to generate.
func MaxTokens(tokens uint32) Option {
	return stopping(func(s *ternionpb.Stopping) { s.MaxTokens = &tokens })
}

// Stop ends before the first occurrence of any of the strings.
func Stop(texts ...string) Option {
	return stopping(func(s *ternionpb.Stopping) { s.Stop = texts })
}

// IgnoreEOS goes on past the model's end tokens.
func IgnoreEOS() Option {
	return stopping(func(s *ternionpb.Stopping) { s.IgnoreEos = new(true) })
}

func sampling(set func(*ternionpb.Sampling)) Option {
	return func(request *ternionpb.GenerateRequest) {
		if request.Sampling == nil {
			request.Sampling = &ternionpb.Sampling{}
		}
		set(request.Sampling)
	}
}

func stopping(set func(*ternionpb.Stopping)) Option {
	return func(request *ternionpb.GenerateRequest) {
		if request.Stopping == nil {
			request.Stopping = &ternionpb.Stopping{}
		}
		set(request.Stopping)
	}
}

func with(request *ternionpb.GenerateRequest, options []Option) *ternionpb.GenerateRequest {
	for _, option := range options {
		option(request)
	}
	return request
}
