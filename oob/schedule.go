package oob

import (
	"math/rand/v2"
	"time"

	"gururmm/selfcheck"
	"gururmm/wire"
)

// Schedule gives the time of the next beacon after one sent (or tried) at last:
// the policy's interval for the severity, ±10 % so that a fleet does not report
// in step, and not before floor, the time until which the server asked to be left
// alone (zero: it did not). Only "well" takes the long interval: what is not known is not well.
//
// It draws anew at each call: call it once for each beacon sent, and again when
// the severity changes. A nil rng means the process-wide source.
func Schedule(last time.Time, severity selfcheck.Severity, policy wire.Policy, floor time.Time, rng *rand.Rand) time.Time {
	p := policy.WithDefaults()
	ms := p.BeaconIllMS
	if severity == selfcheck.SeverityWell {
		ms = p.BeaconWellMS
	}
	interval := time.Duration(ms) * time.Millisecond
	span := max(int64(interval)/5, 0) // a tenth to either side
	var jitter int64
	if rng == nil {
		jitter = rand.Int64N(span + 1)
	} else {
		jitter = rng.Int64N(span + 1)
	}
	next := last.Add(interval - time.Duration(span/2) + time.Duration(jitter))
	if next.Before(floor) {
		return floor
	}
	return next
}
