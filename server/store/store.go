// Package store keeps what the server must not forget: agents, tokens,
// commands with their stages and output, directives, beacons.
//
// Rules that hold here:
//   - a method that returns without error has its effect on disk (Seen, NoteEvent,
//     SaveMetrics and the "last used" of a token excepted: those are batched);
//   - times are integer microseconds UTC; a time that never was is NULL, and
//     absent in the types, never zero;
//   - of tokens only a hash is kept;
//   - nothing is ever reset: a damaged or newer database is a clear error that
//     names the file.
//
// The meaning of a command's states is not known here; see package delivery.
package store

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// Errors to branch on.
var (
	ErrNotFound = errors.New("not found")
	// ErrRemoved: the agent was removed by an operator; nothing is kept of it any more.
	ErrRemoved = errors.New("the agent was removed by an operator")
	// ErrQuarantined: the agent takes no commands until an operator lifts that.
	ErrQuarantined = errors.New("the agent is quarantined")
	// ErrConflict: someone else changed the row since it was read, or the name is taken.
	ErrConflict = errors.New("changed or taken by someone else")
	// ErrTokenInvalid: unknown, spent or expired. Which of them is not said.
	ErrTokenInvalid = errors.New("token is unknown, spent or expired")
	// ErrNewerSchema: the database was written by a newer version of this program.
	ErrNewerSchema = errors.New("database is of a newer version of this program")
	// ErrFull: the database's disk is full; nothing was written.
	ErrFull = errors.New("the disk of the server's database is full")
	// ErrNoRoom: what was set aside for things of this kind is used up.
	ErrNoRoom = errors.New("no room is left of what is set aside for this")
	// ErrCorrupt: the database file is damaged. It is left as it is.
	ErrCorrupt = errors.New("database file is damaged")
	// ErrUnavailable: the database can't be reached at the moment; nothing was written.
	ErrUnavailable = errors.New("the database can't be reached at the moment")
	// ErrUnknown: the connection broke while a write was committed, and the database could
	// not be asked since: it may be stored.
	ErrUnknown = errors.New("the database can't be reached: whether this was stored is not known")
	// ErrInUse: another server works on the database.
	ErrInUse = errors.New("another server works on this database")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
)

const (
	// MinPrefix is how much of an id, in bytes, may stand for it: fewer name one by chance.
	MinPrefix = 4
	// MinEnding is how much of the end of a command's id may stand for it, in hex digits (and
	// hyphens between them), and EndingsAmong how many commands, the newest, are looked at for it.
	MinEnding    = 6
	EndingsAmong = 10_000
	// MaxFound is how many commands of one prefix are told: enough to see that it is none.
	MaxFound = 6
)

// Store is what hub, delivery and api need of a database. All methods are safe
// for concurrent use.
type Store interface {
	Agents
	Removal
	Tags
	Tokens
	Commands
	Directives
	Beacons
	AgentEvents
	Builds
	Bundles
	Resolutions
	Rollouts
	Jobs
	Retention
	// Ready tells whether the database answers and can be written.
	Ready(ctx context.Context) error
	// Close writes what is batched and closes the database.
	Close() error
}

// Agents are the enrolled endpoints.
type Agents interface {
	Agent(ctx context.Context, id string) (Agent, error)
	// FindAgents gives those whose id is ref, else those whose name is (case does
	// not matter), else those whose id begins so, if ref has [MinPrefix] bytes.
	FindAgents(ctx context.Context, ref string) ([]Agent, error)
	// Agents lists all by name, but for those that were removed; see [Removal].
	Agents(ctx context.Context) ([]Agent, error)
	// CountAgents counts the same.
	CountAgents(ctx context.Context) (int, error)
	// UpdatePresence records what an agent said of itself: host name, platform, version, fingerprint.
	UpdatePresence(ctx context.Context, id string, p wire.Presence) error
	SetQuarantined(ctx context.Context, id string, on bool) error
	// Seen notes a sign of life, via text, ping, beacon or poll. It never blocks; written in batches.
	Seen(agent string, at time.Time, via string)
	// SaveMetrics keeps the latest ones of an agent. It never blocks; written in batches.
	SaveMetrics(agent string, m wire.Metrics)
	// Flush writes the batch now.
	Flush(ctx context.Context) error
}

// Agent is an enrolled endpoint.
type Agent struct {
	ID          string
	PublicKey   ed25519.PublicKey
	Name        string // host name
	Site        string
	Platform    wire.Platform
	Version     string
	Fingerprint string
	EnrolledAt  time.Time
	Quarantined bool
	LastSeen    *time.Time
	LastVia     string
	Metrics     *wire.Metrics
	// Was is the identity that this machine had a copy of before it enrolled as this agent; "": none.
	Was string
	// RemovedAt is when an operator removed it, RemovedBy which one; nil: it is there.
	RemovedAt *time.Time
	RemovedBy string
}

// Hash is the SHA-256 of a token; tokens are random enough to need no salt.
type Hash [sha256.Size]byte

// HashToken hashes a token for storage and look-up.
func HashToken(token string) Hash { return sha256.Sum256([]byte(token)) }

// Tokens are the secrets handed out, as hashes.
type Tokens interface {
	// CreateEnrollToken stores t (ID, Site, UsesLeft, CreatedAt, ExpiresAt) under hash; t.Token is not stored.
	CreateEnrollToken(ctx context.Context, hash Hash, t operator.EnrollToken) error
	// EnrollTokens lists all, newest first, spent and expired ones too.
	EnrollTokens(ctx context.Context) ([]operator.EnrollToken, error)
	DeleteEnrollToken(ctx context.Context, id string) error
	// TradeToken spends one use and creates a, at the token's site, in one
	// transaction. The same key trading the same token again gets the agent it
	// made the first time, at no use: an answer lost on the way locks nobody out.
	// The error is ErrTokenInvalid, or ErrConflict if the key is another agent's.
	TradeToken(ctx context.Context, hash Hash, a Agent, now time.Time) (Agent, error)

	// CreateOperatorToken stores a token; ErrConflict if the name is taken.
	CreateOperatorToken(ctx context.Context, name string, hash Hash, now time.Time) error
	// OperatorToken finds a token by hash and notes that it was used (batched); ErrTokenInvalid if there is none.
	OperatorToken(ctx context.Context, hash Hash, now time.Time) (OperatorToken, error)
	OperatorTokens(ctx context.Context) ([]OperatorToken, error)
	DeleteOperatorToken(ctx context.Context, name string) error
}

// OperatorToken as listed.
type OperatorToken struct {
	Name      string
	CreatedAt time.Time
	LastUsed  *time.Time
}

// Commands with their stages and output.
type Commands interface {
	// CreateCommand stores c and its first stages. If c has an idempotency key
	// that its agent has seen before, the first one's command is returned and created is false.
	// The error is ErrNotFound, ErrRemoved or ErrQuarantined of its agent, or ErrConflict if
	// its id is taken.
	CreateCommand(ctx context.Context, c Command, first ...Stage) (stored Command, created bool, err error)
	Command(ctx context.Context, id string) (Command, error)
	// FindCommands gives the id that is ref, else up to [MaxFound] of those that
	// begin so, if ref has [MinPrefix] bytes; else, where [IsEnding], of those that end so
	// among the newest [EndingsAmong].
	FindCommands(ctx context.Context, ref string) (ids []string, err error)
	// Commands lists newest first.
	Commands(ctx context.Context, f CommandFilter) ([]Command, error)
	// ActiveCommands lists an agent's commands that have not ended, oldest first, without their scripts.
	ActiveCommands(ctx context.Context, agent string) ([]Command, error)
	// ActiveAgents lists the agents that have such commands.
	ActiveAgents(ctx context.Context) ([]string, error)
	// SaveCommand writes what can change of c (state, reason, attempts, channel,
	// acked, ended, exit code, lost bytes, cancel, owner) together with stages, if c.Rev
	// is still what is stored, and gives the new Rev; else ErrConflict.
	SaveCommand(ctx context.Context, c Command, stages ...Stage) (rev int64, err error)
	// AddStages adds stages of one command. One that is known (same stage, attempt, end,
	// channel and note) is not told twice. Beyond what a trace may have all of them are
	// dropped, and a note in their place says so.
	AddStages(ctx context.Context, stages ...Stage) error
	// Stages lists those of a command with Seq above after, in order of arrival.
	Stages(ctx context.Context, command string, after int64) ([]Stage, error)
	// Traced lists an agent's commands that were given since then, the newest first, each with
	// its stages and the first [ScriptHead] letters of its script; limit as in CommandFilter.
	Traced(ctx context.Context, agent string, since time.Time, limit int) ([]Traced, error)
	// AddOutput merges a piece: bytes that are held already stay as they are.
	// have is how many bytes are held without a gap from offset 0.
	AddOutput(ctx context.Context, command string, stream wire.Stream, offset int64, data []byte) (have int64, err error)
	// ReadOutput gives up to max bytes from offset on, as far as they are held without a gap from offset 0.
	ReadOutput(ctx context.Context, command string, stream wire.Stream, offset, max int64) ([]byte, error)
	// LastResult is when a result of this agent was last stored; nil: never.
	LastResult(ctx context.Context, agent string) (*time.Time, error)
}

// Command as stored: what the operator sees and what delivery needs beside it.
// StdoutBytes and StderrBytes follow from AddOutput, AgentName from the agent.
type Command struct {
	operator.Command
	MaxOutput      int64 // bytes a stream
	IdempotencyKey string
	CancelAt       *time.Time // when its end was asked for
	CancelBy       string
	// Owner is the node of a cluster that holds its claim; "": none does, or there is no cluster.
	Owner string
	// Rev counts changes; see SaveCommand.
	Rev int64
}

// CommandFilter narrows a list. Zero fields do not.
type CommandFilter struct {
	Agent string // id
	State wire.State
	Limit int // default 50, at most MaxList
}

// MaxList bounds any list by limit.
const MaxList = 500

// Stage is one entry of a command's trace.
type Stage struct {
	Command string
	Seq     int64 // its place in the command's trace, from 1
	operator.TraceEntry
}

// Traced is a command and its stages in order of arrival.
type Traced struct {
	Command
	Stages []Stage
}

// ScriptHead is how much of a script is listed with its trace.
const ScriptHead = 200

// Directives wait for an agent's guardian; what became of them is kept.
type Directives interface {
	// CreateDirective stores d. Per agent the newest KeepDirectives of those that have
	// ended or expired stay.
	CreateDirective(ctx context.Context, d wire.Directive, by string, now time.Time) error
	// PendingDirectives lists, oldest first, those that have not expired and not been
	// answered, and were not delivered later than unheard: what was written to a
	// connection may still have been lost.
	PendingDirectives(ctx context.Context, agent string, now, unheard time.Time) ([]wire.Directive, error)
	// DirectivesDelivered notes when each was last written to the agent.
	DirectivesDelivered(ctx context.Context, ids []string, at time.Time) error
	// AnswerDirective records what agent says of one of its directives. One that has
	// ended stays as it is: changed is false. ErrNotFound if agent has none of this id.
	AnswerDirective(ctx context.Context, agent string, a DirectiveAnswer) (changed bool, err error)
	// WithdrawDirective ends one that was never delivered (ID, State, At, Detail);
	// ErrConflict if it was, or has ended.
	WithdrawDirective(ctx context.Context, a DirectiveAnswer) error
	// Directive gives one with its report.
	Directive(ctx context.Context, id string) (operator.Directive, error)
	// FindDirectives gives ids as FindCommands does.
	FindDirectives(ctx context.Context, ref string) (ids []string, err error)
	// Directives lists those of an agent without their reports, newest first; limit as in CommandFilter.
	Directives(ctx context.Context, agent string, limit int) ([]operator.Directive, error)
}

// DirectiveAnswer is an agent's word on a directive.
type DirectiveAnswer struct {
	ID     string
	State  wire.DirectiveState
	At     time.Time
	Code   wire.Code // of a refusal
	Detail string
	Report []byte // JSON; nil: none
}

// KeepDirectives is how many directives of each agent stay that have ended or expired.
const KeepDirectives = 200

// Beacons as received.
type Beacons interface {
	// SaveBeacon stores b once: added is false for a report id that is known.
	// Per agent the newest KeepBeacons stay.
	SaveBeacon(ctx context.Context, b operator.Beacon) (added bool, err error)
	// Beacons lists newest first, of all agents if agent is empty; limit as in CommandFilter.
	Beacons(ctx context.Context, agent string, limit int) ([]operator.Beacon, error)
}

// KeepBeacons is how many beacons of each agent stay: at one in 30 s, four hours of an ill endpoint.
const KeepBeacons = 500

// Builds are the released programs; see package builds for their bytes.
type Builds interface {
	// CreateBuild records b. created is false if it is there already; ErrConflict if
	// another program is published for its version and platform.
	CreateBuild(ctx context.Context, b operator.Build) (created bool, err error)
	// Builds lists all by version and platform.
	Builds(ctx context.Context) ([]operator.Build, error)
	// DeleteBuilds forgets those of a version; ErrNotFound if there are none.
	DeleteBuilds(ctx context.Context, version string) error
}

// Bundles are what endpoints have sent for support; see package bundles for their bytes.
type Bundles interface {
	// CreateBundle records b, of which nothing is held yet. ErrConflict if the id is
	// known, ErrNotFound if the agent is not, ErrNoRoom if all bundles would then
	// have more than room bytes.
	CreateBundle(ctx context.Context, b operator.Bundle, room int64) error
	// SaveBundle writes what can change of b: Held and CompletedAt.
	SaveBundle(ctx context.Context, b operator.Bundle) error
	Bundle(ctx context.Context, id string) (operator.Bundle, error)
	// Bundles lists those of an agent, or of all (""), the newest first.
	Bundles(ctx context.Context, agent string) ([]operator.Bundle, error)
	DeleteBundle(ctx context.Context, id string) error
}

// Rollouts of versions.
type Rollouts interface {
	// CreateRollout stores r and the parts of its endpoints.
	CreateRollout(ctx context.Context, r Rollout, members []operator.RolloutAgent) error
	// SaveRollout writes what can change of r, together with changed parts, if r.Rev is
	// still what is stored; else ErrConflict. What is stored has the Rev after it.
	SaveRollout(ctx context.Context, r Rollout, changed ...operator.RolloutAgent) error
	Rollout(ctx context.Context, id string) (Rollout, error)
	// Rollouts lists newest first; limit as in CommandFilter.
	Rollouts(ctx context.Context, limit int) ([]Rollout, error)
	// OpenRollouts lists those that are not done, oldest first.
	OpenRollouts(ctx context.Context) ([]Rollout, error)
	// FindRollouts gives ids as FindCommands does.
	FindRollouts(ctx context.Context, ref string) (ids []string, err error)
	// RolloutAgents lists the parts of a rollout's endpoints by ring and name.
	RolloutAgents(ctx context.Context, id string) ([]operator.RolloutAgent, error)
}

// Rollout as stored; its plan is complete.
type Rollout struct {
	ID        string
	Version   string
	Plan      operator.RolloutPlan
	State     string
	Reason    string
	Ring      int
	SoakSince *time.Time // the ring is through since then
	ResumedAt *time.Time // the last time
	CreatedBy string
	CreatedAt time.Time
	EndedAt   *time.Time
	Rev       int64 // counts changes; at first 1
}
