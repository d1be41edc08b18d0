package ternion

import (
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// relay forwards connections to a server, and breaks the first ones: one for
// each of cuts, once so many bytes of the server have gone over it.
type relay struct {
	address string
	count   atomic.Int64
}

func startRelay(t *testing.T, server string, cuts ...int64) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := &relay{address: listener.Addr().String()}
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			cut := int64(math.MaxInt64)
			if n := int(started.count.Add(1)); n <= len(cuts) {
				cut = cuts[n-1]
			}
			forwarding.Go(func() { forward(client, server, cut) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		forwarding.Wait()
	})
	return started
}

func forward(client net.Conn, address string, cut int64) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		_ = client.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.CopyN(client, server, cut)
	_ = client.Close()
	_ = server.Close()
	both.Wait()
}

func TestResumableRequestsSurviveCuts(t *testing.T) {
	server := startServer(t, "127.0.0.1:0")
	direct := server.client(t, Config{})
	read := func(client *Client, options ...Option) (string, int) {
		var text strings.Builder
		tokens := 0
		// Of large frames, some 300 KB in all: more than goes through before a cut.
		long := []Option{Temperature(0), MaxTokens(longTokens), IgnoreEOS(), Logprobs(20)}
		for event, err := range client.Generate(t.Context(), Text("Once upon a time", append(long, options...)...)) {
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(event.Delta.GetText())
			tokens += len(event.Delta.GetTokenIds())
		}
		return text.String(), tokens
	}
	whole, _ := read(direct)
	relay := startRelay(t, server.address, 20_000, 60_000)
	cut, err := Connect("http://"+relay.address, Config{})
	if err != nil {
		t.Fatal(err)
	}
	text, tokens := read(cut, Resumable())
	_ = cut.Close()
	if text != whole || tokens != longTokens {
		t.Errorf("%d tokens, and not the same text: %q", tokens, text)
	}
	if connections := relay.count.Load(); connections != 3 {
		t.Errorf("%d connections", connections)
	}
	if steps := awaitIdle(t, direct); steps > 2*longTokens {
		t.Errorf("%d steps: something was generated twice", steps)
	}
}

func TestAnIdempotencyKeyGeneratesOnce(t *testing.T) {
	server := startServer(t, "127.0.0.1:0")
	client := server.client(t, Config{})
	answers := map[string]int{}
	for range 3 {
		var text strings.Builder
		request := Text("Once upon a time", MaxTokens(50), IgnoreEOS(), IdempotencyKey("order 17"))
		for event, err := range client.Generate(t.Context(), request) {
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(event.Delta.GetText())
		}
		answers[text.String()]++
	}
	if len(answers) != 1 {
		t.Errorf("answers %v", answers)
	}
	if steps := awaitIdle(t, client); steps > 50 {
		t.Errorf("%d steps", steps)
	}
}

func TestASessionReadsOnWhatAnotherBegan(t *testing.T) {
	client := sharedServer(t).client(t, Config{})
	request := Text("Once upon a time", MaxTokens(40), IgnoreEOS(), Temperature(0), Resumable())
	first, err := client.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start("go on", request, 0); err != nil {
		t.Fatal(err)
	}
	var ids []uint32
	var last uint64
	for event, err := range first.Events() {
		if err != nil {
			t.Fatal(err)
		}
		ids, last = append(ids, event.Delta.GetTokenIds()...), event.Seq
		if len(ids) > 0 {
			break
		}
	}
	second, err := client.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start("again", ResumeFrom("go on", &last), 0); err != nil {
		t.Fatal(err)
	}
	for event, err := range second.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if event.Failed != nil || event.Seq != last+1 {
			t.Fatalf("%v after %d", event, last)
		}
		ids, last = append(ids, event.Delta.GetTokenIds()...), event.Seq
		if event.Finished != nil {
			break
		}
	}
	whole := TokenIDs(nil)
	whole.Input = request.GetInput()
	whole.Sampling, whole.Stopping = request.GetSampling(), request.GetStopping()
	var want []uint32
	for event, err := range client.Generate(t.Context(), whole) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, event.Delta.GetTokenIds()...)
	}
	if len(ids) != 40 || !slices.Equal(ids, want) {
		t.Errorf("%v instead of %v", ids, want)
	}
}
