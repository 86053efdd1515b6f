// Package wire is everything that crosses the link between an endpoint and the
// server: message types, the envelope, signatures and the ledger.
//
// Rules that hold here:
//   - standard library only, no I/O, no clock of its own;
//   - every size is bounded before anything is parsed ([MaxMessage]);
//   - whatever is signed is checked over its raw bytes before it is decoded;
//   - an absent ledger is "unknown", never zero.
//
// The prose of the protocol is docs/protocol.md.
package wire
