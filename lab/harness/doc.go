// Package harness runs a whole system on this machine for tests and the demo: a
// server, a proxy on the path, and agents, each a real process with its state
// in one directory.
//
// Rules that hold here:
//   - the operator's client talks to the server directly; agents reach it
//     through the proxy alone, by both doors (a test may put another one before the server);
//   - a process is ended by the ids this package started or found below them,
//     never by name;
//   - facts come from the server's API and the agents' status, never from logs.
package harness
