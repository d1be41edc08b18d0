package ternion

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

const longTokens = 900

// long runs for longTokens steps unless it is cancelled.
func long() *ternionpb.GenerateRequest {
	return Text("Once upon a time", Temperature(0), MaxTokens(longTokens), IgnoreEOS())
}

func TestChatAnswersAsTheReferenceDoes(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	var text strings.Builder
	var order []string
	var finished *ternionpb.Finished
	messages := []*ternionpb.ChatMessage{User("What is the capital of Japan?")}
	for event, err := range client.Chat(t.Context(), messages, Temperature(0)) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case event.Queued != nil:
			order = append(order, "queued")
		case event.Started != nil:
			order = append(order, "started")
		case event.Finished != nil:
			order = append(order, "finished")
			finished = event.Finished
		}
		text.WriteString(event.Delta.GetText())
	}
	if text.String() != "The capital of Japan is Tokyo." {
		t.Errorf("answer %q", text.String())
	}
	if strings.Join(order, " ") != "queued started finished" {
		t.Errorf("events %v", order)
	}
	if finished.GetReason() != ternionpb.FinishReason_FINISH_REASON_STOP {
		t.Errorf("ended by %v", finished)
	}
}

func TestOptionsReachTheServer(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	request := TokenIDs(
		[]uint32{1, 2}, Model("ternion-demo"), Temperature(-1), TopP(0), MinP(2), RepetitionPenalty(-1),
		PresencePenalty(3), FrequencyPenalty(3), MaxTokens(0), Stop(""), Priority(1000), Logprobs(1000),
	)
	for _, err := range client.Generate(t.Context(), request) {
		invalid, is := errors.AsType[*InvalidArgumentError](err)
		if !is {
			t.Fatalf("not refused: %v", err)
		}
		for _, field := range []string{
			"sampling.temperature", "sampling.top_p", "sampling.min_p", "sampling.repetition_penalty",
			"sampling.presence_penalty", "sampling.frequency_penalty", "stopping.max_tokens", "stopping.stop",
			"priority", "logprobs",
		} {
			if !strings.Contains(err.Error(), field) {
				t.Errorf("%s is not named by %v", field, invalid.Violations)
			}
		}
	}
}

func TestSeedDecides(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	told := func(seed uint64) string {
		var text strings.Builder
		request := Text("Once upon a time", Temperature(1), TopK(0), Seed(seed), MaxTokens(30), IgnoreEOS())
		for event, err := range client.Generate(t.Context(), request) {
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(event.Delta.GetText())
		}
		return text.String()
	}
	if first, again := told(7), told(7); first != again {
		t.Errorf("%q is not %q", first, again)
	}
	if told(7) == told(8) {
		t.Error("another seed tells the same")
	}
}

func TestSamplesAreToldApartAndEachIsThatOfItsSeed(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	told := func(seed uint64, samples int, more ...Option) ([]string, []*ternionpb.Finished) {
		texts := make([]string, samples)
		var endings []*ternionpb.Finished
		options := append(more, Temperature(1.5), Seed(seed), MaxTokens(12))
		for event, err := range client.Generate(t.Context(), Text("Once", options...)) {
			if err != nil {
				t.Fatal(err)
			}
			texts[event.Delta.GetIndex()] += event.Delta.GetText()
			if event.Finished != nil {
				endings = append(endings, event.Finished)
			}
		}
		return texts, endings
	}
	texts, endings := told(7, 3, Samples(3))
	for index, text := range texts {
		if alone, _ := told(7+uint64(index), 1); alone[0] != text {
			t.Errorf("sample %d is %q, alone %q", index, text, alone[0])
		}
	}
	if texts[0] == texts[1] || texts[1] == texts[2] {
		t.Errorf("samples are the same: %q", texts)
	}
	if len(endings) != 3 {
		t.Fatalf("endings %v", endings)
	}
	for place, ending := range endings {
		isLast := place == 2
		if int(ending.GetRemaining()) != 2-place || (ending.Usage != nil) != isLast {
			t.Errorf("ending %d is %v", place, ending)
		}
	}
}

func TestLeavingTheLoopCancelsOnTheServer(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	before := awaitIdle(t, client)
	for event, err := range client.Generate(t.Context(), long()) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Delta != nil {
			break
		}
	}
	if steps := awaitIdle(t, client) - before; steps >= longTokens {
		t.Errorf("the request went on for %d steps", steps)
	}
}

func TestCancellingTheContextCancelsOnTheServer(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	before := awaitIdle(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for event, err := range client.Generate(ctx, long()) {
		if event.Delta != nil {
			cancel()
		}
		last = err
	}
	if _, is := errors.AsType[*CancelledError](last); !is || !errors.Is(last, context.Canceled) {
		t.Errorf("ended by %v", last)
	}
	if steps := awaitIdle(t, client) - before; steps >= longTokens {
		t.Errorf("the request went on for %d steps", steps)
	}
}

func TestDeadlineEndsTheLoop(t *testing.T) {
	server := sharedServer(t)
	const time = 500 * time.Millisecond
	byContext, cancel := context.WithTimeout(t.Context(), time)
	defer cancel()
	for name, run := range map[string]struct {
		ctx    context.Context
		config Config
	}{
		"of the context": {byContext, Config{}},
		"of the client":  {t.Context(), Config{Timeout: time}},
	} {
		t.Run(name, func(t *testing.T) {
			client := server.client(t, run.config)
			var last error
			for _, err := range client.Generate(run.ctx, long()) {
				last = err
			}
			if _, is := errors.AsType[*DeadlineExceededError](last); !is || !errors.Is(last, context.DeadlineExceeded) {
				t.Errorf("ended by %v", last)
			}
		})
	}
}

func TestNothingIsSentWithoutALoop(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	before := awaitIdle(t, client)
	_ = client.Generate(t.Context(), long())
	if after := awaitIdle(t, client); after != before {
		t.Errorf("%d steps", after-before)
	}
}

func TestRequestsLeaveNoGoroutines(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	for range client.Generate(t.Context(), Text("x", MaxTokens(1))) {
	}
	connected := goleak.IgnoreCurrent()
	for range 10 {
		for event := range client.Generate(t.Context(), long()) {
			if event.Delta != nil {
				break
			}
		}
		session := openSession(t, client, t.Context())
		if err := session.Start("a", long(), 0); err != nil {
			t.Fatal(err)
		}
		for event := range session.Events() {
			if event.Delta != nil {
				break
			}
		}
		// This one is opened and closed, and nobody reads.
		session = openSession(t, client, t.Context())
		if err := session.Start("a", long(), 0); err != nil {
			t.Fatal(err)
		}
		session.Close()
	}
	goleak.VerifyNone(t, connected)
}
