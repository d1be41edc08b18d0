package ternion

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrSessionClosed is in the [TransportError] of a Session that can't start
// anything any more.
var ErrSessionClosed = errors.New("the session is closed")

// statusError is what all errors have that are a server's answer.
type statusError struct {
	status *status.Status
}

// Error is the server's message.
func (e statusError) Error() string {
	return e.status.Message()
}

// GRPCStatus is the status as received, for details that have no place in the
// error itself. [status.Code] finds it.
func (e statusError) GRPCStatus() *status.Status {
	return e.status
}

// InvalidArgumentError says that the request is wrong, or that this server
// can't do it at all: sending it again gives the same answer. Its code is
// INVALID_ARGUMENT, OUT_OF_RANGE, ALREADY_EXISTS, FAILED_PRECONDITION or
// UNIMPLEMENTED.
type InvalidArgumentError struct {
	statusError
	// Violations say what is wrong, field by field.
	Violations []Violation
}

// Violation is one field of a request and what is wrong with it.
type Violation struct {
	// Field is its path, such as sampling.temperature.
	Field string
	// Description says what it must be, and what it was.
	Description string
}

// Error is the server's message, and the violations that it does not spell out.
func (e *InvalidArgumentError) Error() string {
	message := e.status.Message()
	text := message
	for _, violation := range e.Violations {
		if !strings.Contains(message, violation.Description) {
			text += "\n  " + violation.Field + ": " + violation.Description
		}
	}
	return text
}

// NotFoundError says that the named thing, usually a model, is not there.
type NotFoundError struct {
	statusError
	// Kind of thing, such as model, and its name as asked for. Empty if the
	// server did not tell.
	Kind, Name string
}

// DeniedError says that the caller is unknown (UNAUTHENTICATED) or may not do
// this (PERMISSION_DENIED).
type DeniedError struct{ statusError }

// ResourceExhaustedError says that a queue is full or a quota is used up.
type ResourceExhaustedError struct {
	statusError
	// RetryAfter is how long the server asks to wait before trying again.
	// Zero if it did not tell.
	RetryAfter time.Duration
}

// UnavailableError says that the server takes no requests now: it is starting
// or draining.
type UnavailableError struct {
	statusError
	// RetryAfter is how long the server asks to wait before trying again.
	// Zero if it did not tell.
	RetryAfter time.Duration
}

// DeadlineExceededError says that the request's time was over before it was
// through. It is a [context.DeadlineExceeded].
type DeadlineExceededError struct{ statusError }

// Is makes errors.Is find context.DeadlineExceeded.
func (*DeadlineExceededError) Is(target error) bool {
	return target == context.DeadlineExceeded
}

// CancelledError says that the request was cancelled. It is a
// [context.Canceled].
type CancelledError struct{ statusError }

// Is makes errors.Is find context.Canceled.
func (*CancelledError) Is(target error) bool {
	return target == context.Canceled
}

// InternalError says that the server failed; its operator finds more in its
// log. Its code is any that no other error has.
type InternalError struct{ statusError }

// TransportError says that there was no connection to the server, or that the
// one there was broke.
type TransportError struct {
	cause error
}

// Error is what the transport reported.
func (e *TransportError) Error() string {
	if found, is := status.FromError(e.cause); is {
		return found.Message()
	}
	return e.cause.Error()
}

// GRPCStatus is UNAVAILABLE, for no status was received.
func (e *TransportError) GRPCStatus() *status.Status {
	return status.New(codes.Unavailable, e.Error())
}

// Unwrap gives what the transport reported.
func (e *TransportError) Unwrap() error {
	return e.cause
}

// classify sorts what a server answered.
func classify(received *status.Status) error {
	base := statusError{received}
	switch received.Code() {
	case codes.InvalidArgument, codes.OutOfRange, codes.AlreadyExists, codes.FailedPrecondition, codes.Unimplemented:
		return &InvalidArgumentError{statusError: base, Violations: violations(received)}
	case codes.NotFound:
		resource := detail[*errdetails.ResourceInfo](received)
		return &NotFoundError{statusError: base, Kind: resource.GetResourceType(), Name: resource.GetResourceName()}
	case codes.Unauthenticated, codes.PermissionDenied:
		return &DeniedError{base}
	case codes.ResourceExhausted:
		return &ResourceExhaustedError{statusError: base, RetryAfter: retryAfter(received)}
	case codes.Unavailable:
		return &UnavailableError{statusError: base, RetryAfter: retryAfter(received)}
	case codes.DeadlineExceeded:
		return &DeadlineExceededError{base}
	case codes.Canceled:
		return &CancelledError{base}
	default:
		return &InternalError{base}
	}
}

func violations(received *status.Status) []Violation {
	var found []Violation
	for _, violation := range detail[*errdetails.BadRequest](received).GetFieldViolations() {
		found = append(found, Violation{Field: violation.GetField(), Description: violation.GetDescription()})
	}
	return found
}

func retryAfter(received *status.Status) time.Duration {
	return detail[*errdetails.RetryInfo](received).GetRetryDelay().AsDuration()
}

// detail is the first of its type, or nil, which its getters take.
func detail[Detail any](received *status.Status) Detail {
	for _, any := range received.Details() {
		if detail, is := any.(Detail); is {
			return detail
		}
	}
	var none Detail
	return none
}
