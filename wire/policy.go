package wire

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Policy is what the server sets for an endpoint. Zero fields take the
// defaults of [DefaultPolicy]; see [Policy.WithDefaults].
type Policy struct {
	Version int64 `json:"version"`

	HeartbeatMS int64 `json:"heartbeat_ms,omitempty"`
	MetricsMS   int64 `json:"metrics_ms,omitempty"`
	PingMS      int64 `json:"ping_ms,omitempty"`
	DeadMS      int64 `json:"dead_ms,omitempty"`
	VerifyMS    int64 `json:"verify_ms,omitempty"`

	BeaconWellMS int64 `json:"beacon_well_ms,omitempty"`
	BeaconIllMS  int64 `json:"beacon_ill_ms,omitempty"`
	PollMS       int64 `json:"poll_ms,omitempty"`

	BackoffMinMS int64 `json:"backoff_min_ms,omitempty"`
	BackoffMaxMS int64 `json:"backoff_max_ms,omitempty"`
	StableMS     int64 `json:"stable_ms,omitempty"`
	RetryLinkMS  int64 `json:"retry_link_ms,omitempty"`

	ReconnectsPerHour int `json:"reconnects_per_hour,omitempty"`
	RestartsPerHour   int `json:"restarts_per_hour,omitempty"`
	MaxJobs           int `json:"max_jobs,omitempty"`

	// LinkURLs are the link's endpoints in order of preference; empty: as enrolled.
	LinkURLs []string `json:"link_urls,omitempty"`
	// OOB are second doors in order of preference, tried before those that the endpoint
	// enrolled with, which stay; empty: those alone.
	OOB []OOBDoor `json:"oob,omitempty"`
	// HoldRecovery switches forced reconnects and restarts off (the server saw a
	// fleet-wide verdict). Beacons and OOB delivery go on.
	HoldRecovery bool `json:"hold_recovery,omitempty"`
	// SpreadRecoveryMS has each forced step wait for a time drawn from it (the server saw a
	// fleet-wide verdict); 0: it is taken at once.
	SpreadRecoveryMS int64 `json:"spread_recovery_ms,omitempty"`
	// NoBundles: the endpoint makes no support bundle by itself; it still does when ordered.
	NoBundles bool `json:"no_bundles,omitempty"`
}

// DefaultPolicy is in force before and where the server says nothing. The
// reasons stand beside the values.
func DefaultPolicy() Policy {
	return Policy{
		HeartbeatMS: 60_000, // text both ways well inside the dead window
		MetricsMS:   60_000, // what dashboards resolve
		PingMS:      30_000, // under the 60 s idle limit of common proxies
		DeadMS:      90_000, // three pings lost, not one
		VerifyMS:    20_000, // two round trips and three probes on a bad satellite link

		BeaconWellMS: 900_000, // proof of life by the second door, 96 a day
		BeaconIllMS:  30_000,  // an operator waits
		PollMS:       25_000,  // long poll: under a 30 s proxy timeout

		BackoffMinMS: 1_000,   // first retry
		BackoffMaxMS: 300_000, // a server down for hours sees 1 attempt per agent per 2.5 min on average
		StableMS:     60_000,  // a link must have held this long after a text round trip before back-off resets
		RetryLinkMS:  15_000,  // how often a link is tried again in OOB delivery (doubles up to BackoffMax)

		ReconnectsPerHour: 6, // per verdict
		RestartsPerHour:   3,
		MaxJobs:           8,
	}
}

// WithDefaults fills zero fields of p from [DefaultPolicy].
func (p Policy) WithDefaults() Policy {
	d := DefaultPolicy()
	fill := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	fill(&p.HeartbeatMS, d.HeartbeatMS)
	fill(&p.MetricsMS, d.MetricsMS)
	fill(&p.PingMS, d.PingMS)
	fill(&p.DeadMS, d.DeadMS)
	fill(&p.VerifyMS, d.VerifyMS)
	fill(&p.BeaconWellMS, d.BeaconWellMS)
	fill(&p.BeaconIllMS, d.BeaconIllMS)
	fill(&p.PollMS, d.PollMS)
	fill(&p.BackoffMinMS, d.BackoffMinMS)
	fill(&p.BackoffMaxMS, d.BackoffMaxMS)
	fill(&p.StableMS, d.StableMS)
	fill(&p.RetryLinkMS, d.RetryLinkMS)
	if p.ReconnectsPerHour == 0 {
		p.ReconnectsPerHour = d.ReconnectsPerHour
	}
	if p.RestartsPerHour == 0 {
		p.RestartsPerHour = d.RestartsPerHour
	}
	if p.MaxJobs == 0 {
		p.MaxJobs = d.MaxJobs
	}
	return p
}

// Validate refuses a policy that would cut the endpoint off: the error names
// the field. Call it on what [Policy.WithDefaults] returned.
func (p Policy) Validate() error {
	for _, f := range []struct {
		name     string
		got      int64
		min, max time.Duration
	}{
		{"heartbeat_ms", p.HeartbeatMS, 100 * time.Millisecond, time.Hour},
		{"metrics_ms", p.MetricsMS, 100 * time.Millisecond, 24 * time.Hour},
		{"ping_ms", p.PingMS, 100 * time.Millisecond, 10 * time.Minute},
		{"dead_ms", p.DeadMS, 500 * time.Millisecond, time.Hour},
		{"verify_ms", p.VerifyMS, 500 * time.Millisecond, 10 * time.Minute},
		{"beacon_well_ms", p.BeaconWellMS, 200 * time.Millisecond, 24 * time.Hour},
		{"beacon_ill_ms", p.BeaconIllMS, 200 * time.Millisecond, time.Hour},
		{"poll_ms", p.PollMS, 200 * time.Millisecond, 5 * time.Minute},
		{"backoff_min_ms", p.BackoffMinMS, 10 * time.Millisecond, time.Minute},
		{"backoff_max_ms", p.BackoffMaxMS, 10 * time.Millisecond, time.Hour},
		{"stable_ms", p.StableMS, 100 * time.Millisecond, time.Hour},
		{"retry_link_ms", p.RetryLinkMS, 100 * time.Millisecond, time.Hour},
	} {
		if d := time.Duration(f.got) * time.Millisecond; d < f.min || d > f.max {
			return fmt.Errorf("policy %s is %v, allowed are %v to %v", f.name, d, f.min, f.max)
		}
	}
	if p.SpreadRecoveryMS < 0 || p.SpreadRecoveryMS > maxSpread.Milliseconds() {
		return fmt.Errorf("policy spread_recovery_ms is %d, allowed are 0 to %d", p.SpreadRecoveryMS, maxSpread.Milliseconds())
	}
	if p.DeadMS <= p.PingMS {
		return fmt.Errorf("policy dead_ms (%d) must exceed ping_ms (%d): each idle link would be cut", p.DeadMS, p.PingMS)
	}
	if p.BackoffMaxMS < p.BackoffMinMS {
		return fmt.Errorf("policy backoff_max_ms (%d) is below backoff_min_ms (%d)", p.BackoffMaxMS, p.BackoffMinMS)
	}
	for _, raw := range p.LinkURLs {
		if err := checkLinkURL(raw); err != nil {
			return fmt.Errorf("policy link_urls: %w", err)
		}
	}
	if len(p.OOB) > maxDoors {
		return fmt.Errorf("policy oob: at most %d doors", maxDoors)
	}
	for _, d := range p.OOB {
		if err := checkDoor(d); err != nil {
			return fmt.Errorf("policy oob: %w", err)
		}
	}
	if p.ReconnectsPerHour < 0 || p.RestartsPerHour < 0 || p.MaxJobs < 1 || p.MaxJobs > 1024 {
		return fmt.Errorf("policy budgets must not be negative, max_jobs is 1 to 1024")
	}
	return nil
}

// maxSpread bounds for how long an endpoint may be kept from a step that it needs.
const maxSpread = 10 * time.Minute

// maxDoors bounds the second doors of a policy: each is tried in turn, 2.5 s each.
const maxDoors = 8

// maxDoorURL bounds a door's URL in bytes.
const maxDoorURL = 2048

// checkDoor wants https://host[:port], and a pin in its form if there is one.
func checkDoor(d OOBDoor) error {
	if len(d.URL) > maxDoorURL {
		return fmt.Errorf("a URL is at most %d bytes", maxDoorURL)
	}
	u, err := url.Parse(d.URL)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" || u.Hostname() == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q must be https://host:port", d.URL)
	case d.Pin == "":
		return nil
	}
	b64, ok := strings.CutPrefix(d.Pin, "sha256/")
	sum, err := base64.StdEncoding.Strict().DecodeString(b64)
	if !ok || err != nil || len(sum) != sha256.Size || base64.StdEncoding.EncodeToString(sum) != b64 { // a decoder passes over line breaks
		return fmt.Errorf("%q is not a pin: want sha256/ and 32 bytes in base64", d.Pin)
	}
	return nil
}

// checkLinkURL wants wss://host[:port]/…, or ws:// to a loopback address.
func checkLinkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	switch {
	case u.Hostname() == "" || u.User != nil:
		return fmt.Errorf("%q must be wss://host:port/path", raw)
	case u.Scheme == "wss", u.Scheme == "ws" && loopback:
		return nil
	}
	return fmt.Errorf("%q must begin with wss:// (ws:// only to a loopback address)", raw)
}
