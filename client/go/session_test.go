package ternion

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

func TestSessionOfManyGoroutines(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	session := openSession(t, client, t.Context())
	const requests = 16
	var starting sync.WaitGroup
	for index := range requests {
		starting.Go(func() {
			request := Messages([]*ternionpb.ChatMessage{User("What is the capital of Japan?")}, Temperature(0))
			if index%4 == 0 {
				request = Text("x", MinP(2))
			}
			if err := session.Start(fmt.Sprint(index), request, 0); err != nil {
				t.Error(err)
			}
		})
	}
	go func() {
		starting.Wait()
		_ = session.CloseSend()
	}()

	texts := map[string]string{}
	finished, refused := 0, 0
	for event, err := range session.Events() {
		if err != nil {
			t.Fatal(err)
		}
		texts[event.ID] += event.Delta.GetText()
		switch {
		case event.Finished != nil:
			finished++
			if texts[event.ID] != "The capital of Japan is Tokyo." {
				t.Errorf("%s answers %q", event.ID, texts[event.ID])
			}
		case event.Failed != nil:
			refused++
			invalid, is := errors.AsType[*InvalidArgumentError](event.Failed.Err)
			if !is || len(invalid.Violations) != 1 || invalid.Violations[0].Field != "sampling.min_p" {
				t.Errorf("%s fails with %v", event.ID, event.Failed.Err)
			}
		}
	}
	if finished != requests*3/4 || refused != requests/4 {
		t.Errorf("%d finished, %d refused", finished, refused)
	}
}

func TestSessionCancelsAndTimesOutOneByOne(t *testing.T) {
	server := sharedServer(t)
	impatient := server.client(t, Config{Timeout: 500 * time.Millisecond})
	session := openSession(t, impatient, t.Context())
	start := func(id string, request *ternionpb.GenerateRequest, timeout time.Duration) {
		if err := session.Start(id, request, timeout); err != nil {
			t.Fatal(err)
		}
	}
	start("cancelled", long(), time.Minute)
	start("late", long(), 0)
	start("whole", Text("x", Temperature(0), MaxTokens(5), IgnoreEOS()), time.Minute)
	ends := map[string]string{}
	for event, err := range session.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if event.ID == "cancelled" && event.Started != nil {
			if err := session.Cancel("cancelled"); err != nil {
				t.Fatal(err)
			}
			if err := session.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}
		if event.Finished != nil {
			ends[event.ID] = strings.TrimPrefix(event.Finished.GetReason().String(), "FINISH_REASON_")
		}
		if event.Failed != nil {
			ends[event.ID] = event.Failed.Err.Error()
			// A slow machine may not accept the request before its time is over.
			if _, is := errors.AsType[*DeadlineExceededError](event.Failed.Err); is {
				ends[event.ID] = "DEADLINE_EXCEEDED"
			}
		}
	}
	if got := fmt.Sprint(ends); got != "map[cancelled:CANCELLED late:DEADLINE_EXCEEDED whole:LENGTH]" {
		t.Error(got)
	}
}

func TestEndOfASessionCancelsOnTheServer(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	// Each says whether to go on with the loop.
	for name, end := range map[string]func(*Session, context.CancelFunc) bool{
		"leaving the loop": func(*Session, context.CancelFunc) bool { return false },
		"Close":            func(session *Session, _ context.CancelFunc) bool { session.Close(); return true },
		"its context":      func(_ *Session, cancel context.CancelFunc) bool { cancel(); return true },
	} {
		t.Run(name, func(t *testing.T) {
			before := awaitIdle(t, client)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			session := openSession(t, client, ctx)
			for _, id := range []string{"a", "b"} {
				if err := session.Start(id, long(), 0); err != nil {
					t.Fatal(err)
				}
			}
			var last error
			for event, err := range session.Events() {
				last = err
				if event.Delta != nil && !end(session, cancel) {
					break
				}
			}
			if _, is := errors.AsType[*CancelledError](last); !is && last != nil {
				t.Errorf("ended by %v", last)
			}
			if steps := awaitIdle(t, client) - before; steps >= longTokens {
				t.Errorf("the requests went on for %d steps", steps)
			}
		})
	}
}

func TestClosedSessionStartsNothing(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	for name, end := range map[string]func(*Session){
		"CloseSend": func(session *Session) { _ = session.CloseSend() },
		"Close":     (*Session).Close,
	} {
		t.Run(name, func(t *testing.T) {
			session := openSession(t, client, t.Context())
			end(session)
			if err := session.Start("late", long(), 0); !errors.Is(err, ErrSessionClosed) {
				t.Errorf("started: %v", err)
			}
		})
	}
}

func openSession(t *testing.T, client *Client, ctx context.Context) *Session {
	t.Helper()
	session, err := client.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	return session
}

// What the race detector says is the point of this one.
func TestSendersAndCloserMayBeDifferentGoroutines(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	session := openSession(t, client, t.Context())
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for session.Cancel("nobody") == nil {
			}
		})
	}
	senders.Go(func() { _ = session.CloseSend() })
	for _, err := range session.Events() {
		t.Error(err)
	}
	senders.Wait()
}

func TestTimeoutsRoundUp(t *testing.T) {
	for timeout, want := range map[time.Duration]uint32{
		1:                    1,
		time.Millisecond:     1,
		time.Millisecond + 1: 2,
		time.Second:          1000,
		math.MaxInt64:        math.MaxUint32,
	} {
		if got := wholeMilliseconds(timeout); got != want {
			t.Errorf("%v is %d ms", timeout, got)
		}
	}
}
