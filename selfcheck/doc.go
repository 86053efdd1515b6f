// Package selfcheck turns facts into a verdict, and verdicts into the next
// step. It is pure: no network, no disk, and the clock is given. Each end of a
// link uses the same arithmetic; the endpoint's guardian also uses the table of
// verdicts and the ladder of steps.
//
// Rules that hold here:
//   - standard library and wire only;
//   - an unknown fact is a nil pointer or the zero value, and never reads as healthy;
//   - silence alone is never a fault: an idle agent is normal;
//   - a suspicion says so, and becomes proof only after its grace.
package selfcheck
