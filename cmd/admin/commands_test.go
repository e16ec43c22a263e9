package main

import (
	"testing"

	"github.com/alecthomas/kong"
)

func TestEveryCommandSaysWhatItTakesAndCanAnswerPrograms(t *testing.T) {
	parser, err := kong.New(&commandLine{})
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(true)
	if len(leaves) < 25 {
		t.Fatalf("there are %d commands", len(leaves))
	}
	for _, command := range leaves {
		if command.Help == "" {
			t.Errorf("%s has no help", command.Path())
		}
		forPrograms := false
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				forPrograms = forPrograms || flag.Name == "json"
				if flag.Help == "" {
					t.Errorf("%s: --%s has no help", command.Path(), flag.Name)
				}
			}
		}
		for _, argument := range command.Positional {
			if argument.Help == "" {
				t.Errorf("%s: %s has no help", command.Path(), argument.Name)
			}
		}
		if !forPrograms && command.Name != "serve" { // which logs
			t.Errorf("%s has no --json", command.Path())
		}
	}
}
