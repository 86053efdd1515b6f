// Package replay runs a model of the agent and the server that the project's first case
// describes, in virtual time, under each mechanism that may have lost its commands, makes
// the case's tests in each run, and tells which of them come out as they did there.
//
// Rules that hold here:
//   - the model does what the case says of the programs, and where it is silent both
//     readings run, as two rows;
//   - a loop that awaits its handler awaits it here: its deadline is looked at between turns;
//   - what a test shows is measured in the run, never taken from the mechanism's name;
//   - a test that a healthy system would pass in the same way speaks for nothing.
package replay
