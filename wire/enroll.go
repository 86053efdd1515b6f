package wire

import "time"

// EnrollRequest trades an enrollment token for an identity (POST /v1/enroll).
type EnrollRequest struct {
	Token     string   `json:"token"`
	PublicKey []byte   `json:"public_key"` // Ed25519, 32 bytes
	Presence  Presence `json:"presence"`
}

// EnrollResponse is the identity's public half and where its doors are.
type EnrollResponse struct {
	Agent       string    `json:"agent"`
	Server      string    `json:"server"`       // server id, the JWT's audience
	CommandKeys [][]byte  `json:"command_keys"` // Ed25519, trusted for commands
	LinkURLs    []string  `json:"link_urls"`    // wss://host:port/v1/link
	OOB         []OOBDoor `json:"oob"`
	Policy      Envelope  `json:"policy"` // a signed config_update
	ServerTime  time.Time `json:"server_time"`
	// ReleaseKeys are minisign public keys ("RW…") that updates must be signed
	// with. They are taken at enrollment only; without one no update is accepted.
	ReleaseKeys []string `json:"release_keys,omitempty"`
}

// OOBDoor is one endpoint of the out-of-band channel.
type OOBDoor struct {
	URL string `json:"url"` // https://host:port, without a path
	// Pin is the SHA-256 of the certificate's SubjectPublicKeyInfo, base64, as
	// "sha256/…" (RFC 7469 §2.4). Empty: system roots decide.
	Pin string `json:"pin,omitempty"`
}

// Problem is the body of every 4xx and 5xx answer (RFC 9457,
// application/problem+json).
type Problem struct {
	Type   string `json:"type"` // "urn:gururmm:problem:<code>"
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"` // stable, to branch on
}

// NewProblem fills in what follows from code.
func NewProblem(status int, title, code, detail string) Problem {
	return Problem{Type: "urn:gururmm:problem:" + code, Title: title, Status: status, Detail: detail, Code: code}
}

func (p Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail // a whole sentence; the title only says the status once more
}

// Problem codes that endpoints and tools branch on.
const (
	ProblemUnauthorized = "unauthorized"  // 401: unknown agent, bad signature, replayed token
	ProblemClock        = "clock_skew"    // 401: the token's times do not fit; correct by HeaderTime and retry
	ProblemToken        = "token_invalid" // 403: enrollment token unknown, spent or expired
	ProblemBadRequest   = "bad_request"
	ProblemTooLarge     = "too_large"
	ProblemNotFound     = "not_found"
	ProblemConflict     = "conflict"
	ProblemAmbiguous    = "ambiguous" // 409: a name or the beginning of an id fits several
	ProblemDraining     = "draining"  // 503
	ProblemRateLimited  = "rate_limited"
	ProblemTooFast      = "too_fast"    // 429: more in a second than one agent or operator token may; Retry-After says when
	ProblemBusy         = "busy"        // 503: too many at once; Retry-After is a turn of one's own
	ProblemRemoved      = "removed"     // 401 to the agent, 410 to an operator: an operator removed the agent
	ProblemQuarantined  = "quarantined" // 403 to the agent, 409 to an operator
	ProblemDiskFull     = "disk_full"   // 507: nothing was stored; repeat once there is space
	ProblemDatabase     = "database"    // 503: the server's database can't be reached; repeat soon
	ProblemInternal     = "internal"
)

// PollRequest is the body of POST /v1/oob/poll.
type PollRequest struct {
	Instance string `json:"instance"`
	// WaitMS: hold the answer up to so long until there is something. 0: answer at once.
	WaitMS int64 `json:"wait_ms"`
	// Deliver: hand out commands (OOB delivery is on). Otherwise only directives.
	Deliver bool `json:"deliver"`
	// Upstream are agent → server messages: acks, nacks, output, results.
	Upstream []Envelope `json:"upstream,omitempty"`
}

// PollResponse answers beacons and polls alike.
type PollResponse struct {
	// Downstream are signed messages for the agent: commands, probes, cancels,
	// directives, and unsigned result_acks.
	Downstream []Envelope  `json:"downstream,omitempty"`
	View       *ServerView `json:"view,omitempty"`
	ServerTime time.Time   `json:"server_time"`
}

// ServerView is what the server sees of an agent: held beside the beacon, it
// tells "network" from "agent" from "server" with no packet capture.
type ServerView struct {
	Presence   string     `json:"presence"`
	Links      []LinkView `json:"links"`
	Owed       int        `json:"owed"` // commands not acknowledged
	OldestOwed *int64     `json:"oldest_owed_ms,omitempty"`
	LastResult *time.Time `json:"last_result,omitempty"`
}

// KeptBack is for how long a text that the network would take is kept back by a server that stands
// still: a write takes less, on a machine that runs at all.
const KeptBack = time.Second

// LinkView is one link as the server sees it.
type LinkView struct {
	Link       LinkID `json:"link"`
	Instance   string `json:"instance"`
	Generation uint64 `json:"generation"`
	State      string `json:"state"` // connecting, verified, degraded
	Written    uint64 `json:"written"`
	Read       uint64 `json:"read"`
	// Queued counts messages taken for this link and not yet written. HeldMS is for how long the
	// server has kept a text back that it could have written; absent: it keeps none, or the network
	// holds it up, or the server does not tell.
	Queued  int    `json:"queued"`
	HeldMS  *int64 `json:"held_ms,omitempty"`
	Verdict string `json:"verdict,omitempty"`
	// PeerRead is how many the agent last said it has read; absent: it never said.
	PeerRead *uint64 `json:"peer_read,omitempty"`
	AgeMS    int64   `json:"age_ms"`
	// PongAgeMS is since the agent's last pong to a ping of the server, PingPendingMS since the
	// oldest ping that awaits one; absent: none has come yet, or it is not known here.
	PongAgeMS     *int64 `json:"pong_age_ms,omitempty"`
	PingPendingMS *int64 `json:"ping_pending_ms,omitempty"`
	// Node has the link, if it is another one than the node that answers; its counts are
	// those of when that node last told of it.
	Node string `json:"node,omitempty"`
}

// Kept is for how long the server keeps a text back; 0: for less than [KeptBack], or not known.
func (l LinkView) Kept() time.Duration {
	if l.HeldMS == nil || time.Duration(*l.HeldMS)*time.Millisecond < KeptBack {
		return 0
	}
	return time.Duration(*l.HeldMS) * time.Millisecond
}
