package oob

import (
	"errors"
	"strings"
	"time"

	"gururmm/internal/neterr"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Errors to branch on.
var (
	// ErrRejected: the server does not accept this endpoint's identity (401).
	// Trying again soon can't help: back off long.
	ErrRejected = errors.New("the server does not accept this endpoint's identity")
	// ErrNoDoors: no out-of-band endpoint is configured.
	ErrNoDoors = errors.New("no out-of-band endpoint is configured")
	// ErrTooLarge: a report or answer exceeds its bound.
	ErrTooLarge = errors.New("exceeds its size limit")
	// ErrResting: the server asked to be left alone; nothing was sent.
	ErrResting = errors.New("the server asked to wait")
)

// DoorError tells which door failed and how, in the network-error vocabulary.
type DoorError struct {
	Door        string // URL
	Phase, Type string
	Status      int           // of HTTP, if it got that far
	RetryAfter  time.Duration // the server asked to wait so long
	Err         error

	held *int64 // of a bundle, by the server's word
}

func (e *DoorError) Error() string { return e.Door + ": " + neterr.Plain(e.Err) }
func (e *DoorError) Unwrap() error { return e.Err }

// NetworkError gives e as a fact for a snapshot.
func (e *DoorError) NetworkError() *selfcheck.NetworkError {
	n := &selfcheck.NetworkError{Phase: e.Phase, Type: e.Type, Detail: neterr.Plain(e.Err), Status: e.Status}
	if p, ok := errors.AsType[wire.Problem](e.Err); ok {
		n.Code = p.Code
	}
	return n
}

// allFailed holds a *DoorError for each door tried, in the order of trying.
type allFailed []error

func (e allFailed) Unwrap() []error { return e }
func (e allFailed) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// NetworkError finds a fact for a snapshot in any error of [Client.Beacon] and
// [Client.Poll]; of several doors it is that of the first one tried. nil for nil.
func NetworkError(err error) *selfcheck.NetworkError {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*DoorError](err); ok {
		return e.NetworkError()
	}
	phase, typ := neterr.Classify(err)
	return &selfcheck.NetworkError{Phase: phase, Type: typ, Detail: neterr.Plain(err)}
}

// RetryAfter is how long the server asked, in err, to be left alone; 0: it did not.
// When doors differ the shortest wait counts.
func RetryAfter(err error) time.Duration {
	if all, ok := errors.AsType[allFailed](err); ok {
		least := time.Duration(0)
		for i, one := range all {
			if d := RetryAfter(one); i == 0 || d < least {
				least = d
			}
		}
		return least
	}
	if e, ok := errors.AsType[*DoorError](err); ok {
		return e.RetryAfter
	}
	return 0
}
