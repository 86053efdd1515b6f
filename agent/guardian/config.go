package guardian

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"gururmm/agent/local"
	"gururmm/internal/asleep"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Door is the second door; [oob.Client] is the real one. Calls obey their context.
type Door interface {
	Beacon(ctx context.Context, r oob.Report) (wire.PollResponse, error)
	Poll(ctx context.Context, r wire.PollRequest) (wire.PollResponse, error)
	// Offset is the server's clock minus ours; false before the first answer.
	Offset() (time.Duration, bool)
	// Door names the one that answered last, "" if none did.
	Door() string
}

// Spool keeps reports until a door took them; [oob.Spool] is the real one. It
// is safe for concurrent use.
type Spool interface {
	Put(r oob.Report) error // an error says that r is kept in memory only, and why
	Next() (id string, r oob.Report, ok bool)
	Done(id string) error
	Len() int
	Dropped() int
}

// Config of a Guardian. Fields without a default in their comment are needed.
type Config struct {
	Agent    string
	Server   string
	Presence wire.Presence // Instance fresh for each start
	Keys     []ed25519.PublicKey
	Policy   wire.Policy // in force at the start
	// SavePolicy makes a config_update last; nil: none does.
	SavePolicy func(signed wire.Envelope) error
	// StateFile keeps the ladder's state and the directives already run; "": nothing does.
	StateFile string

	Spawn func(ctx context.Context) (Child, error)
	// WorkerLog takes each line of the worker's standard error; nil: they go to Log.
	WorkerLog io.Writer

	// History takes what happens; nil: it is not kept. Run closes it.
	History History

	Door  Door  // nil: no second door is configured
	Spool Spool // needed with a Door

	// Status is where [Client] asks; nil: nowhere. Run closes it.
	Status net.Listener

	// Errands are what directives may ask for beyond what the guardian does itself;
	// a kind that is not in it is refused.
	Errands map[wire.DirectiveKind]Errand
	// Updates lets directives exchange this program; nil: they are refused.
	Updates *Updates

	// Bundles makes support bundles by itself on a verdict of an error, where there is a
	// second door to hand them in by; nil: nothing does.
	Bundles Bundles

	// SetQuarantine makes a quarantine last, or ends it, off the loop; Quarantine tells in a sentence
	// of one that is in force, "" if none is. Nil: there is none here.
	SetQuarantine func(on bool, reason string) error
	Quarantine    func() string
	// Findings stand beside each verdict: what was found wrong while all this was put together.
	Findings []selfcheck.Finding

	// StacksDir keeps the last stacks of workers that stood still or crashed, one
	// file each; it is made private. "": none are kept on disk.
	StacksDir string
	// StateDir is the directory whose disk is watched; "": none is.
	StateDir string
	// Uptime is how long this machine has been up, sleep included; ok is false if it
	// is not known. Default: as the system says.
	Uptime func() (up time.Duration, ok bool)
	// Asleep tells how long this machine was suspended. Default: as the system says.
	Asleep *asleep.Clock

	// Service: a service manager will start us again if we end uncleanly.
	Service bool
	// Notify is told of each turn of the loop, by the loop itself, at least every
	// [MaxTurn] while it is well: what is not told any more is a guardian that hangs. It must not block.
	Notify func(Turn)
	// Events are what the platform tells of the machine; nil: it tells nothing.
	Events <-chan Event
	// Gate is passed at each turn of the loop: a test blocks it while its machine
	// is suspended. Default: open.
	Gate func()
	Log  *slog.Logger // nil: discarded
	Rand *rand.Rand   // of the jitter; nil: seeded by chance
}

// Turn is what one turn of the loop came to, for whoever watches the guardian itself.
type Turn struct {
	At      time.Time
	Mode    local.Mode
	Verdict selfcheck.Verdict // unknown before the first report
}

// Event is what the platform tells of the machine.
type Event string

// The events. Not every platform tells them: a pause is noticed by its gap too.
const (
	EventSuspend Event = "suspend" // is about to happen
	EventResume  Event = "resume"
	EventSession Event = "session" // somebody logged on or off; networks and proxies like to change then
)
