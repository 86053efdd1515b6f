// Package link is one WebSocket session of the endpoint, from dial to end.
//
// Rules that hold here:
//   - each attempt asks the resolver afresh and tries address by address, each
//     step with a deadline of its own;
//   - one reader, which hands texts on and never runs a handler; one writer
//     (package session); one tap that sees every byte both ways;
//   - the dead deadline and the verify deadline are kept by a goroutine that
//     neither reads nor writes, so that it can't hang with what it watches;
//   - plain ws:// goes to loopback only.
package link
