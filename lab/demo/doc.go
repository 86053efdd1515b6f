// Package demo shows the main job on real processes: a command is run, the path
// from server to agent goes deaf for text, and the next command arrives anyway.
//
// Rules that hold here:
//   - what is told is read from the server's API, the recorded beacons and the
//     agent's status; nothing is asserted that was not seen;
//   - one report, two renderings: the timeline as it happens, and JSON;
//   - all held, or the report says which claim did not.
package demo
