// Package worker is the guardian's child: it holds the link, runs the jobs and
// reports facts up its pipe. It judges nothing.
//
// Rules that hold here:
//   - commands of either door take one path: read, decode, verify, journal, ack, run;
//   - whatever is refused is refused with a code, counted and logged;
//   - no loop waits for another without a deadline; the monitor, which waits for
//     none, leaves each a token, and one that is not taken names the stalled loop;
//   - when the guardian is gone (end of input, or it reads no more) so is the worker.
package worker
