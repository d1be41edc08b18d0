package ternion

import (
	"testing"

	"go.uber.org/goleak"
)

// Every test has to leave no goroutine behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(allTests{m})
}

type allTests struct{ m *testing.M }

func (tests allTests) Run() int {
	defer stopSharedServer()
	return tests.m.Run()
}
