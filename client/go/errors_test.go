package ternion

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestEachCodeHasItsError(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.InvalidArgument:    &InvalidArgumentError{},
		codes.OutOfRange:         &InvalidArgumentError{},
		codes.AlreadyExists:      &InvalidArgumentError{},
		codes.FailedPrecondition: &InvalidArgumentError{},
		codes.Unimplemented:      &InvalidArgumentError{},
		codes.NotFound:           &NotFoundError{},
		codes.Unauthenticated:    &DeniedError{},
		codes.PermissionDenied:   &DeniedError{},
		codes.ResourceExhausted:  &ResourceExhaustedError{},
		codes.Unavailable:        &UnavailableError{},
		codes.DeadlineExceeded:   &DeadlineExceededError{},
		codes.Canceled:           &CancelledError{},
		codes.Internal:           &InternalError{},
		codes.DataLoss:           &InternalError{},
		codes.Unknown:            &InternalError{},
	} {
		err := classify(status.New(code, "as told"))
		if reflect.TypeOf(err) != reflect.TypeOf(want) {
			t.Errorf("%v is a %T", code, err)
		}
		if err.Error() != "as told" || status.Code(err) != code {
			t.Errorf("%v says %q and has code %v", code, err, status.Code(err))
		}
	}
}

func TestFieldsOfABadRequestAreNamed(t *testing.T) {
	err := classify(withDetails(t, status.New(codes.InvalidArgument, "2 fields are wrong: top_p is 0"),
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "sampling.top_p", Description: "is 0"},
			{Field: "sampling.min_p", Description: "is 2, at most 1"},
		}}))
	invalid, is := errors.AsType[*InvalidArgumentError](err)
	if !is {
		t.Fatalf("a %T", err)
	}
	want := []Violation{{"sampling.top_p", "is 0"}, {"sampling.min_p", "is 2, at most 1"}}
	if !reflect.DeepEqual(invalid.Violations, want) {
		t.Errorf("fields %v", invalid.Violations)
	}
	if err.Error() != "2 fields are wrong: top_p is 0\n  sampling.min_p: is 2, at most 1" {
		t.Errorf("says %q", err)
	}
}

func TestDelaysAndResourcesAreTold(t *testing.T) {
	delay := &errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}
	busy := classify(withDetails(t, status.New(codes.ResourceExhausted, "quota"), delay))
	if exhausted, is := errors.AsType[*ResourceExhaustedError](busy); !is || exhausted.RetryAfter != 1500*time.Millisecond {
		t.Errorf("%#v", busy)
	}
	gone := classify(withDetails(t, status.New(codes.Unavailable, "draining"), delay))
	if unavailable, is := errors.AsType[*UnavailableError](gone); !is || unavailable.RetryAfter != 1500*time.Millisecond {
		t.Errorf("%#v", gone)
	}
	none := classify(withDetails(t, status.New(codes.NotFound, "no model"),
		&errdetails.ResourceInfo{ResourceType: "model", ResourceName: "gpt-17"}))
	if missing, is := errors.AsType[*NotFoundError](none); !is || missing.Kind != "model" || missing.Name != "gpt-17" {
		t.Errorf("%#v", none)
	}
}

func withDetails(t *testing.T, plain *status.Status, details ...protoadapt.MessageV1) *status.Status {
	t.Helper()
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return detailed
}
