package ternion_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	ternion "github.com/ternion-ai/ternion/client/go"
	"github.com/ternion-ai/ternion/client/go/ternionpb"
)

func Example() {
	client, err := ternion.Connect("http://127.0.0.1:50051", ternion.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for event, err := range client.Generate(context.Background(), ternion.Text("Once upon a time")) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.Delta.GetText())
	}
}

func ExampleConnect() {
	client, err := ternion.Connect("dns:///ternion.models.svc:50051", ternion.Config{
		APIKey:          "tn_…",
		CAFile:          "/etc/ternion/ca.crt",
		CertificateFile: "/etc/ternion/tls.crt",
		KeyFile:         "/etc/ternion/tls.key",
		Timeout:         time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

func ExampleSamples() {
	client, err := ternion.Connect("http://127.0.0.1:50051", ternion.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	answers := make([]string, 3)
	request := ternion.Text("Once upon a time", ternion.Samples(3), ternion.MaxTokens(64))
	for event, err := range client.Generate(context.Background(), request) {
		if err != nil {
			log.Fatal(err)
		}
		answers[event.Delta.GetIndex()] += event.Delta.GetText()
		if ended := event.Finished; ended != nil {
			fmt.Printf("%d: %s\n", ended.GetIndex(), answers[ended.GetIndex()])
		}
	}
}

func ExampleClient_Chat() {
	client, err := ternion.Connect("http://127.0.0.1:50051", ternion.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	messages := []*ternionpb.ChatMessage{
		ternion.System("Answer in one sentence."),
		ternion.User("What is a KV cache?"),
	}
	for event, err := range client.Chat(ctx, messages, ternion.Temperature(0), ternion.MaxTokens(64)) {
		if quota, is := errors.AsType[*ternion.ResourceExhaustedError](err); is {
			log.Fatalf("come back in %v", quota.RetryAfter)
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.Delta.GetText())
		if event.Finished != nil {
			fmt.Println("\n", event.Finished.GetUsage())
		}
	}
}

func ExampleClient_Session() {
	client, err := ternion.Connect("http://127.0.0.1:50051", ternion.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	session, err := client.Session(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	for _, animal := range []string{"duck", "hedgehog"} {
		request := ternion.Text("Once there was a " + animal)
		if err := session.Start(animal, request, 10*time.Second); err != nil {
			log.Fatal(err)
		}
	}
	if err := session.CloseSend(); err != nil {
		log.Fatal(err)
	}
	for event, err := range session.Events() {
		switch {
		case err != nil:
			log.Fatal(err)
		case event.Failed != nil:
			fmt.Println(event.ID, event.Failed.Err)
		case event.Finished != nil:
			fmt.Println(event.ID, event.Finished.GetReason())
		}
	}
}
