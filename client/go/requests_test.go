package ternion

import (
	"testing"

	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

func TestRequestIsSeenAndCancelledFromAnotherCall(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	request := long()
	RequestID("mine")(request)
	var reason ternionpb.FinishReason
	asked := false
	for event, err := range client.Generate(t.Context(), request) {
		if err != nil && !asked {
			t.Fatal(err)
		}
		if event.Finished != nil {
			reason = event.Finished.GetReason()
		}
		if event.Delta == nil || asked {
			continue
		}
		asked = true
		alive, err := client.ListRequests(t.Context())
		if err != nil || len(alive) != 1 || alive[0].GetRequestId() != "mine" || alive[0].GetInSession() {
			t.Errorf("%v, %v", alive, err)
		}
		if cancelled, err := client.CancelRequest(t.Context(), "another"); cancelled != 0 || err != nil {
			t.Errorf("%d cancelled, %v", cancelled, err)
		}
		if cancelled, err := client.CancelRequest(t.Context(), "mine"); cancelled != 1 || err != nil {
			t.Errorf("%d cancelled, %v", cancelled, err)
		}
	}
	if reason != ternionpb.FinishReason_FINISH_REASON_CANCELLED {
		t.Errorf("ended by %v", reason)
	}
}
