// Package diagnosis ranks what may have lost a command, and names the next test. It is
// pure: facts in, answer out; no network, no disk, no clock.
//
// Rules that hold here:
//   - what ledgers, stages and verdicts prove is said first, as proven; only what that
//     leaves is ranked;
//   - what is not known changes nothing: unknown is neither yes nor no;
//   - no figure without its derivation: each can be worked out by hand from the tables;
//   - an observation weighs no more than its grade is believed;
//   - that none of the known mechanisms is the one is always in the ranking.
//
// The tables are observations.go, hypotheses_*.go, proofs.go and tests.go; docs/diagnosis.md
// is written from them.
package diagnosis

//go:generate go test -run TestThePageIsWrittenFromTheTables -update .
