package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/neterr"
	"gururmm/internal/wrap"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Reasons why a link ends, or never began; branch on them with errors.Is.
var (
	// ErrSilent: no frame of any kind came within the policy's dead deadline.
	ErrSilent = errors.New("no frame came within the dead deadline")
	// ErrUnverified: upgraded, but text and probes did not pass both ways in time.
	ErrUnverified = errors.New("the link was not verified in time")
	// ErrOverrun: more texts came than were taken; see [Options.Receive].
	ErrOverrun = errors.New("texts came faster than they were taken")
	// ErrPlain: ws:// to anywhere but loopback would show the token to the network.
	ErrPlain = errors.New("plain ws:// is for loopback only")
	// ErrProtocol: the peer answered, but not as a server of this protocol does.
	ErrProtocol = errors.New("the server does not speak this protocol")

	errUpgradeTimeout = errors.New("the upgrade was not answered in time")
	errWriteTimeout   = errors.New("a frame could not be written in time")
	errSubprotocol    = fmt.Errorf("%w: upgraded without subprotocol %s", ErrProtocol, wire.Subprotocol)
)

// Refused says that the server answered the upgrade with an HTTP error.
type Refused struct {
	Status  int
	Problem wire.Problem // empty if the answer was no problem document
	// RetryAfter is what the server asked for; 0: nothing.
	RetryAfter time.Duration
}

func (e *Refused) Error() string {
	if e.Problem.Title != "" {
		return fmt.Sprintf("upgrade refused with %d: %v", e.Status, e.Problem)
	}
	return fmt.Sprintf("upgrade refused with %d %s", e.Status, http.StatusText(e.Status))
}

// Unauthorized reports whether the identity itself was refused: trying again
// soon is of no use. A wrong clock is not that: it has been corrected meanwhile.
func (e *Refused) Unauthorized() bool {
	return e.Status == http.StatusUnauthorized && e.Problem.Code != wire.ProblemClock
}

// maxAsked bounds how long a server may have us wait; a server that is asked again
// after that says so again.
const maxAsked = 5 * time.Minute

// Asked tells whether err is a server's word that it can't have this link now, when it
// wants to be called again, and why. That is no failure of the path, nor ours.
func Asked(err error) (after time.Duration, why string, ok bool) {
	if closed, is := errors.AsType[*websocket.CloseError](err); is {
		if after, ok = wire.ParseComeBack(closed.Text); ok {
			return min(after, maxAsked), "it went down in order", true
		}
	}
	r, is := errors.AsType[*Refused](err)
	if !is || r.Status != http.StatusServiceUnavailable || r.RetryAfter == 0 {
		return 0, "", false
	}
	switch r.Problem.Code {
	case wire.ProblemBusy:
		why = "too many agents want a link at once"
	case wire.ProblemDraining:
		why = "it is going down"
	default:
		return 0, "", false
	}
	// Whole seconds, and the same for all that a server which goes down refuses: spread.
	after = min(r.RetryAfter, maxAsked)
	return after + rand.N(after/4+time.Second), why, true
}

// maxDetail bounds the detail of a described error in bytes.
const maxDetail = 300

// types gives the type for errors of this package.
var types = []struct {
	err error
	typ string
}{
	{errUpgradeTimeout, neterr.WSHandshakeTimedOut},
	{errWriteTimeout, neterr.WSWriteTimedOut},
	{errSubprotocol, neterr.WSSubprotocol},
	{ErrSilent, neterr.WSSilent},
	{ErrUnverified, neterr.WSUnverified},
	{ErrProtocol, neterr.WSProtocol},
	{ErrOverrun, neterr.WSTooLarge},
	{websocket.ErrReadLimit, neterr.WSTooLarge},
}

// Describe names err in the network-error vocabulary; nil for nil.
func Describe(err error) *selfcheck.NetworkError {
	if err == nil {
		return nil
	}
	d := &selfcheck.NetworkError{Detail: neterr.Plain(err)}
	d.Detail = wrap.Clip(d.Detail, maxDetail)
	if r, ok := errors.AsType[*Refused](err); ok {
		d.Code = r.Problem.Code
		d.Type, d.Status = neterr.WSUpgradeRefused, r.Status
		if r.Status >= 400 {
			d.Type = neterr.HTTPError
		}
	} else if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		d.Type = neterr.WSClosed
	}
	for _, known := range types {
		if d.Type == "" && errors.Is(err, known.err) {
			d.Type = known.typ
		}
	}
	if d.Type == "" {
		d.Phase, d.Type = neterr.Classify(err)
		return d
	}
	d.Phase = neterr.Phase(d.Type)
	return d
}
