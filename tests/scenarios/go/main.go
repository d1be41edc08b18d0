// Command scenarios does through the Go client what a scenario file says, and
// prints what it saw: see README.md above.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	ternion "github.com/ternion-ai/ternion/client/go"
)

func main() {
	endpoint := flag.String("endpoint", "", "where the server is")
	ca := flag.String("ca", "", "PEM file of the authority that the server's certificate is of")
	keys := flag.String("keys", "", "JSON file of an object from names to API keys")
	scenarios := flag.String("scenarios", "", "JSON file of scenarios")
	flag.Parse()
	if err := run(*endpoint, *ca, *keys, *scenarios); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(endpoint, ca, keysFile, scenariosFile string) error {
	var keys map[string]string
	if err := read(keysFile, &keys); err != nil {
		return err
	}
	var scenarios []scenario
	if err := read(scenariosFile, &scenarios); err != nil {
		return err
	}
	lines := json.NewEncoder(os.Stdout)
	lines.SetEscapeHTML(false)
	for _, scenario := range scenarios {
		config := ternion.Config{CAFile: ca}
		if scenario.As != "" {
			key, known := keys[scenario.As]
			if !known {
				return fmt.Errorf("%s: no key for %q", scenario.Name, scenario.As)
			}
			config.APIKey = key
		}
		client, err := ternion.Connect(endpoint, config)
		if err != nil {
			return err
		}
		seen, err := scenario.play(context.Background(), client)
		if err != nil {
			return fmt.Errorf("%s: %w", scenario.Name, err)
		}
		if err := client.Close(); err != nil {
			return fmt.Errorf("%s: %w", scenario.Name, err)
		}
		if err := lines.Encode(line{Scenario: scenario.Name, Seen: seen}); err != nil {
			return err
		}
	}
	return nil
}

type line struct {
	Scenario string `json:"scenario"`
	Seen     any    `json:"seen"`
}

func read(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
