// Package proxy is a box on the path that breaks exactly one thing: it ends the
// link's TLS, reads WebSocket frames and lets through, in each direction, what
// the fault in force there leaves over. Faults are switched while links are up.
//
// Rules that hold here:
//   - without a fault every frame passes unchanged, byte for byte, at once;
//   - the HTTP exchange that opens a link always passes: faults act on frames;
//   - a fault acts on whole messages; one that was already passing goes on to its end;
//   - counting faults ("every 3rd") count on each connection by itself, from the
//     moment the fault was set or the connection opened, whichever was later;
//   - the second door is passed through as plain TCP, so that its pin still holds.
package proxy
