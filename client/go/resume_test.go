package ternion

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// relay forwards connections to a server, until it cuts them.
type relay struct {
	listener net.Listener
	mutex    sync.Mutex
	open     []net.Conn
	count    int
}

func startRelay(t *testing.T, address string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := &relay{listener: listener}
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				continue
			}
			started.mutex.Lock()
			started.open = append(started.open, client, server)
			started.count++
			started.mutex.Unlock()
			for _, ends := range [][2]net.Conn{{client, server}, {server, client}} {
				forwarding.Go(func() {
					_, _ = io.Copy(ends[0], ends[1])
					_ = ends[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		started.cut()
		forwarding.Wait()
	})
	return started
}

func (r *relay) cut() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, end := range r.open {
		_ = end.Close()
	}
	r.open = nil
}

func TestResumableRequestsSurviveACut(t *testing.T) {
	server := startServer(t, "127.0.0.1:0", "--outbox-capacity", "4")
	direct := server.client(t, Config{})
	read := func(client *Client, options []Option, at func(tokens int)) (string, int) {
		var text strings.Builder
		tokens := 0
		// Large frames, so that few of them are on their way when it is cut.
		request := Text("Once upon a time", append(options, Logprobs(20))...)
		for event, err := range client.Generate(t.Context(), request) {
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(event.Delta.GetText())
			before := tokens
			tokens += len(event.Delta.GetTokenIds())
			if before < 100 && tokens >= 100 || before < 400 && tokens >= 400 {
				at(tokens)
			}
		}
		return text.String(), tokens
	}
	long := []Option{Temperature(0), MaxTokens(longTokens), IgnoreEOS()}
	whole, _ := read(direct, long, func(int) {})

	relay := startRelay(t, server.address)
	cut := connect(t, "http://"+relay.listener.Addr().String(), Config{})
	text, tokens := read(cut, append(long, Resumable()), func(int) { relay.cut() })
	if text != whole || tokens != longTokens {
		t.Errorf("%d tokens, and not the same text: %q", tokens, text)
	}
	if relay.count < 2 {
		t.Error("it was never cut")
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
